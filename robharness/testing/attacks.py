"""The contract of attacks, on toys whose right answers are known.

The rules of one call are looked at one by one; what must not depend on how the work is cut goes through the worker, as
in a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from robharness import api, session
from robharness.errors import ContractViolation, UserError
from robharness.evaluation import columns, loading, outcomes, probe, referee
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.guard import Guard
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.referee import Outcome
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws, global_seed
from robharness.planning.cells import Cell
from robharness.specs import Access, AttackSpec, Budget, Cost, Norm, Perturbed
from robharness.testing import toys
from robharness.testing.contract import Broken, Subject, params_of
from robharness.testing.fresh import ask
from robharness.testing.toys import Toy

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
ROWS = 8
BUDGETS: dict[Norm, tuple[str, str]] = {"linf": ("1/64", "1/4"), "l2": ("1/8", "2"), "l1": ("1/2", "12")}
"""A small one and a large one, on pixels of which some are at the edge of the box."""
TELLING: dict[Norm, str] = {"linf": "1/32", "l2": "3/8", "l1": "2"}
"""At which some examples of the exact toys fall and others do not."""
NEAR: dict[Norm, float] = {"linf": 1 / 16, "l2": 0.5, "l1": 0.25}
"""Lengths that keep within the box on the line."""
REACH, SLACK = 0.95, 0.05
"""How far of what can be had an attack must come; by how much it may miss the shortest distance."""


def keeps_its_threat_model(attack: Subject) -> None:
    """The result has the input's shape and type, lies in [0, 1] and within eps in the declared norm."""
    for way in ways(attack):
        for toy in _toys(attack):
            for eps in BUDGETS[way.norm]:
                for batch, returned in called(way, toy, float(Budget(eps))):
                    try:
                        x = returned.x if isinstance(returned, Perturbed) else returned
                        referee.checked(x, batch.x, notes={}, eps=float(Budget(eps)), norm=way.norm)
                    except ContractViolation as error:
                        raise Broken(f"with {way} on {toy.name}, {error}") from None


def nothing_at_zero(attack: Subject) -> None:
    """With a budget of 0 the input comes back as it is."""
    for way in ways(attack):
        for toy in _toys(attack):
            for batch, returned in called(way, toy, 0.0):
                x = returned.x if isinstance(returned, Perturbed) else returned
                if not torch.equal(x, batch.x):
                    raise Broken(f"with {way} on {toy.name}, it moved {int((x != batch.x).sum())} values with eps 0")


def changes_nothing_else(attack: Subject) -> None:
    """Inputs, labels, parameters, buffers, eval mode and what cells share stay what they are."""
    for way in ways(attack):
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]:
            model, batch = _classifier(toy), _batch(toy)
            batch.logits(model)  # cells share it
            try:
                with Guard(model).watching(batch):
                    for _ in called(way, toy, float(Budget(TELLING[way.norm])), model=model, batch=batch):
                        pass
            except ContractViolation as error:
                raise Broken(f"with {way} on {toy.name}, {error}") from None


def draws_as_declared(attack: Subject) -> None:
    """It draws what `randomness` says: from `rng` alone, from nothing, or, if declared, from global generators."""
    spec = attack.entry.spec
    streams = ExampleRNG if spec.randomness == "example" else NoDraws
    for way in ways(attack):
        spec.build(way.params)  # what it imports may draw what it likes, once
        for toy in _toys(attack):
            with global_draws() as drawn:
                for _ in called(way, toy, float(Budget(TELLING[way.norm])), streams=streams):
                    pass
            if drawn and spec.randomness != "global":
                raise Broken(f"with {way}, it draws from the global generator of {' and '.join(drawn)}")


def asks_as_declared(attack: Subject) -> None:
    """It asks the model for no more than `access` allows."""
    for way in ways(attack):
        for toy in _toys(attack):
            for _ in called(way, toy, float(Budget(TELLING[way.norm])), access=attack.entry.spec.access):
                pass


