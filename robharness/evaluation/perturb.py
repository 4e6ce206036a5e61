"""Checked perturbation of a batch by an attack or a corruption."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation
from robharness.evaluation import referee
from robharness.evaluation.batch import Batch, LentBatch
from robharness.evaluation.guard import lending, plugin_failures
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws, global_seed
from robharness.planning.cells import BLOCK
from robharness.planning.identity import draw_address
from robharness.plugins.calls import call_spec
from robharness.plugins.provenance import foreign_components
from robharness.specs.conventions import INSTANCES
from robharness.suite import Perturbation


class Member(NamedTuple):
    """A member of an ensemble, or an attack or a corruption by itself, whose name is empty.

    built: the object that the spec's `build` or `open` returned; its `perturb` is called.
    """

    name: str
    built: Any


class PerturbedInputs(NamedTuple):
    """Checked inputs that an attack or a corruption made of N examples.

    x: the model's inputs, (N, *shape).
    size: of the perturbations, (N,) float64.
    notes: of the plugin, per example.
    forwards, gradients: rows that an attack requested from the model for these examples; of several surrogates, from
        each of them.
    fit_forwards, fit_gradients: rows that its fit requested, for all examples together.
    """

    x: Tensor
    size: np.ndarray
    notes: dict[str, Any]
    forwards: float
    gradients: float
    fit_forwards: float = 0
    fit_gradients: float = 0


class FittedAttack(NamedTuple):
    """An attack that is fitted.

    attack: the object that `fit` returned.
    rows: that the fit requested from the model, {"forwards": ..., "gradients": ...}.
    """

    attack: Any
    rows: Counter[str]


def build_members(perturbation: Perturbation, loaded: LoadedModel) -> list[Member]:
    """Build an attack or a corruption: the members of an ensemble in order, or else a single one.

    Stored corruptions are opened once per loaded model. Raises ContractViolation if the plugin's function fails.
    """
    spec = perturbation.entry.spec
    with _failures("it cannot be built:", perturbation), kept_modes() as modes:
        if perturbation.is_stored:
            key = perturbation.entry.name, repr(perturbation.params)
            if key not in loaded.opened:
                loaded.opened[key] = call_spec(spec.open, perturbation.params, loaded.data_root)
            built = loaded.opened[key]
        else:
            built = call_spec(spec.build, perturbation.params)
        members = [Member(*item) for item in dict(built).items()] if perturbation.is_ensemble else [Member("", built)]
        if not members or not all(isinstance(name, str) and callable(_perturb_of(made)) for name, made in members):
            wanted = "attacks by name" if perturbation.is_ensemble else "an object with a method `perturb`"
            raise ContractViolation(f"its build returned {type(built).__name__}, not {wanted}")
    loaded.note_restored(perturbation.entry.name, modes.changed)
    return members


def _perturb_of(built: Any) -> Any:
    return None if isinstance(built, type) else getattr(built, "perturb", None)


def perturb(loaded: LoadedModel, perturbation: Perturbation, member: Member, batch: Batch) -> PerturbedInputs:
    """Return the model's inputs after an attack or a corruption.

    Raises ContractViolation.
    """
    is_attack = perturbation.kind == "attack"
    view = loaded.classifier.with_access(perturbation.entry.spec.access) if is_attack else None
    fit: Counter[str] = Counter()
    if perturbation.fitted_on:
        attack, fit = _fitted(perturbation, member, loaded, view, batch)
        member = member._replace(built=attack)
    before = loaded.classifier.rows.copy()
    x, size, notes = perturb_checked(perturbation, member, batch, loaded.seed, view=view, loaded=loaded)
    rows = loaded.classifier.rows - before
    if not is_attack:
        x = loaded.reader.inputs(x, batch.clip_layout, are_files=perturbation.is_stored)
    made = (counter[kind] * loaded.networks for counter in (rows, fit) for kind in ("forwards", "gradients"))
    return PerturbedInputs(x, size, notes, *made)


def perturb_checked(
    perturbation: Perturbation,
    member: Member,
    batch: Batch,
    seed: int,
    *,
    view: Any = None,
    loaded: LoadedModel | None = None,
) -> tuple[Tensor, np.ndarray, dict[str, Any]]:
    """Call an attack or a corruption on a batch and check what it returns.

    seed: of the suite.
    view: the model with the access that the attack declares; None for a corruption.
    loaded: the model, with the clips of the batch; None if images are perturbed for no model.
    Returns model inputs of an attack or 8-bit images of a corruption, sizes, (N,) float64, and notes.
    Raises ContractViolation.
    """
    is_attack = perturbation.kind == "attack"
    unperturbed = batch.x if is_attack else batch.canvas
    eps = math.inf if perturbation.eps is None else float(perturbation.eps)
    address = _draw_address(perturbation, member)
    strength = eps if is_attack else perturbation.severity
    with _failures("it raised", perturbation):
        with _lent(perturbation, batch, loaded) as copy:
            rng = _streams(perturbation)(seed, address, batch.ids, unperturbed.device)
            returned = member.built.perturb(view, copy, strength, rng)
        return referee.checked(
            returned, unperturbed, notes=perturbation.returned, some_notes=bool(member.name), eps=eps,
            measure=perturbation.measure, devices={unperturbed.device, batch.x.device},
        )  # fmt: skip


def _streams(perturbation: Perturbation) -> type[ExampleRNG]:
    return ExampleRNG if perturbation.entry.spec.randomness == "example" else NoDraws


@contextmanager
def _lent(perturbation: Perturbation, batch: Batch, loaded: LoadedModel | None) -> Iterator[LentBatch]:
    """Lend a batch to one call of the plugin. Raises ContractViolation for draws from global generators."""
    lent = lending(
        batch,
        namespace=perturbation.entry.origin.namespace,
        model=loaded.classifier if loaded else None,
        guard=loaded.guard if loaded else None,
    )
    with lent as copy, global_draws() as drawn:
        yield copy
    if drawn and perturbation.entry.spec.randomness != "global":
        raise ContractViolation(
            f"it draws from the global generator of {drawn[0]}, but does not declare randomness='global'"
        )


def _fitted(perturbation: Perturbation, member: Member, loaded: LoadedModel, view: Any, like: Batch) -> FittedAttack:
    """Return the attack that is fitted on the first examples of the data, in their fixed order.

    It is fitted once per loaded model, whatever examples are perturbed. An example that cannot be read is left out.

    like: a batch; the attack is fitted on examples of its shape.
    """
    shape = tuple(like.x.shape[1:])
    key = (perturbation.entry.name, repr(perturbation.params), perturbation.eps, member.name, shape, like.clip_layout)
    if key not in loaded.fitted:
        data = loaded.reader.data
        known = data.n if loaded.model.entry.spec.labels == INSTANCES else len(data.order)  # classes of the model
        n = min(perturbation.fitted_on, known)
        try:
            read = loaded.reader.batches(loaded.reader.images(0, n))
        except Exception as error:
            raise ContractViolation(f"{type(error).__name__}: {error}", by="data") from error
        batches = [
            each for _, each in read if tuple(each.x.shape[1:]) == shape and each.clip_layout == like.clip_layout
        ]
        if not batches:
            raise ContractViolation(f"none of the first {n} examples fits the inputs of {shape}", by="data")
        eps = math.inf if perturbation.eps is None else float(perturbation.eps)
        address = f"{_draw_address(perturbation, member)} fit"
        fails = _failures("its `fit` raised", perturbation)
        before = loaded.classifier.rows.copy()
        with fails, _lent(perturbation, batches[0], loaded) as copy:
            rng = _streams(perturbation)(loaded.seed, address, copy.ids, like.x.device)
            fitted = member.built.fit(view, copy, eps, rng)
        rows = loaded.classifier.rows - before
        if not callable(_perturb_of(fitted)):
            raise ContractViolation(f"its `fit` returned {type(fitted).__name__}, not an object with `perturb`")
        loaded.fitted[key] = FittedAttack(fitted, rows)
    found: FittedAttack = loaded.fitted[key]
    return found


def _failures(prefix: str, perturbation: Perturbation) -> AbstractContextManager[None]:
    """Raise a ContractViolation for whatever the code raises; it names the components of other plugins."""
    return plugin_failures(prefix, used=foreign_components(perturbation.entry, perturbation.params))


def _draw_address(perturbation: Perturbation, member: Member) -> str:
    """Return the address of the random draws; members of an ensemble have different ones."""
    return f"{draw_address(perturbation)}{member.name and ' '}{member.name}"


def perturb_in_blocks(
    loaded: LoadedModel, perturbation: Perturbation, member: Member, batch: Batch, positions: np.ndarray
) -> PerturbedInputs:
    """Perturb a batch as `perturb` does, but in whole blocks of fixed positions.

    Perturbations that draw from global generators need blocks, each seeded once, and so do perturbations whose examples
    depend on each other. Blocks are whole for every batch, so results do not depend on how the work was divided. An
    example has an equal share of the rows that were requested for its block.

    positions: of the batch's examples in the data set's fixed order, (N,).
    """
    address, total = _draw_address(perturbation, member), len(loaded.reader.data.order)
    is_global = perturbation.entry.spec.randomness == "global"
    by_example: dict[str, tuple[Any, ...]] = {}
    fit = 0.0, 0.0
    for start in np.unique(positions // BLOCK * BLOCK).tolist():
        try:
            blocks = loaded.reader.batches(loaded.reader.images(start, min(start + BLOCK, total)))
        except Exception as error:
            raise ContractViolation(f"{type(error).__name__}: {error}", by="data") from error
        seed = block_seed(loaded.seed, address, start)
        for _, block in blocks:
            if block.clip_layout != batch.clip_layout or block.x.shape[1:] != batch.x.shape[1:]:
                continue
            with global_seed(seed) if is_global else nullcontext():
                found = perturb(loaded, perturbation, member, block)
            fit = found.fit_forwards, found.fit_gradients
            for row, example in enumerate(block.ids):
                own = {name: column[row] for name, column in found.notes.items()}
                passes = found.forwards / len(block), found.gradients / len(block)
                by_example[example] = (found.x[row], found.size[row], own, *passes)
    rows = [by_example[example] for example in batch.ids]
    columns = {name: np.array([row[2][name] for row in rows]) for name in rows[0][2]}
    x, size = torch.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    return PerturbedInputs(x, size, columns, sum(row[3] for row in rows), sum(row[4] for row in rows), *fit)


def block_seed(seed: int, address: str, start: int) -> int:
    """Return the seed of the global generators for the block that starts at this position.

    seed: of the suite.
    address: of the perturbation's draws.
    """
    return ExampleRNG(seed, address, [f"block {start}"]).integer("seed", 0)
