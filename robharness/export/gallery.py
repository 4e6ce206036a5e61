"""A gallery of examples with their perturbations, computed again from the keys of cells, since no store holds images.

`robharness.export.choice` chooses cells and examples. Passes have the batch size and the threads of the stored outcomes
on the same device, so that predictions are the stored ones; where they differ, a finding says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation, describe
from robharness.evaluation import loading
from robharness.evaluation.batch import Batch
from robharness.evaluation.columns import own_labels
from robharness.evaluation.devices import device_name
from robharness.evaluation.modes import neutral_modes
from robharness.evaluation.outcomes import BatchOutcome, group_cells
from robharness.export import recompute, thumbnails
from robharness.export.choice import Choice
from robharness.findings import Finding, finding, named_examples
from robharness.planning.cells import Cell, Plan
from robharness.planning.commands import fresh_command
from robharness.planning.planned import PlannedModel
from robharness.report.details import GalleryExample
from robharness.store.failures import Failure
from robharness.store.results import CellResult, Results
from robharness.text import printable


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Examples in the order of the choices, those of all models side by side, and why others are missing."""

    examples: tuple[GalleryExample, ...] = ()
    findings: tuple[Finding, ...] = ()


def gallery(results: Results, choices: Sequence[Choice], *, device: str = "cpu") -> Gallery:
    """Compute the chosen examples again. What fails costs its own cells, and is a finding.

    results: those that were chosen from; the data and weights of their plan are on this machine.
    device: as torch names it.
    """
    plan = results.plan
    stored = {(each.cell.model.label, each.cell.key): each for choice in choices for each in choice.cells}
    positions = {each.cell.key: choice.positions for choice in choices for each in choice.cells}
    number = sum(len(choice.cells) * len(choice.positions) for choice in choices)
    models = [model for model in plan.models if any(label == model.label for label, _ in stored)]
    work = _Work(plan=plan, device=device, side=thumbnails.largest_side(number), positions=positions)
    for model in models:
        cells = [cell for cell in plan.cells if cell.model is model and (model.label, cell.key) in stored]
        batch_size, threads = _passes_of(stored[model.label, cells[0].key], device) if cells else (None, None)
        with neutral_modes(threads):
            _compute(work, model, cells, batch_size)
        work.findings += _differing(results, [made for made in work.made if made.cell.model is model], stored)
    return Gallery(examples=tuple(_examples(choices, work.made)), findings=tuple(work.findings))


@dataclass(kw_only=True)
class _Work:
    """The state of a gallery while it is computed.

    side: the largest side of an image in pixels.
    positions: of the examples to show, by the key of the cell.
    made: the examples of all cells so far.
    """

    plan: Plan
    device: str
    side: int
    positions: Mapping[str, tuple[int, ...]]
    made: list[_Made] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def fail(self, cells: Sequence[Cell], error: Exception) -> None:
        """Note that these cells of one model have no examples, because of one error."""
        span = self.plan.span
        text = str(Failure.of(cells[0], span, error)) if isinstance(error, ContractViolation) else describe(error)
        names = ", ".join(printable(cell.short_name) for cell in cells)
        self.findings.append(
            finding("gallery-failed", f"not in the gallery ({names}): {text}", subject=cells[0].model.label)
        )


@dataclass(frozen=True, kw_only=True)
class _Made:
    """An example of a cell.

    position: of the example.
    facts: fields of `GalleryExample`.
    difference: the perturbation at the size of the images, (C, H, W).
    largest: the largest absolute value of the whole perturbation.
    """

    cell: Cell
    position: int
    facts: dict[str, Any]
    difference: Tensor
    largest: float


def _passes_of(result: CellResult, device: str) -> tuple[int | None, int | None]:
    """Return the batch size and the threads of the stored outcomes, or None if they come from another device."""
    for provenance in result.provenance:
        rows, threads = provenance.get("rows"), provenance.get("threads")
        if provenance.get("device") == device_name(device) and type(rows) is int and rows > 0:
            return rows, min(threads, os.cpu_count() or 1) if type(threads) is int and threads > 0 else None
    return None, None


def _compute(work: _Work, model: PlannedModel, cells: Sequence[Cell], batch_size: int | None) -> None:
    """Compute the examples of a model's cells."""
    try:
        loaded = loading.load_model(work.plan, model, device=work.device, batch_size=batch_size)
    except Exception as error:  # also a lack of memory
        work.fail(cells, error)
        return
    pending = {cell.key: cell for cell in cells}
    try:
        clean_cell = next(cell for cell in work.plan.cells if cell.model is model and cell.kind == "clean")
        positions = sorted({position for cell in cells for position in work.positions[cell.key]})
        batches = recompute.read(loaded, positions)
        if sum(len(at) for at, _ in batches) < len(positions):
            raise ContractViolation("it gives no image of some examples that it gave in the run", by="data")
        clean = _by_position(recompute.compute(loaded, [clean_cell], batches))
        for group in group_cells(cells):
            wanted = {position for cell in group for position in work.positions[cell.key]}
            for cell, parts in recompute.compute(loaded, group, _selected(batches, wanted)):
                del pending[cell.key]
                if isinstance(parts, ContractViolation):
                    work.fail([cell], parts)
                else:
                    work.made += [made for part in parts for made in _made(cell, part, clean, work)]
    except Exception as error:  # of the data or the clean pass, or a lack of memory
        work.fail(list(pending.values()), error)
    finally:
        loaded.reader.threads.close()