def notes_as_declared(attack: Subject) -> None:
    """The notes that it returns are those declared, one value of the declared type per example."""
    spec: AttackSpec = attack.entry.spec
    for way in ways(attack):
        wanted = {**spec.notes, **({"target": int} if way.is_targeted else {})}
        for toy in _toys(attack):
            for batch, returned in called(way, toy, float(Budget(TELLING[way.norm]))):
                if not isinstance(returned, Perturbed):
                    returned = Perturbed(x=batch.x)
                try:
                    unmoved = replace(returned, x=batch.x)
                    referee.checked(unmoved, batch.x, notes=wanted, some_notes=spec.ensemble)
                except ContractViolation as error:
                    raise Broken(f"with {way} on {toy.name}, {error}") from None


def exact_on_integers(attack: Subject) -> None:
    """On networks that never round, outcomes are bit-equal for every batch, order, shard and rows per pass."""
    for way in ways(attack):
        for toy in _toys(attack):
            whole = outcomes_by_example(way, toy, TELLING[way.norm])
            for cut, rows in zip(_cuts(way), (3, ROWS, 2 * ROWS), strict=False):
                found = outcomes_by_example(way, toy, TELLING[way.norm], rows=rows, cut=cut)
                _compare(whole, found, f"with {way} on {toy.name}, {_told(cut)}, {rows} rows per pass")


def replays(attack: Subject) -> None:
    """On a network with real weights outcomes are bit-equal when it runs again, in other batches and another order."""
    for way in ways(attack):
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]:
            whole = outcomes_by_example(way, toy, TELLING[way.norm])
            for cut in _cuts(way):
                found = outcomes_by_example(way, toy, TELLING[way.norm], cut=cut)
                _compare(whole, found, f"with {way} on {toy.name}, {_told(cut)}")


def fresh_process(attack: Subject) -> None:
    """A fresh process gives the same outcomes, bit for bit."""
    here, there = digests(attack), ask(digests, attack)
    differ = [what for what in here if here[what] != there[what]]
    if differ:
        raise Broken(f"a fresh process gives other outcomes {differ[0]}")


def costs_what_it_declares(attack: Subject) -> None:
    """Where no example leaves early it makes the passes that `cost` declares, within a twentieth."""
    for way in ways(attack):
        for kind in _kinds(attack):
            toy = toys.deaf(kind, 10, n=2)
            declared: Cost = attack.entry.spec.cost(way.params)
            with bench(way, toy, TELLING[way.norm], rows=1) as (loaded, cell):
                loaded.classifier.grad_mode_exact = True  # otherwise some make a pass more for each that seems fooled
                batch = loaded.reader.read(0, len(toy.ids))
                batch.logits(loaded.classifier)  # what all cells share costs none of them
                batch.features(loaded.classifier.with_access("features"))
                loaded.classifier.passes.clear()
                next(outcomes.outcomes(loaded, [cell], batch, (0, len(toy.ids))))
                spent = loaded.classifier.passes
            gradients = spent["backward"] / len(toy.ids)
            forwards = spent["forward"] / len(toy.ids) - gradients - way.judging
            asked = declared.gradients + declared.shared_gradients, declared.forwards
            for what, there, wanted in zip(("gradients", "forward passes"), (gradients, forwards), asked, strict=True):
                if abs(there - wanted) > wanted / 20:
                    raise Broken(
                        f"with {way} on {toy.name}, it declares {wanted} {what} per example and makes {there:g} where "
                        f"no example leaves early"
                    )


def reaches_the_optimum(attack: Subject) -> None:
    """On a linear model of two classes it fools whatever 95 % of the best perturbation of length eps would fool."""
    for way in ways(attack):
        for kind in _kinds(attack):
            toy, share = toys.line(kind, way.norm, NEAR[way.norm], (0.25, 0.5, 0.75, 0.9, 0.94))
            outcome = whole_outcome(way, toy, str(Budget(NEAR[way.norm])))
            withstood = outcome.correct & (share <= REACH)
            if withstood.any():
                raise Broken(
                    f"with {way} on {toy.name}, an example withstands {way.norm} {NEAR[way.norm]:g} that the best "
                    f"perturbation of {share[withstood].min():.2f} times that length fools"
                )


