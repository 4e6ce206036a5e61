"""Outcomes of a group of cells on batches of examples."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from robharness.errors import ENSEMBLE, ContractViolation, describe
from robharness.evaluation import heads, referee
from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import predictions
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.modes import kept_modes
from robharness.evaluation.perturb import Member, PerturbedInputs, build_members, perturb, perturb_in_blocks
from robharness.evaluation.referee import Outcome
from robharness.evaluation.unchanged import check_perturbation
from robharness.planning.cells import Cell
from robharness.store.passes import PassTotals
from robharness.suite import Perturbation


class BatchOutcome(NamedTuple):
    """A cell's outcome on one batch.

    positions: of the batch's examples in the data set's fixed order, (N,).
    attacked: the examples that were attacked for this cell, (N,) bool.
    passes: what the attack requested from the model; None for other cells.
    """

    positions: np.ndarray
    batch: Batch
    outcome: Outcome
    attacked: np.ndarray
    passes: PassTotals | None


class CellOutcome(NamedTuple):
    """The outcome of one cell of a group on a batch; see `BatchOutcome`."""

    cell: Cell
    outcome: Outcome
    attacked: np.ndarray
    passes: PassTotals | None


def group_cells(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return groups of cells that are computed together, in the order of computing.

    The budgets of a nested attack are one group, in ascending order. A cell with features is in the group of the cell
    without them. Clean cells come last, since the gradient pass of an attack may have computed their logits already.
    """

    def group_key(cell: Cell) -> Any:
        p = cell.perturbation
        if p is None or not p.nested:
            return cell.what
        return (p.entry.name, repr(p.params), p.nested, p.source, p.eight_bit)

    groups: dict[Any, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.perturbation is None):
        groups.setdefault(group_key(cell), []).append(cell)
    return [sorted(group, key=_size) for group in groups.values()]


def _size(cell: Cell) -> float:
    p = cell.perturbation
    if p is None:
        return 0
    return math.inf if p.is_unbounded else float(p.eps or p.severity or 0)


def outcomes_by_cell(
    loaded: LoadedModel, group: Sequence[Cell], batches: Sequence[tuple[np.ndarray, Batch]]
) -> Iterator[tuple[Cell, list[BatchOutcome]]]:
    """Yield the cells of a group in their order, each with its outcomes on all batches.

    batches: with their positions, as `Reader.batches` returns them; if empty, every cell has no outcomes.
    Raises ContractViolation at the first cell that cannot be computed; no cell of the group follows.
    """
    per_batch = [outcomes(loaded, group, batch, positions) for positions, batch in batches]
    for cell in group:
        parts = []
        for (positions, batch), computed in zip(batches, per_batch, strict=True):
            with kept_modes() as modes:  # what attacks and corruptions change is put back before
                found = next(computed)
            loaded.note_restored(loaded.model.entry.name, modes.changed)
            parts.append(BatchOutcome(positions, batch, found.outcome, found.attacked, found.passes))
        check_perturbation(cell)  # which read its files when it was built, once per batch
        yield cell, parts


def outcomes(loaded: LoadedModel, group: Sequence[Cell], batch: Batch, positions: np.ndarray) -> Iterator[CellOutcome]:
    """Yield the outcome of every cell of a group, in the group's order.

    group: from `group_cells`.
    positions: of the batch's examples in the data set's fixed order, (N,).
    An example that is not attacked keeps the outcome that it has: the clean one if only correct examples count, that of
    a smaller budget that fooled the model, or that of an earlier member of an ensemble.
    Raises ContractViolation at the first cell that cannot be computed.
    """
    perturbation, loaded = group[0].perturbation, loaded.with_clips(batch)
    active = np.ones(len(batch), bool)
    if perturbation is None:
        clean = _clean(loaded, batch)
        for cell in group:
            outcome = _with_features(loaded, batch, clean) if cell.with_features else clean
            yield CellOutcome(cell, outcome, ~active, None)
        return
    current = None
    if group[0].count == "robust":
        current = _clean(loaded, batch)
        active = current.correct.copy()
    budgets = [budget for budget in perturbation.nested if float(budget) <= _size(group[-1])]
    for eps in budgets or (perturbation.eps,):
        at_budget = replace(perturbation, eps=eps)
        attacked, made = active, list[PerturbedInputs]()
        for member in build_members(at_budget, loaded):
            if active.any():
                outcome, inputs = _perturbed_outcome(loaded, at_budget, member, batch, positions, active)
                made.append(inputs)
                current = _merged(current, outcome, active)
                active = active & current.correct if at_budget.is_ensemble else active
        assert current is not None
        passes = None
        if perturbation.kind == "attack":
            kinds = ("forwards", "gradients", "fit_forwards", "fit_gradients")
            rows = {kind: sum(getattr(each, kind) for each in made) for kind in kinds}
            passes = PassTotals(examples=len(batch), attacked=int(attacked.sum()), **rows)
        for cell in group:
            if cell.perturbation and cell.perturbation.eps == eps:
                outcome = _with_features(loaded, batch, current) if cell.with_features else current
                yield CellOutcome(cell, outcome, attacked, passes)
        active = attacked & current.correct


