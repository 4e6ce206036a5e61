"""Attacks: FGSM, PGD, AutoAttack and its members, minimum-norm attacks, and attacks on features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from robharness import PROBE_NOTES, AttackSpec, AuditSpec, Budget, Cost, ThreatModel, hookimpl
from robharness_attacks.audits import audits
from robharness_attacks.params import (
    APGDParams,
    AutoAttackParams,
    DDNParams,
    DensePGDParams,
    FABParams,
    FeatureParams,
    FGSMParams,
    FMNParams,
    NoiseParams,
    PGDParams,
    ProbeParams,
    SquareParams,
    Steps,
)

if TYPE_CHECKING:
    from robharness import Attack


def _builder(module: str, name: str) -> Callable[[Any], Attack]:
    """Return a function that builds an attack from its params and imports the module only then, which imports torch."""

    def build(params: Any) -> Attack:
        attack: Attack = getattr(import_module(f"robharness_attacks.{module}"), name)(params)
        return attack

    return build


def _threat(params: Any) -> ThreatModel:
    return ThreatModel(norm=params.norm, targeted=getattr(params, "target", "none") != "none")


def _cost_of_steps(params: Steps) -> Cost:
    """Return the cost of projected steps. Without a random start, the first gradient is that of the clean input."""
    shared = 0 if params.random_start else 1
    return Cost(
        forwards=params.restarts if params.compares else 0,
        gradients=params.steps * params.restarts - shared,
        shared_gradients=shared,
    )


def _cost_of_features(params: FeatureParams) -> Cost:
    """Return the cost with a forward pass of the final iterate, whose distance is a note."""
    return replace(_cost_of_steps(params), forwards=params.restarts)


def _cost_of_apgd(params: APGDParams) -> Cost:
    return Cost(gradients=(params.steps + 1) * params.restarts * max(1, params.targets) * params.draws)


def _cost_of_fab(params: FABParams) -> Cost:
    """Return the cost. Without targets, a step takes the gradient of every class; this estimate assumes ten classes."""
    steps = params.steps * params.restarts * max(1, params.targets)
    return Cost(gradients=steps * (1 if params.targets else 10), forwards=steps)


def _cost_of_square(params: SquareParams) -> Cost:
    return Cost(forwards=(params.queries + 1) * params.restarts)


def _cost_of_autoattack(params: AutoAttackParams) -> Cost:
    """Return the cost of an example that withstands all members; a misclassified example leaves earlier."""
    from robharness_attacks.autoattack import parts

    cost_of = {APGDParams: _cost_of_apgd, FABParams: _cost_of_fab, SquareParams: _cost_of_square}
    costs = [cost_of[type(part)](part) for part in parts(params).values()]  # type: ignore[operator]
    return Cost(gradients=sum(cost.gradients for cost in costs), forwards=sum(cost.forwards for cost in costs))


def _advise_steps(params: Steps, eps: Budget | None) -> list[str]:
    if eps is None:
        return []
    travel = params.steps * params.step(eps)
    if travel >= eps:
        return []
    option = "rel_step" if params.abs_step is None else "abs_step"
    return [
        f"{params.steps} steps of {float(params.step(eps)):.3g} reach at most {float(travel / eps):.3g} eps, so they "
        f"cannot reach the edge of the ball from the input; raise steps or {option}"
    ]


def _advise_features(params: FeatureParams, eps: Budget | None) -> list[str]:
    if params.random_start or params.distance == "contrastive":
        return _advise_steps(params, eps)
    return ["the distance from the clean features has no gradient at the clean input; leave out random_start: false"]


def _spec(name: str, summary: str, params: type, builder: tuple[str, str], cost: Any, **more: Any) -> AttackSpec:
    common: Mapping[str, Any] = {"access": "gradient", "threat": _threat, "build": _builder(*builder)}
    return AttackSpec(name=name, summary=summary, params=params, cost=cost, **{**common, **more})


@hookimpl
def robharness_attacks() -> Iterator[AttackSpec]:
    zero_gradients = {"zero_gradients": int}
    yield _spec(
        "fgsm",
        "One step to the edge of the ball, along the gradient at the clean input (Goodfellow et al., 2015)",
        FGSMParams,
        ("gradient", "FGSM"),
        lambda params: Cost(shared_gradients=1),
        randomness="none",
        notes=zero_gradients,
        alarms=("zero_gradients",),
    )
    yield _spec(
        "pgd",
        "Projected gradient ascent in small steps (Madry et al., 2018; l1: Tramer and Boneh, 2019)",
        PGDParams,
        ("gradient", "PGD"),
        _cost_of_steps,
        advise=_advise_steps,
        notes=zero_gradients,
        alarms=("zero_gradients",),
    )
    yield _spec(
        "pgd-dense",
        "PGD in l1 with dense steps that are rescaled into the ball, as Foolbox's L1PGD; weak, for comparison only",
        DensePGDParams,
        ("gradient", "PGD"),
        _cost_of_steps,
        advise=_advise_steps,
        notes=zero_gradients,
        alarms=("zero_gradients",),
    )
    yield _spec(
        "apgd",
        "Auto-PGD: projected ascent with momentum and an adaptive step (Croce and Hein, 2020 and 2021)",
        APGDParams,
        ("autopgd", "APGD"),
        _cost_of_apgd,
        notes={"targets": int, "objective": str},
    )
    yield _spec(
        "fab",
        "Nearest misclassified point by linear approximations of the boundary (Croce and Hein, 2020)",
        FABParams,
        ("fab", "FAB"),
        _cost_of_fab,
        revision=2,
        minimal=True,
    )
    yield _spec(
        "square",
        "Random search with square windows; uses scores only (Andriushchenko et al., 2020)",
        SquareParams,
        ("square", "Square"),
        _cost_of_square,
        revision=2,
        access="scores",
        notes={"queries": int},
    )
    yield _spec(
        "noise",
        "Random noise of the given size, without the model: what an attack must beat",
        NoiseParams,
        ("noise", "Noise"),
        lambda params: Cost(),
        access="decision",
    )
    yield _spec(
        "probe",
        "Gradients and logits of an audited model at unchanged inputs, as notes",
        ProbeParams,
        ("probe", "Probe"),
        lambda params: Cost(forwards=8, gradients=2),
        notes=dict(PROBE_NOTES),
    )
    yield _spec(
        "ddn",
        "Nearest misclassified point in l2, on a sphere of adaptive radius (Rony et al., 2019)",
        DDNParams,
        ("minimal", "DDN"),
        lambda params: Cost(gradients=params.steps),
        randomness="none",
        minimal=True,
        notes={"found": bool},
    )
    yield _spec(
        "fmn",
        "Nearest misclassified point, in a ball of adaptive radius (Pintor et al., 2021)",
        FMNParams,
        ("minimal", "FMN"),
        lambda params: Cost(gradients=params.steps),
        randomness="none",
        minimal=True,
        notes={"found": bool},
    )
    yield _spec(
        "autoattack",
        "APGD, FAB and Square, each on the examples that withstood the earlier ones (Croce and Hein, 2020)",
        AutoAttackParams,
        ("autoattack", "members"),
        _cost_of_autoattack,
        revision=2,
        ensemble=True,
        notes={"targets": int, "objective": str, "queries": int},
    )
    yield _spec(
        "features",
        "PGD on features: away from the clean features, without labels or a probe",
        FeatureParams,
        ("features", "FeaturePGD"),
        _cost_of_features,
        access="features",
        blocks=lambda params: params.distance == "contrastive",
        advise=_advise_features,
        notes={"distance": float},
    )


@hookimpl
def robharness_audits() -> Iterator[AuditSpec]:
    yield from audits()
