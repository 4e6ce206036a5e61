"""Attacks that follow the gradient: FGSM (Goodfellow et al., 2015) and PGD (Madry et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from robharness import AttackSpec, Budget, Cost, ThreatModel, hookimpl

if TYPE_CHECKING:
    from robharness import Attack

Norm = Literal["linf", "l2"]
Size = Annotated[Budget, Gt(0)]
Count = Annotated[int, Gt(0)]

TRAVEL = "2.5"
"""How many eps all steps together go by default, the field's convention since Madry et al."""


@dataclass(frozen=True, kw_only=True)
class FGSMParams:
    """norm: of the ball; the step goes to its edge, along the gradient's sign (linf) or the gradient itself (l2)."""

    norm: Norm = "linf"


@dataclass(frozen=True, kw_only=True)
class PGDParams:
    """What PGD may be told.

    norm: of the ball. steps: per restart. rel_step: the step over eps, by default 2.5 / steps. abs_step: the step
    itself. restarts: how many starts are tried. random_start: begin uniformly in the ball, or else at the input.
    keep: "best", the strongest iterate, examples that are clearly fooled leave early; or "last", the final iterate.
    Raises ValueError where two options contradict each other.
    """

    norm: Norm = "linf"
    steps: Count = field(default=10, metadata={"shown": True})
    rel_step: Size | None = None
    abs_step: Size | None = None
    restarts: Count = 1
    keep: Literal["best", "last"] = "best"
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.rel_step is not None and self.abs_step is not None:
            raise ValueError("rel_step (a share of eps) and abs_step (the step itself) are both given; leave out one")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts is above 1 and random_start is false, so all would be alike; change one")
        if self.rel_step is None and self.abs_step is None:  # written out, since it is part of what is measured
            object.__setattr__(self, "rel_step", Budget(f"{TRAVEL}/{self.steps}"))

    @property
    def compares(self) -> bool:
        """Whether iterates are compared, which costs a forward pass for the final ones."""
        return self.keep == "best" or self.restarts > 1

    def step(self, eps: Fraction) -> Fraction:
        """The length of a step at this radius."""
        if self.abs_step is not None:
            return self.abs_step
        assert self.rel_step is not None
        return self.rel_step * eps


def _build_fgsm(params: FGSMParams) -> Attack:
    from robharness_attacks.gradient import FGSM

    return FGSM(params)


def _build_pgd(params: PGDParams) -> Attack:
    from robharness_attacks.gradient import PGD

    return PGD(params)


def _cost_of_pgd(params: PGDParams) -> Cost:
    """A random start makes every gradient its own; without one the first is that of the clean point."""
    shared = 0 if params.random_start else 1
    return Cost(
        forwards=params.restarts if params.compares else 0,
        gradients=params.steps * params.restarts - shared,
        shared_gradients=shared,
    )


def _advise_pgd(params: PGDParams, eps: Budget) -> list[str]:
    travel = params.steps * params.step(eps)
    if travel >= eps:
        return []
    named = "rel_step" if params.abs_step is None else "abs_step"
    return [
        f"{params.steps} steps of {float(params.step(eps)):.3g} go {float(travel / eps):.3g} eps far at most, so they "
        f"cannot reach the edge of the ball from the input; raise steps or {named}"
    ]


@hookimpl
def robharness_attacks() -> Iterator[AttackSpec]:
    yield AttackSpec(
        name="fgsm",
        summary="One step to the edge of the ball, along the gradient at the clean input (Goodfellow et al., 2015)",
        access="gradient",
        params=FGSMParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=lambda params: Cost(shared_gradients=1),
        build=_build_fgsm,
        randomness="none",
        notes={"zero_gradients": int},
    )
    yield AttackSpec(
        name="pgd",
        summary="Projected gradient ascent in small steps (Madry et al., 2018)",
        access="gradient",
        params=PGDParams,
        threat=lambda params: ThreatModel(norm=params.norm),
        cost=_cost_of_pgd,
        build=_build_pgd,
        advise=_advise_pgd,
        notes={"zero_gradients": int},
    )
