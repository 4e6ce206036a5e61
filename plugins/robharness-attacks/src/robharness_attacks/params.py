"""What every attack may be told: frozen records, checked when a suite is read; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from robharness import Budget

Norm = Literal["linf", "l2", "l1"]
Objective = Literal["excess", "cross-entropy", "margin", "dlr"]
Target = Literal["none", "least-likely", "random"] | Annotated[int, Ge(0)]
Component = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
Size = Annotated[Budget, Gt(0)]
Share = Annotated[Budget, Ge(0), Lt(1)]
Part = Annotated[Budget, Gt(0), Lt(1)]
Count = Annotated[int, Gt(0)]
Targets = Annotated[int, Ge(0)]

TRAVEL = "2.5"
"""How many eps all steps together go by default, the field's convention since Madry et al."""

SPARSITY = Budget("0.99")
"""The share of pixels that an l1 step leaves alone: Foolbox's quantile; Tramer and Boneh's is a choice per data set."""

_SHOWN = {"shown": True}


@dataclass(frozen=True, kw_only=True)
class FGSMParams:
    """What FGSM may be told.

    norm: of the ball; the step goes to its edge, along the gradient's sign (linf) or the gradient itself (l2).
    objective: what the gradient is of. target: the class to reach instead of any wrong one: the least likely one, one
    drawn for the example, the same in all attacks, or a given number; examples of that class stay as they are.
    """

    norm: Literal["linf", "l2"] = "linf"
    objective: Objective = "excess"
    target: Target = "none"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What all attacks share that take projected steps.

    norm: of the ball. steps: per restart. rel_step: the step over eps, by default 2.5 / steps. abs_step: the step
    itself. restarts: how many starts are tried. random_start: begin uniformly in the ball, or else at the input.
    keep: "best", the strongest iterate, examples that are clearly fooled leave early; or "last", the final iterate.
    sparsity: under l1, the share of pixels that a step leaves alone (Tramer and Boneh, 2019): it moves those with the
    largest gradients that the box does not block, at least one.
    Raises ValueError where two options contradict each other.
    """

    norm: Norm = "linf"
    steps: Count = field(default=10, metadata=_SHOWN)
    rel_step: Size | None = None
    abs_step: Size | None = None
    restarts: Count = 1
    keep: Literal["best", "last"] = "best"
    random_start: bool = True
    sparsity: Share = SPARSITY

    def __post_init__(self) -> None:
        if self.rel_step is not None and self.abs_step is not None:
            raise ValueError("rel_step (a share of eps) and abs_step (the step itself) are both given; leave out one")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts is above 1 and random_start is false, so all would be alike; change one")
        if self.sparsity != SPARSITY and (self.norm != "l1" or isinstance(self, DensePGDParams)):
            raise ValueError("sparsity is of l1 steps that move few pixels; leave it out")
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


@dataclass(frozen=True, kw_only=True)
class PGDParams(Steps):
    """What PGD may be told, beside its steps.

    objective, target: as for FGSM.
    """

    objective: Objective = "excess"
    target: Target = "none"


@dataclass(frozen=True, kw_only=True)
class DensePGDParams(PGDParams):
    """What `pgd-dense` may be told: as PGD. The steps move all pixels, along the gradient, and a step that leaves the
    ball is scaled back, as Foolbox's L1PGD does: not a projection in l1, and a weak attack."""

    norm: Literal["l1"] = "l1"


@dataclass(frozen=True, kw_only=True)
class APGDParams:
    """What Auto-PGD (Croce and Hein, 2020; l1: 2021) may be told.

    norm: of the ball. steps: per run. restarts: runs. objective: what is climbed. targets: 0 for any wrong class, or so
    many of the most likely wrong ones, one run each. draws: gradients that are averaged per step, for networks that
    draw random numbers; cross-entropy is then the real one. rho: the step is halved where fewer steps than that
    improved. larger_eps: begin with three and two times eps, as the authors do under l1.
    """

    norm: Norm = "linf"
    steps: Count = field(default=100, metadata=_SHOWN)
    restarts: Count = 1
    objective: Objective = "excess"
    targets: Targets = 0
    draws: Count = 1
    rho: Part = Budget("0.75")
    larger_eps: bool = False


@dataclass(frozen=True, kw_only=True)
class FABParams:
    """What FAB (Croce and Hein, 2020) may be told.

    norm: whose length is made small. steps: per run. restarts: runs, all but the first from a random point. targets: so
    many of the most likely wrong classes, one run each; 0 looks at all classes in every step, at a gradient for each.
    alpha_max, eta, beta: greatest pull to the input, overshoot, and step back once the boundary is crossed.
    """

    norm: Norm = "linf"
    steps: Count = field(default=100, metadata=_SHOWN)
    restarts: Count = 1
    targets: Targets = 9
    alpha_max: Size = Budget("0.1")
    eta: Size = Budget("1.05")
    beta: Size = Budget("0.9")


@dataclass(frozen=True, kw_only=True)
class SquareParams:
    """What Square (Andriushchenko et al., 2020) may be told: it sees scores, never a gradient.

    norm: of the ball. queries: forward passes per run. restarts: runs. p_init: the share of pixels that the first
    square covers.
    """

    norm: Norm = "linf"
    queries: Count = field(default=5000, metadata=_SHOWN)
    restarts: Count = 1
    p_init: Part = Budget("0.8")


@dataclass(frozen=True, kw_only=True)
class DDNParams:
    """What DDN (Rony et al., 2019) may be told.

    steps: gradients. init: length of the first perturbation. gamma: by which share its length changes per step.
    """

    norm: Literal["l2"] = "l2"
    steps: Count = field(default=100, metadata=_SHOWN)
    init: Size = Budget(1)
    gamma: Share = Budget("0.05")


@dataclass(frozen=True, kw_only=True)
class FMNParams:
    """What FMN (Pintor et al., 2021) may be told.

    norm: whose length is made small. steps: gradients. step: the first step's length, which falls to a hundredth along
    a cosine. gamma: by which share the length changes at first; it falls to a thousandth.
    """

    norm: Norm = "linf"
    steps: Count = field(default=100, metadata=_SHOWN)
    step: Size = Budget(1)
    gamma: Share = Budget("0.05")


@dataclass(frozen=True, kw_only=True)
class AutoAttackParams:
    """What AutoAttack (Croce and Hein, 2020) may be told.

    norm: of the ball. version: which list of attacks, as published. members: a list of one's own instead.
    """

    norm: Norm = "linf"
    version: Literal["standard", "plus", "rand"] = "standard"
    members: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        if self.members and self.version != "standard":
            raise ValueError("version and members are both given; leave out one")
        if len(set(self.members)) != len(self.members):
            raise ValueError("members names an attack twice; leave out one")


@dataclass(frozen=True, kw_only=True)
class FeatureParams(Steps):
    """What attacks on a representation may be told, beside their steps.

    distance: what is made large: the angle between the features of the input and of what it becomes ("cosine"), their
    Euclidean distance ("l2"), or the instance-wise contrastive loss, in which the other inputs of a fixed block of 16
    are the negatives ("contrastive"; Kim et al., 2020). temperature: of that loss.
    """

    distance: Literal["cosine", "l2", "contrastive"] = "cosine"
    temperature: Size = Budget("0.5")
