"""The contract of attacks, on toys whose right answers are known.

Rules about a single call are checked on calls. Rules about the independence of batches, order and shards use the code
of a worker, as a run does.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation import outcomes, referee
from robharness.evaluation.guard import Guard
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws
from robharness.specs import NORMS, PROBE_NOTES, AttackSpec, Budget, Cost, InputSpec, Perturbed
from robharness.store.passes import Passes
from robharness.testing import toys
from robharness.testing.attack_runs import (
    BATCH_SIZE,
    Outcomes,
    Variant,
    batch_of,
    call,
    classifier,
    divisions,
    loaded_toy,
    outcomes_by_example,
    variants,
    whole_outcome,
)
from robharness.testing.contract import Broken, Subject
from robharness.testing.fresh import in_fresh_process
from robharness.testing.toys import Toy

BUDGETS: dict[str, tuple[str, str, str]] = {
    "linf": ("1/64", "1/32", "1/4"),
    "l2": ("1/8", "3/8", "2"),
    "l1": ("1/2", "2", "12"),
    "l0": ("1", "4", "24"),
    "l0-pixels": ("1", "2", "12"),
}
"""A small, a middle and a large budget, for pixels of which some are at the edge of the box.

Under the middle one, some examples of the exact toys are fooled and others are not. A plugin's own measure is checked
at its typical budget.
"""
LINE_EPS: dict[str, float] = {"linf": 1 / 16, "l2": 0.5, "l1": 0.25}
"""Budgets at which the best perturbation of the line toy stays within the box."""
OPTIMUM_SHARE, SLACK = 0.95, 0.05
"""The share of the best perturbation that an attack must reach, and the allowed excess over the shortest distance."""


def keeps_its_threat_model(attack: Subject) -> None:
    """The result has the input's shape and type, lies in [0, 1] and within eps in the declared norm or measure."""
    for variant in variants(attack):
        for toy in _toys(attack):
            for eps in _budgets(variant):
                for batch, returned in call(variant, toy, float(Budget(eps))):
                    try:
                        x = returned.x if isinstance(returned, Perturbed) else returned
                        referee.checked(x, batch.x, notes={}, eps=float(Budget(eps)), measure=variant.measure)
                    except ContractViolation as error:
                        raise Broken(f"with {variant} on {toy.name}, {error}") from None


def measures_as_declared(attack: Subject) -> None:
    """Its own measure is 0 for clean inputs, float64, deterministic, and independent of other examples."""
    for variant in variants(attack):
        if variant.norm in NORMS:
            continue
        for toy in _toys(attack):
            for batch, returned in call(variant, toy, float(Budget(mixed_eps(variant)))):
                x = returned.x if isinstance(returned, Perturbed) else returned
                _check_measure(variant, batch.x, x, f"on {toy.name}, its measure '{variant.norm}'")


def _check_measure(variant: Variant, clean: Tensor, x: Tensor, subject: str) -> None:
    """Raise Broken, or ContractViolation, if the measure breaks its contract for these inputs."""
    at_zero = referee.distance(clean, clean, variant.measure)
    if at_zero.any():
        raise Broken(f"{subject} returned {at_zero[at_zero != 0][0]:.6g} for a clean input, not 0")
    sizes = referee.distance(clean, x, variant.measure)
    if referee.distance(clean, x, variant.measure).tobytes() != sizes.tobytes():
        raise Broken(f"{subject} returned other sizes at a second call")
    for rows in (torch.arange(len(x)).flip(0), torch.arange(0, len(x), 3), torch.arange(1)):
        if referee.distance(clean[rows], x[rows], variant.measure).tobytes() != sizes[rows.numpy()].tobytes():
            raise Broken(f"{subject} returned other sizes beside other examples. Try: is_batched=False")


def nothing_at_zero(attack: Subject) -> None:
    """With a budget of 0 the input is returned unchanged."""
    for variant in variants(attack):
        for toy in _toys(attack):
            for batch, returned in call(variant, toy, 0.0):
                x = returned.x if isinstance(returned, Perturbed) else returned
                if not torch.equal(x, batch.x):
                    raise Broken(
                        f"with {variant} on {toy.name}, it moved {int((x != batch.x).sum())} values with eps 0"
                    )


def changes_nothing_else(attack: Subject) -> None:
    """Inputs, labels, parameters, buffers, eval mode and values that cells share are not changed."""
    for variant in variants(attack):
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]:
            model, batch = classifier(toy), batch_of(toy)
            batch.logits(model)  # cells share it
            try:
                with Guard(model).watching(batch) as lent:
                    for _ in call(variant, toy, float(Budget(mixed_eps(variant))), model=model, batch=lent):
                        pass
            except ContractViolation as error:
                raise Broken(f"with {variant} on {toy.name}, {error}") from None


