"""Calls of an attack on toys, with nothing checked, and runs of it through the worker's code, as in a real run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from robharness import api, session
from robharness.errors import UserError
from robharness.evaluation import columns, loading, outcomes, probe
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.referee import Outcome
from robharness.evaluation.rng import ExampleRNG, global_seed
from robharness.planning.cells import Cell
from robharness.specs import Access, Norm
from robharness.testing.contract import Subject, params_of
from robharness.testing.toys import Toy

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
BATCH_SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An attack with options.

    params: the options as the plugin's record.
    norm: of the threat model with these options.
    is_targeted: whether the attack aims at a class with these options.
    needs_blocks: whether it must run in whole blocks of examples.
    """

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
        """The attack's spec."""
        return self.attack.entry.spec


def variants(attack: Subject) -> list[Variant]:
    """Return the attack with the author's options, in every norm that it has unless these options set one.

    Raises UserError if no variant has valid options.
    """
    spec = attack.entry.spec
    found: list[Variant] = []
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
        if threat.norm not in [variant.norm for variant in found]:
            variant = Variant(
                attack=attack,
                options=options,
                params=params,
                norm=threat.norm,
                is_targeted=threat.targeted,
                needs_blocks=spec.randomness == "global" or (spec.blocks is not None and bool(spec.blocks(params))),
            )
            found.append(variant)
    if not found:
        raise problems[0]
    return found


def call(
    variant: Variant,
    toy: Toy,
    eps: float,
    *,
    model: Classifier | None = None,
    batch: Batch | None = None,
    access: Access | None = None,
    streams: type[ExampleRNG] = ExampleRNG,
) -> Iterator[tuple[Batch, Any]]:
    """Yield a batch of the toy and what the attack returns for it; of an ensemble, once per member.

    access: the model's access; by default all that the core can give.
    streams: the class of the random streams.
    Nothing is checked, and nothing is refused unless `access` or `streams` do so.
    """
    spec = variant.spec
    access = access or ("features" if spec.access == "features" else "gradient")
    model, batch = (model or classifier(toy)).with_access(access), batch or batch_of(toy)
    built = spec.build(variant.params)
    for name, member in built.items() if isinstance(built, Mapping) else [("", built)]:
        if name:
            rows = (Classifier(toy.net(), batch_size=BATCH_SIZE).decisions(batch.x) == batch.labels).nonzero().flatten()
            if not len(rows):
                return
            part = batch.select(rows)
        else:
            part = batch
        rng = streams(0, f"{variant.attack.entry.name} {name}", part.ids, part.x.device)
        with global_seed(0) if spec.randomness == "global" else nullcontext():
            returned = member.perturb(model, part, eps, rng)
        yield part, returned


class Division(NamedTuple):
    """A division of the examples into batches.

    bounds: positions between batches.
    is_reversed: whether the examples come in reverse order.
    """

    bounds: tuple[int, ...] = ()
    is_reversed: bool = False

    def __str__(self) -> str:
        text = f"in batches with bounds {', '.join(map(str, self.bounds))}" if self.bounds else "in one batch"
        return f"{text}, in reverse order" if self.is_reversed else text


UNDIVIDED = Division()


def divisions(variant: Variant) -> list[Division]:
    """Return one batch, batches of one and of several examples, and the reverse order, which blocks do not have."""
    in_order = [UNDIVIDED, Division(bounds=(5, 6, 13))]
    return in_order if variant.needs_blocks else [*in_order, Division(bounds=(7,), is_reversed=True)]


@contextmanager
def loaded_toy(
    variant: Variant, toy: Toy, eps: str | None, *, batch_size: int = BATCH_SIZE, is_reversed: bool = False
) -> Iterator[tuple[LoadedModel, Cell]]:
    """Load the toy as a worker does, and yield it with the cell of the attack.

    eps: None for an attack without a budget.
    is_reversed: whether the examples come in reverse order.
    """
    name = f"testing/{toy.name}"
    suite = {
        "robharness": 1,
        "name": "contract",
        "data": {"name": name, "split": "all"},
        "models": [{"model": name}],
        "attacks": [{"attack": variant.attack.entry.name, **variant.options, **({"eps": eps} if eps else {})}],
    }
    plan = api.plan(suite, data=variant.attack.data_root, registry=toy.beside(variant.attack.plugin.registry))
    session.require(plan)
    assert plan.data is not None
    order = list(range(len(toy.ids)))
    plan = replace(plan, data=replace(plan.data, order=order[::-1] if is_reversed else order))
    loaded = loading.load_model(plan, plan.models[0], batch_size=batch_size)
    try:
        yield loaded, plan.cells[1]
    finally:
        loaded.reader.threads.close()


def whole_outcome(variant: Variant, toy: Toy, eps: str | None) -> Outcome:
    """Return the outcome of all examples in one batch, in order. Raises ContractViolation."""
    with loaded_toy(variant, toy, eps) as (loaded, cell):
        batch = loaded.reader.read(0, len(toy.ids))
        [found] = outcomes.outcomes(loaded, [cell], batch, np.arange(len(batch)))
        return found.outcome


Outcomes = dict[str, dict[str, Any]]
"""{example: {name: value}}, with values as bytes or texts that show every bit."""


def outcomes_by_example(
    variant: Variant, toy: Toy, eps: str | None, *, batch_size: int = BATCH_SIZE, division: Division = UNDIVIDED
) -> Outcomes:
    """Return all columns that a worker would store, and the perturbed inputs. Raises ContractViolation."""
    found: Outcomes = {}
    with loaded_toy(variant, toy, eps, batch_size=batch_size, is_reversed=division.is_reversed) as (loaded, cell):
        for span in pairwise((0, *division.bounds, len(toy.ids))):
            batch = loaded.reader.read(*span)
            [(_, outcome, attacked, _)] = outcomes.outcomes(loaded, [cell], batch, np.arange(*span))
            stored = columns.stored_columns(cell, batch, outcome, attacked)
            for row, example in enumerate(batch.ids):
                texts = {f"'{name}'": repr(column[row]) for name, column in stored.items()}
                bits = outcome.inputs[row].contiguous().numpy().tobytes()
                found[example] = {"perturbed input": bits, **texts}
    return found


def classifier(toy: Toy) -> Classifier:
    """Return the toy's network as a classifier that has been probed, as in a run."""
    model = Classifier(toy.net(), batch_size=BATCH_SIZE, features="body")
    probe.probe(model, tuple(toy.x.shape[1:]))
    return model


def batch_of(toy: Toy) -> Batch:
    """Return all examples of a toy as a batch."""
    return Batch(toy.ids, toy.x, torch.from_numpy(toy.labels))