def _clean(loaded: LoadedModel, batch: Batch) -> Outcome:
    logits = batch.logits(loaded.classifier)
    return referee.judge(batch.x, batch.labels, logits, np.full(len(batch), np.nan), {})


def _with_features(loaded: LoadedModel, batch: Batch, outcome: Outcome) -> Outcome:
    """Return the outcome with the features of its inputs as notes.

    A clean outcome also gets the features' distance to the decision boundary, if the head is linear.
    """
    view = loaded.classifier.with_access("features")
    if outcome.inputs is not batch.x:
        return replace(outcome, notes={"features": view.features(outcome.inputs).cpu().numpy()})
    notes = {"features": batch.features(view).cpu().numpy()}
    if loaded.logit_distances is not None:
        logits, labels = batch.logits(loaded.classifier), batch.labels
        notes["boundary"] = heads.boundary(logits.cpu().numpy(), labels.cpu().numpy(), loaded.logit_distances)
    return replace(outcome, notes=notes)


def _perturbed_outcome(
    loaded: LoadedModel,
    perturbation: Perturbation,
    member: Member,
    batch: Batch,
    positions: np.ndarray,
    active: np.ndarray,
) -> tuple[Outcome, PerturbedInputs]:
    """Perturb the rows that are still active, (N,) bool, and judge them."""
    crafting = loaded
    source = perturbation.source
    if source not in ("", loaded.model.label):
        surrogate = loaded.surrogates[source]
        if isinstance(surrogate, ContractViolation):
            raise surrogate
        crafting, batch = surrogate.with_clips(batch), batch.for_model(source)
    part = batch if active.all() else batch.select(torch.from_numpy(active.nonzero()[0]).to(batch.x.device))
    try:
        if perturbation.needs_blocks:
            made = perturb_in_blocks(crafting, perturbation, member, part, positions[active])
        else:
            made = perturb(crafting, perturbation, member, part)
    except ContractViolation as error:
        if crafting is not loaded:
            blamed = "surrogate" if len(perturbation.surrogates) == 1 else ENSEMBLE
            error.by = re.sub(r"^model\b", blamed, error.by)
        raise
    x, notes = made.x, made.notes
    if perturbation.eight_bit:
        rounded = predictions(loaded.classifier.logits((x * 255).round() / 255))
        notes |= {"prediction_8bit": rounded.cpu().numpy(), "correct_8bit": (rounded == part.labels).cpu().numpy()}
    outcome = referee.judge(x, part.labels, loaded.classifier.logits(x), made.size, notes)
    if perturbation.is_targeted and "target" in outcome.notes:  # a member of an ensemble need not have one
        reached = (outcome.prediction == outcome.notes["target"]) & (outcome.notes["target"] >= 0)
        outcome = replace(outcome, notes={**outcome.notes, "success": reached})
    if perturbation.is_ensemble:
        component = np.array([None if correct else member.name for correct in outcome.correct], object)
        outcome = replace(outcome, notes={**outcome.notes, "component": component})
    return outcome, made


def unexpected(error: Exception) -> ContractViolation:
    """Return an exception that no plugin is known to have raised as one of the model; its traceback says more."""
    found = ContractViolation(f"its outcome cannot be computed: {describe(error)}", by="model")
    found.__cause__ = error
    return found


def _merged(current: Outcome | None, new: Outcome, rows: np.ndarray) -> Outcome:
    """Return the current outcome with the rows of a mask replaced; notes of rows that were never attacked are None."""
    if current is None or (rows.all() and set(current.notes) <= set(new.notes)):
        return new
    values = {}
    for name in ("prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size"):
        values[name] = getattr(current, name).copy()
        values[name][rows] = getattr(new, name)
    inputs = current.inputs.clone()
    inputs[torch.from_numpy(rows).to(inputs.device)] = new.inputs
    nothing = np.full(len(rows), None, object)
    notes = {name: current.notes.get(name, nothing).astype(object) for name in [*current.notes, *new.notes]}
    for name, column in new.notes.items():
        notes[name][rows] = column
    return Outcome(inputs=inputs, **values, notes=notes)
