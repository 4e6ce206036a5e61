"""Outcomes of a group of cells on a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from robharness.errors import ContractViolation
from robharness.evaluation import heads, referee
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import predictions
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.perturb import Member, build_members, perturb, perturb_in_blocks
from robharness.evaluation.referee import Outcome
from robharness.planning.cells import Cell
from robharness.store.spans import Span
from robharness.suite import Perturbation


def group_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in the order of computing: the budgets of a nested attack together, ascending, and features with what they
    are of; clean cells last, since a gradient pass may have left them its logits."""

    def family(cell: Cell) -> Any:
        p = cell.perturbation
        if p is None or not p.nested:
            return cell.what
        return (p.entry.name, repr(p.params), p.nested, p.surrogate and p.surrogate.label, p.eight_bit)

    found: dict[Any, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.perturbation is None):
        found.setdefault(family(cell), []).append(cell)
    return [sorted(group, key=_size) for group in found.values()]


def _size(cell: Cell) -> float:
    p = cell.perturbation
    if p is None:
        return 0
    return math.inf if p.is_unbounded else float(p.eps or p.severity or 0)


def outcomes(loaded: LoadedModel, family: list[Cell], batch: Batch, span: Span) -> Iterator[tuple[Outcome, np.ndarray]]:
    """The outcome of every cell of a family in turn, and which rows were attacked for it; ContractViolation ends it.

    A row that is not attacked keeps the outcome it has: the clean one where only right examples count, that of the
    smaller budget where it was fooled already, that of the member of an ensemble that fooled it.
    """
    perturbation, loaded = family[0].perturbation, loaded.with_clips(batch)
    alive = np.ones(len(batch), bool)
    if perturbation is None:
        outcome = _clean(loaded, batch)
        for cell in family:
            yield _represented(loaded, batch, outcome) if cell.with_features else outcome, np.zeros(len(batch), bool)
        return
    kept = None
    if family[0].count == "robust":
        kept = _clean(loaded, batch)
        alive = kept.correct.copy()
    budgets = [budget for budget in perturbation.nested if float(budget) <= _size(family[-1])]
    for eps in budgets or (perturbation.eps,):
        now = replace(perturbation, eps=eps)
        attacked = alive
        for member, attack in build_members(now, loaded).items():
            if alive.any():
                found = _perturbed_outcome(loaded, now, (member, attack), batch, alive, span)
                kept = _merged(kept, found, alive)
                alive = alive & kept.correct if now.is_ensemble else alive
        assert kept is not None
        for cell in family:
            if cell.perturbation and cell.perturbation.eps == eps:
                yield _represented(loaded, batch, kept) if cell.with_features else kept, attacked
        alive = attacked & kept.correct


def _clean(loaded: LoadedModel, batch: Batch) -> Outcome:
    logits = batch.logits(loaded.classifier)
    return referee.judge(batch.x, batch.labels, logits, np.full(len(batch), np.nan), {})


def _represented(loaded: LoadedModel, batch: Batch, outcome: Outcome) -> Outcome:
    """The outcome with the features of its inputs; of clean ones with their distance from the boundary as well."""
    view = loaded.classifier.with_access("features")
    if outcome.inputs is not batch.x:
        return replace(outcome, notes={"features": view.features(outcome.inputs).cpu().numpy()})
    notes = {"features": batch.features(view).cpu().numpy()}
    if loaded.gaps is not None:
        logits, labels = batch.logits(loaded.classifier), batch.labels
        notes["boundary"] = heads.boundary(logits.cpu().numpy(), labels.cpu().numpy(), loaded.gaps)
    return replace(outcome, notes=notes)


def _perturbed_outcome(
    loaded: LoadedModel, perturbation: Perturbation, turn: Member, batch: Batch, alive: np.ndarray, span: Span
) -> Outcome:
    """The verdict on the perturbed rows that are alive."""
    crafting = loaded
    if perturbation.surrogate is not None and perturbation.surrogate.label != loaded.model.label:
        found = loaded.surrogates[perturbation.surrogate.label]
        if isinstance(found, ContractViolation):
            raise found
        crafting, batch = found.with_clips(batch), batch.for_model(found.model.label)
    part = batch if alive.all() else batch.select(torch.from_numpy(alive.nonzero()[0]).to(batch.x.device))
    try:
        if perturbation.needs_blocks:
            x, size, notes = perturb_in_blocks(crafting, perturbation, turn, part, span)
        else:
            x, size, notes = perturb(crafting, perturbation, turn, part)
    except ContractViolation as error:
        error.by = "surrogate" if error.by == "model" and crafting is not loaded else error.by
        raise
    if perturbation.eight_bit:
        rounded = predictions(loaded.classifier.logits((x * 255).round() / 255))
        notes |= {"prediction_8bit": rounded.cpu().numpy(), "correct_8bit": (rounded == part.labels).cpu().numpy()}
    outcome = referee.judge(x, part.labels, loaded.classifier.logits(x), size, notes)
    if perturbation.is_targeted and "target" in outcome.notes:  # of an ensemble, not every member need have one
        reached = (outcome.prediction == outcome.notes["target"]) & (outcome.notes["target"] >= 0)
        outcome = replace(outcome, notes={**outcome.notes, "success": reached})
    if perturbation.is_ensemble:
        component = np.array([None if right else turn[0] for right in outcome.correct], object)
        outcome = replace(outcome, notes={**outcome.notes, "component": component})
    return outcome


def _merged(kept: Outcome | None, new: Outcome, rows: np.ndarray) -> Outcome:
    """The kept outcome with these rows (mask) replaced; notes of rows that were never attacked are None."""
    if kept is None or (rows.all() and set(kept.notes) <= set(new.notes)):
        return new
    values = {}
    for name in ("prediction", "correct", "margin", "logit_range", "size"):
        values[name] = getattr(kept, name).copy()
        values[name][rows] = getattr(new, name)
    inputs = kept.inputs.clone()
    inputs[torch.from_numpy(rows).to(inputs.device)] = new.inputs
    nothing = np.full(len(rows), None, object)
    notes = {name: kept.notes.get(name, nothing).astype(object) for name in [*kept.notes, *new.notes]}
    for name, column in new.notes.items():
        notes[name][rows] = column
    return Outcome(inputs=inputs, **values, notes=notes)