def draws_as_declared(attack: Subject) -> None:
    """Its random numbers come from where `randomness` says: `rng` alone, nowhere, or global generators."""
    spec = attack.entry.spec
    streams = ExampleRNG if spec.randomness == "example" else NoDraws
    for variant in variants(attack):
        spec.build(variant.params)  # imports may draw, once
        for toy in _toys(attack):
            with global_draws() as drawn:
                for _ in call(variant, toy, float(Budget(mixed_eps(variant))), streams=streams):
                    pass
            if drawn and spec.randomness != "global":
                raise Broken(f"with {variant}, it draws from the global generator of {' and '.join(drawn)}")


def asks_as_declared(attack: Subject) -> None:
    """It calls only the methods of the model that `access` allows."""
    for variant in variants(attack):
        for toy in _toys(attack):
            for _ in call(variant, toy, float(Budget(mixed_eps(variant))), access=attack.entry.spec.access):
                pass


def notes_as_declared(attack: Subject) -> None:
    """The returned notes are the declared ones, with one value of the declared type per example."""
    spec: AttackSpec = attack.entry.spec
    for variant in variants(attack):
        wanted = {**spec.notes, **({"target": int} if variant.is_targeted else {})}
        for toy in _toys(attack):
            for batch, returned in call(variant, toy, float(Budget(mixed_eps(variant)))):
                if not isinstance(returned, Perturbed):
                    returned = Perturbed(x=batch.x)
                try:
                    unmoved = replace(returned, x=batch.x)
                    referee.checked(unmoved, batch.x, notes=wanted, some_notes=spec.ensemble)
                except ContractViolation as error:
                    raise Broken(f"with {variant} on {toy.name}, {error}") from None


def exact_on_integers(attack: Subject) -> None:
    """On networks that never round, outcomes are bit-equal for every batch, order, shard and batch size."""
    for variant in variants(attack):
        for toy in _toys(attack):
            whole = outcomes_by_example(variant, toy, mixed_eps(variant))
            for division, size in zip(divisions(variant), (3, BATCH_SIZE, 2 * BATCH_SIZE), strict=False):
                found = outcomes_by_example(variant, toy, mixed_eps(variant), batch_size=size, division=division)
                _compare(whole, found, f"with {variant} on {toy.name}, {division}, {size} examples per pass")


def replays(attack: Subject) -> None:
    """On a network with real weights, outcomes are bit-equal in another run, with other batches and another order."""
    for variant in variants(attack):
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]:
            whole = outcomes_by_example(variant, toy, mixed_eps(variant))
            for division in divisions(variant):
                found = outcomes_by_example(variant, toy, mixed_eps(variant), division=division)
                _compare(whole, found, f"with {variant} on {toy.name}, {division}")


def fresh_process(attack: Subject) -> None:
    """A fresh process gives the same outcomes, bit for bit."""
    present, fresh = digests(attack), in_fresh_process(digests, attack)
    differ = [name for name in present if present[name] != fresh[name]]
    if differ:
        raise Broken(f"a fresh process gives other outcomes {differ[0]}")


def costs_what_it_declares(attack: Subject) -> None:
    """If no example stops early, it makes the passes that `cost` declares, within 5 %, and so does its fit."""
    for variant in variants(attack):
        for kind in _kinds(attack):
            toy = toys.constant(kind, 10, n=2)
            declared: Cost = attack.entry.spec.cost(variant.params)
            with loaded_toy(variant, toy, mixed_eps(variant), batch_size=1) as (loaded, cell):
                loaded.classifier.grad_mode_exact = (
                    True  # else some attacks make one more pass per example that seems fooled
                )
                batch = loaded.reader.read(0, len(toy.ids))
                [found] = outcomes.outcomes(loaded, [cell], batch, np.arange(len(toy.ids)))
            assert found.passes is not None and found.passes.per_attacked is not None
            expected = declared.gradients + declared.shared_gradients, declared.forwards
            passes = found.passes.per_attacked
            for name, made, wanted in zip(
                ("gradients", "forward passes"), (passes.gradients, passes.forwards), expected, strict=True
            ):
                if abs(made - wanted) > wanted / 20:
                    raise Broken(
                        f"with {variant} on {toy.name}, it declares {wanted} {name} per example and makes {made:g} if "
                        f"no example stops early"
                    )
            fit = found.passes.fit or Passes(0, 0)  # on the examples of the toy, of which there are fewer
            for name, made, wanted in (
                ("gradients", fit.gradients, cell.cost.fit_gradients),
                ("forward passes", fit.forwards, cell.cost.fit_forwards),
            ):
                if abs(made - wanted) > wanted / 20:
                    raise Broken(
                        f"with {variant} on {toy.name}, it declares {wanted} {name} of a fit on {len(toy.ids)} "
                        f"examples and makes {made:g}"
                    )