def finds_the_distance(attack: Subject) -> None:
    """On a linear model of two classes it finds the nearest point across the boundary, within a twentieth."""
    for way in ways(attack):
        for kind in _kinds(attack):
            toy, share = toys.line(kind, way.norm, NEAR[way.norm], (0.25, 0.5, 0.75, 1.0))
            outcome = whole_outcome(way, toy, None)
            found = np.where(outcome.correct, np.inf, outcome.size)
            worst = int(np.argmax(found / share))
            if found[worst] > (1 + SLACK) * share[worst] * NEAR[way.norm]:
                raise Broken(
                    f"with {way} on {toy.name}, it finds a point at {found[worst]:.4g} where one at "
                    f"{share[worst] * NEAR[way.norm]:.4g} fools the model"
                )


RULES = (
    keeps_its_threat_model,
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
    reaches_the_optimum: lambda spec: spec.access == "gradient" and not spec.minimal,
    finds_the_distance: lambda spec: spec.minimal,
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """An attack with options. norm: that these options mean. is_targeted: whether they aim at a class."""

    attack: Subject
    options: Mapping[str, Any]
    params: Any
    norm: Norm
    is_targeted: bool
    needs_blocks: bool

    def __str__(self) -> str:
        return ", ".join(f"{key}: {value}" for key, value in self.options.items()) or "its defaults"

    @property
    def spec(self) -> Any:
        return self.attack.entry.spec

    @property
    def judging(self) -> int:
        """Forward passes that judge: one, or one per member that takes its turn."""
        built = self.spec.build(self.params)
        return len(built) if isinstance(built, Mapping) else 1


def ways(attack: Subject) -> list[Way]:
    """The attack with the author's options, in every norm that it has unless these name one. Raises UserError."""
    spec = attack.entry.spec
    found: list[Way] = []
    problems = []
    for more in [{}, *({"norm": norm} for norm in NORMS)]:
        options = {**attack.options, **more}
        if more and (options["norm"] != attack.options.get("norm", options["norm"]) or spec.params is None):
            continue
        try:
            params = params_of(attack.entry, options)
        except UserError as error:
            problems.append(error)
            continue
        threat = spec.threat(params)
        in_blocks = spec.randomness == "global" or (spec.blocks is not None and bool(spec.blocks(params)))
        if threat.norm not in [way.norm for way in found]:
            found.append(
                Way(
                    attack=attack,
                    options=options,
                    params=params,
                    norm=threat.norm,
                    is_targeted=threat.targeted,
                    needs_blocks=in_blocks,
                )
            )
    if not found:
        raise problems[0]
    return found


def called(
    way: Way,
    toy: Toy,
    eps: float,
    *,
    model: Classifier | None = None,
    batch: Batch | None = None,
    access: Access | None = None,
    streams: type[ExampleRNG] = ExampleRNG,
) -> Iterator[tuple[Batch, Any]]:
    """What the attack returns for a batch of the toy, with that batch; of an ensemble every member in its turn.

    Nothing is checked, and nothing forbidden, unless `access` or `streams` do so.
    """
    spec = way.spec
    access = access or ("features" if spec.access == "features" else "gradient")
    model, batch = (model or _classifier(toy)).with_access(access), batch or _batch(toy)
    built = spec.build(way.params)
    for name, member in built.items() if isinstance(built, Mapping) else [("", built)]:
        if name:
            rows = (Classifier(toy.net(), rows=ROWS).decisions(batch.x) == batch.labels).nonzero().flatten()
            if not len(rows):
                return
            part = batch.select(rows)
        else:
            part = batch
        rng = streams(0, f"{way.attack.entry.name} {name}", part.ids, part.x.device)
        with global_seed(0) if spec.randomness == "global" else nullcontext():
            returned = member.perturb(model, part, eps, rng)
        yield part, returned


class Cut(NamedTuple):
    """How the work is cut. bounds: of the batches. is_turned: whether the examples come the other way round."""

    bounds: tuple[int, ...] = ()
    is_turned: bool = False


WHOLE = Cut()


@contextmanager
def bench(
    way: Way, toy: Toy, eps: str | None, *, rows: int = ROWS, is_turned: bool = False
) -> Iterator[tuple[LoadedModel, Cell]]:
    """The toy ready in a worker, and the cell of this attack. eps: None for an attack without a budget."""
    name = f"testing/{toy.name}"
    suite = {
        "robharness": 1,
        "name": "contract",
        "data": {"name": name, "split": "all"},
        "models": [{"model": name}],
        "attacks": [{"attack": way.attack.entry.name, **way.options, **({"eps": eps} if eps else {})}],
    }
    plan = api.plan(suite, data=way.attack.data_root, registry=toy.beside(way.attack.plugin.registry))
    session.require(plan)
    assert plan.data is not None
    order = list(range(len(toy.ids)))
    plan = replace(plan, data=replace(plan.data, order=order[::-1] if is_turned else order))
    loaded = loading.load_model(plan, plan.models[0], rows=rows)
    try:
        yield loaded, plan.cells[1]
    finally:
        loaded.reader.threads.close()


Outcomes = dict[str, dict[str, Any]]
"""{example: {what: its value}}, as bytes or as texts from which every bit can be told."""


def whole_outcome(way: Way, toy: Toy, eps: str | None) -> Outcome:
    """Of all examples in one batch, in order. Raises ContractViolation."""
    with bench(way, toy, eps) as (loaded, cell):
        batch = loaded.reader.read(0, len(toy.ids))
        return next(outcomes.outcomes(loaded, [cell], batch, (0, len(batch))))[0]


def outcomes_by_example(way: Way, toy: Toy, eps: str | None, *, rows: int = ROWS, cut: Cut = WHOLE) -> Outcomes:
    """All that a worker would store, and the perturbed inputs. Raises ContractViolation."""
    found: Outcomes = {}
    with bench(way, toy, eps, rows=rows, is_turned=cut.is_turned) as (loaded, cell):
        bounds = (0, *cut.bounds, len(toy.ids))
        for span in pairwise(bounds):
            batch = loaded.reader.read(*span)
            outcome, attacked = next(outcomes.outcomes(loaded, [cell], batch, span))
            stored = columns.stored_columns(cell, batch, outcome, attacked)
            for row, example in enumerate(batch.ids):
                texts = {f"'{name}'": repr(column[row]) for name, column in stored.items()}
                bits = outcome.inputs[row].contiguous().numpy().tobytes()
                found[example] = {"perturbed input": bits, **texts}
    return found


def digests(attack: Subject) -> dict[str, str]:
    """Of the outcomes on the smooth toys, by norm and kind."""
    return {
        f"with {way} on {toy.name}": hashlib.sha256(
            repr(outcomes_by_example(way, toy, TELLING[way.norm])).encode()
        ).hexdigest()
        for way in ways(attack)
        for toy in [toys.smooth(kind) for kind in _kinds(attack)]
    }


def _compare(whole: Outcomes, found: Outcomes, how: str) -> None:
    for example, bits in whole.items():
        differ = [what for what, value in bits.items() if found[example][what] != value]
        if differ:
            raise Broken(f"{how}: '{example}' gets another {' and '.join(differ)} than in one batch")


def _cuts(way: Way) -> Sequence[Cut]:
    """None at all, batches of one and of several, and the other way round; blocks come in one order."""
    cuts = [WHOLE, Cut(bounds=(5, 6, 13))]
    return cuts if way.needs_blocks else [*cuts, Cut(bounds=(7,), is_turned=True)]


def _told(cut: Cut) -> str:
    parts = f"cut at {', '.join(map(str, cut.bounds))}" if cut.bounds else "in one batch"
    return f"{parts}, the other way round" if cut.is_turned else parts


def _kinds(attack: Subject) -> list[Any]:
    return sorted(attack.entry.spec.inputs)


def _toys(attack: Subject) -> list[Toy]:
    """Of few and many classes, with pixels at the edge of the box among theirs."""
    by_kind = {"image": (2, 10), "video": (3,)}
    return [toys.exact(kind, classes) for kind in _kinds(attack) for classes in by_kind[kind]]


def _classifier(toy: Toy) -> Classifier:
    """Ready as in a run, where a probe has gone before."""
    model = Classifier(toy.net(), rows=ROWS, features="body")
    probe.probe(model, tuple(toy.x.shape[1:]))
    return model


def _batch(toy: Toy) -> Batch:
    return Batch(toy.ids, toy.x, torch.from_numpy(toy.labels))
