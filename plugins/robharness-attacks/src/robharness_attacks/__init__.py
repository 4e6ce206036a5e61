"""Attacks: FGSM, PGD, AutoAttack, minimum-norm attacks, patches, rotations, attacks on features; and objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from math import isqrt
from typing import TYPE_CHECKING, Any

from robharness import PROBE_NOTES, AttackSpec, AuditSpec, Budget, ComponentSpec, Cost, ThreatModel, hookimpl
from robharness_attacks import components
from robharness_attacks.audits import audits
from robharness_attacks.minimal_params import DDNParams, FABParams, FMNParams, RaySParams, SigmaZeroParams
from robharness_attacks.params import (
    CANDIDATES,
    APGDParams,
    AutoAttackParams,
    DensePGDParams,
    FeatureParams,
    FGSMParams,
    NoiseParams,
    PatchParams,
    PGDParams,
    ProbeParams,
    SpatialParams,
    SquareParams,
    Steps,
    UniversalParams,
)
from robharness_attacks.threats import LATTICE, PATCH, rotation_translation

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
    """Return the cost of projected steps. The first gradient may be that of the clean input, which all attacks share.

    With input diversity, iterates that are compared need passes of their own.
    """
    shared = 1 if params.starts_clean else 0
    compared = params.steps * params.restarts if params.diversity and params.keep == "best" else 0
    return Cost(
        forwards=compared + (params.restarts if params.compares else 0),
        gradients=params.steps * params.restarts - shared,
        shared_gradients=shared,
    )


def _cost_of_features(params: FeatureParams) -> Cost:
    """Return the cost with a forward pass of the final iterate, whose distance is a note."""
    return replace(_cost_of_steps(params), forwards=params.restarts)


def _cost_of_apgd(params: APGDParams) -> Cost:
    runs = (params.steps + 1) * params.restarts * max(1, params.targets) * params.draws
    return Cost(gradients=runs + _gradients_of_order(params))


def _gradients_of_order(params: APGDParams | FABParams) -> int:
    """Return the gradients that estimate distances; with fewer classes there are fewer."""
    return max(params.targets, CANDIDATES) if params.targets and params.order == "near" else 0


def _cost_of_fab(params: FABParams) -> Cost:
    """Return the cost. Without targets, a step takes the gradient of every class; this estimate assumes ten classes."""
    steps = params.steps * params.restarts * max(1, params.targets)
    return Cost(gradients=steps * (1 if params.targets else 10) + _gradients_of_order(params), forwards=steps)


def _cost_of_square(params: SquareParams) -> Cost:
    return Cost(forwards=(params.queries + 1) * params.restarts)


def _cost_of_autoattack(params: AutoAttackParams) -> Cost:
    """Return the cost of an example that withstands all members; a misclassified example leaves earlier."""
    from robharness_attacks.autoattack import parts

    cost_of = {APGDParams: _cost_of_apgd, FABParams: _cost_of_fab, SquareParams: _cost_of_square}
    costs = [cost_of[type(part)](part) for part in parts(params).values()]  # type: ignore[operator]
    return Cost(gradients=sum(cost.gradients for cost in costs), forwards=sum(cost.forwards for cost in costs))


def _cost_of_patch(params: PatchParams) -> Cost:
    return Cost(
        gradients=params.steps * params.places,
        forwards=params.places,
        shared_gradients=1 if params.place == "gradient" else 0,
    )


def _cost_of_spatial(params: SpatialParams) -> Cost:
    """Return the cost. A grid with an odd number of angles and shifts holds the clean input, which is not tried."""
    if params.search == "random":
        return Cost(forwards=params.queries)
    return Cost(forwards=params.angles * params.shifts**2 - (params.angles % 2 and params.shifts % 2))


def _advise_patch(params: PatchParams, eps: Budget | None) -> list[str]:
    side = isqrt(int(eps or 0))
    if eps is None or side * side == eps:
        return []
    has = PATCH.sized(side * side)
    return [f"eps {eps} is no square number: the patch has {side} x {side} = {has}"]


def _advise_spatial(params: SpatialParams, eps: Budget | None) -> list[str]:
    if eps is None or eps >= LATTICE:
        return []
    return [f"eps {eps} allows no shift, since shifts are multiples of {LATTICE} degrees of the budget; only rotations"]


def _advise_pgd(params: Steps, eps: Budget | None) -> list[str]:
    """Return advice on options that make an attack weaker on its own model, so that other models are its targets."""
    if params.keep == "last" or not (params.diversity or params.translation_kernel > 1):
        return []
    return [
        "diversity and translation_kernel are for other models than the one that is attacked, and keep: best ends "
        "the search for an example that fools this one; for transfer set keep: last"
    ]


def _keeps_last(params: Steps) -> bool:
    return params.keep == "last"


def _travel(params: Steps, eps: Budget) -> Fraction:
    return params.steps * params.step(eps)


def _travel_of_universal(params: UniversalParams, eps: Budget) -> Fraction:
    return params.steps * (params.rel_step or 0) * eps


def _advise_features(params: FeatureParams, eps: Budget | None) -> list[str]:
    if params.random_start or params.distance == "contrastive":
        return []
    return ["the distance from the clean features has no gradient at the clean input; leave out random_start: false"]


def _spec(name: str, summary: str, params: type, builder: tuple[str, str], cost: Any, **more: Any) -> AttackSpec:
    common: Mapping[str, Any] = {"access": "gradient", "threat": _threat, "build": _builder(*builder)}
    return AttackSpec(name=name, summary=summary, params=params, cost=cost, **{**common, **more})


@hookimpl
def robharness_components() -> Iterable[ComponentSpec]:
    return components.OWN


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
        runs_to_end=lambda params: True,
        notes=zero_gradients,
        alarms=("zero_gradients",),
    )
    yield _spec(
        "pgd",
        "Projected gradient ascent in small steps (Madry et al., 2018; l1: Tramer and Boneh, 2019)",
        PGDParams,
        ("gradient", "PGD"),
        _cost_of_steps,
        travel=_travel,
        advise=_advise_pgd,
        runs_to_end=_keeps_last,
        notes=zero_gradients,
        alarms=("zero_gradients",),
    )
    yield _spec(
        "pgd-dense",
        "PGD in l1 with dense steps that are rescaled into the ball, as Foolbox's L1PGD; weak, for comparison only",
        DensePGDParams,
        ("gradient", "PGD"),
        _cost_of_steps,
        travel=_travel,
        runs_to_end=_keeps_last,
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
        "rays",
        "Nearest misclassified point along rays of signs; uses decisions only (Chen and Gu, 2020)",
        RaySParams,
        ("rays", "RayS"),
        lambda params: Cost(forwards=params.queries + 1),
        access="decision",
        randomness="none",
        minimal=True,
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
        "sigma-zero",
        "Nearest misclassified point in l0, by a smooth norm and a threshold (Cina et al., 2025)",
        SigmaZeroParams,
        ("minimal", "SigmaZero"),
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
        travel=_travel,
        advise=_advise_features,
        runs_to_end=lambda params: True,
        notes={"distance": float},
    )
    yield _spec(
        "patch",
        "A square of any values, at the strongest of several places (Brown et al., 2017; per example)",
        PatchParams,
        ("patch", "Patch"),
        _cost_of_patch,
        threat=lambda params: ThreatModel(measure=PATCH),
        advise=_advise_patch,
        notes={"row": int, "column": int, "side": int},
    )
    yield _spec(
        "spatial",
        "Rotation and translation, by grid or random search; uses scores only (Engstrom et al., 2019)",
        SpatialParams,
        ("spatial", "Spatial"),
        _cost_of_spatial,
        access="scores",
        threat=lambda params: ThreatModel(measure=rotation_translation(float(params.degrees_per_pixel))),
        advise=_advise_spatial,
        notes={"angle": float, "down": float, "right": float},
    )
    yield _spec(
        "universal",
        "One perturbation for all examples, fitted on the first ones by PGD (Moosavi-Dezfooli et al., 2017)",
        UniversalParams,
        ("universal", "Universal"),
        lambda params: Cost(fit_gradients=params.examples * (params.steps + 1)),
        randomness="none",
        fitted_on=lambda params: params.examples,
        travel=_travel_of_universal,
    )


@hookimpl
def robharness_audits() -> Iterator[AuditSpec]:
    yield from audits()