def reaches_the_optimum(attack: Subject) -> None:
    """On a linear model of two classes, it fools every example that 95 % of the best perturbation would fool."""
    for variant in _variants_with_optimum(attack, is_minimal=False):
        for kind in _kinds(attack):
            toy, share = toys.line(kind, variant.norm, LINE_EPS[variant.norm], (0.25, 0.5, 0.75, 0.9, 0.94))
            outcome = whole_outcome(variant, toy, str(Budget(LINE_EPS[variant.norm])))
            withstood = outcome.correct & (share <= OPTIMUM_SHARE)
            if withstood.any():
                raise Broken(
                    f"with {variant} on {toy.name}, an example withstands {variant.norm} {LINE_EPS[variant.norm]:g} "
                    f"that the best perturbation of {share[withstood].min():.2f} times that length fools"
                )


def finds_the_distance(attack: Subject) -> None:
    """On a linear model of two classes, it finds the nearest point across the boundary, within 5 %."""
    for variant in _variants_with_optimum(attack, is_minimal=True):
        for kind in _kinds(attack):
            toy, share = toys.line(kind, variant.norm, LINE_EPS[variant.norm], (0.25, 0.5, 0.75, 1.0))
            outcome = whole_outcome(variant, toy, None)
            found = np.where(outcome.correct, np.inf, outcome.size)
            worst = int(np.argmax(found / share))
            if found[worst] > (1 + SLACK) * share[worst] * LINE_EPS[variant.norm]:
                raise Broken(
                    f"with {variant} on {toy.name}, it finds a point at {found[worst]:.4g} where one at "
                    f"{share[worst] * LINE_EPS[variant.norm]:.4g} fools the model"
                )


RULES = (
    keeps_its_threat_model,
    measures_as_declared,
    nothing_at_zero,
    changes_nothing_else,
    draws_as_declared,
    asks_as_declared,
    notes_as_declared,
    exact_on_integers,
    replays,
    fresh_process,
    costs_what_it_declares,
    reaches_the_optimum,
    finds_the_distance,
)
WHEN = {
    reaches_the_optimum: lambda spec: (
        spec.access == "gradient" and spec.minimal is not True and spec.fitted_on is None and not _is_probe(spec)
    ),
    finds_the_distance: lambda spec: spec.minimal is not False,
}


def _is_probe(spec: AttackSpec) -> bool:
    """Return whether the attack is for the role "probe" of audits, which returns its inputs."""
    return dict(spec.notes) == dict(PROBE_NOTES)


def digests(attack: Subject) -> dict[str, str]:
    """Return digests of the outcomes on the smooth toys, by variant and toy."""
    return {
        f"with {variant} on {toy.name}": hashlib.sha256(
            repr(outcomes_by_example(variant, toy, mixed_eps(variant))).encode()
        ).hexdigest()
        for variant in variants(attack)
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]
    }


def mixed_eps(variant: Variant) -> str:
    """Return a budget at which some examples of the exact toys are fooled and others are not."""
    return _budgets(variant)[1]


def _budgets(variant: Variant) -> tuple[str, str, str]:
    typical = variant.measure.typical
    return BUDGETS.get(variant.norm, (typical, typical, typical))


def _variants_with_optimum(attack: Subject, *, is_minimal: bool) -> list[Variant]:
    """Return the attack in the norms in which the best perturbation of the line toy is known.

    is_minimal: whether it searches for the smallest perturbation.
    """
    spec = attack.entry.spec
    return [each for each in variants(attack) if each.norm in LINE_EPS and spec.is_minimal(each.params) is is_minimal]


def _compare(whole: Outcomes, found: Outcomes, condition: str) -> None:
    """Raise Broken if an example's outcome differs from that in one batch.

    condition: names the other run.
    """
    for example, bits in whole.items():
        differ = [name for name, value in bits.items() if found[example][name] != value]
        if differ:
            raise Broken(f"{condition}: '{example}' gets another {' and '.join(differ)} than in one batch")


def _kinds(attack: Subject) -> list[Any]:
    spec, options = attack.entry.spec, [variant.params for variant in variants(attack)]

    def is_taken(kind: Any) -> bool:
        shape = InputSpec(kind=kind, shape=toys.SHAPES[kind])
        return spec.refuses is None or not any(spec.refuses(params, shape) for params in options)

    return sorted(filter(is_taken, spec.inputs))


def _toys(attack: Subject) -> list[Toy]:
    """Return exact toys with few and many classes, whose pixels include values at the edge of the box."""
    by_kind = {"image": (2, 10), "video": (3,)}
    return [toys.exact(kind, classes) for kind in _kinds(attack) for classes in by_kind[kind]]