def _by_position(
    computed: Iterable[tuple[Cell, list[BatchOutcome] | ContractViolation]],
) -> dict[int, tuple[int, float]]:
    """Return the predictions of a cell and their confidences, by position. Raises the cell's ContractViolation."""
    [(cell, parts)] = computed
    if isinstance(parts, ContractViolation):
        raise parts
    found: dict[int, tuple[int, float]] = {}
    for part in parts:
        judged = zip(own_labels(cell, part.outcome.prediction).tolist(), part.outcome.confidence.tolist(), strict=True)
        found |= dict(zip(part.positions.tolist(), judged, strict=True))
    return found


def _selected(batches: Sequence[tuple[np.ndarray, Batch]], wanted: Iterable[int]) -> list[tuple[np.ndarray, Batch]]:
    """Return the examples at these positions; the logits of the whole batches are used again."""
    some = [(at, batch, np.flatnonzero(np.isin(at, list(wanted)))) for at, batch in batches]
    return [
        (at[rows], batch.select(torch.from_numpy(rows).to(batch.x.device))) for at, batch, rows in some if len(rows)
    ]


def _made(cell: Cell, part: BatchOutcome, clean: Mapping[int, tuple[int, float]], work: _Work) -> Iterable[_Made]:
    """Yield the examples of a cell on one batch that the gallery shows.

    clean: predictions and confidences without the perturbation, by position.
    """
    steps = cell.model.entry.spec.preprocessing
    is_bgr = steps is not None and steps.channel_order == "bgr"
    perturbation, outcome = cell.perturbation, part.outcome
    assert perturbation is not None
    labels, predictions = own_labels(cell, part.batch.labels), own_labels(cell, outcome.prediction)
    for row, position in enumerate(part.positions.tolist()):
        if position not in work.positions[cell.key]:
            continue
        before, after = (thumbnails.visible(x[row], is_bgr=is_bgr) for x in (part.batch.x, outcome.inputs))
        label, (clean_prediction, clean_confidence) = int(labels[row]), clean[position]
        prediction, size = int(predictions[row]), float(outcome.size[row])
        yield _Made(
            cell=cell,
            position=position,
            facts={
                "model": cell.model.label,
                "perturbation": cell.short_name,
                "kind": perturbation.kind,
                "key": cell.key,
                "example": part.batch.ids[row],
                "label": label,
                "clean_prediction": clean_prediction,
                "clean_confidence": clean_confidence,
                "prediction": prediction,
                "confidence": float(outcome.confidence[row]),
                "margin": float(outcome.margin[row]),
                "fooled": clean_prediction == label != prediction,
                "clean": thumbnails.png(thumbnails.fitted(before, work.side)),
                "perturbed": thumbnails.png(thumbnails.fitted(after, work.side)),
                "size": size if math.isfinite(size) else None,
            },
            difference=thumbnails.fitted(after - before, work.side, by_mean=False),
            largest=float((after - before).abs().max()),
        )


def _differing(
    results: Results, made: Sequence[_Made], stored: Mapping[tuple[str, str], CellResult]
) -> Iterable[Finding]:
    """Yield a finding if examples of a model have other predictions than the stored ones, clean or perturbed."""
    differing: dict[str, str] = {}
    for each in made:
        label, facts = each.cell.model.label, each.facts
        for name, result, prediction in (
            ("clean", results.clean(label), facts["clean_prediction"]),
            (each.cell.short_name, stored[label, each.cell.key], facts["prediction"]),
        ):
            row = int(np.searchsorted(result.positions, each.position))
            if int(result.columns["prediction"][row]) != prediction:
                differing.setdefault(facts["example"], name)
    if differing:
        label = made[0].cell.model.label
        yield finding(
            "gallery-differs",
            f"{len(differing)} of the {len({each.position for each in made})} examples of the gallery have another "
            f"prediction than the stored one: {named_examples(list(differing), differing)}; the images and their "
            "confidences are those of this computation",
            subject=label,
            hint=f"To compute the stored outcomes again: {fresh_command(results.outline, label)}",
        )


def _examples(choices: Sequence[Choice], made: Sequence[_Made]) -> Iterable[GalleryExample]:
    """Yield the examples in the order of the choices, with one magnification per perturbation."""
    for choice in choices:
        order = {(result.cell.model.label, result.cell.key): number for number, result in enumerate(choice.cells)}
        some = [each for each in made if (each.facts["model"], each.cell.key) in order]
        factor = thumbnails.magnification([each.largest for each in some])
        for each in sorted(some, key=lambda each: (each.position, order[each.facts["model"], each.cell.key])):
            image = thumbnails.png(thumbnails.magnified(each.difference, factor))
            yield GalleryExample(**each.facts, perturbation_image=image, magnification=factor)
