"""A gallery of examples with their perturbations, computed again from the keys of cells, since no store holds images.

`robharness.export.choice` chooses cells and examples. Passes have the batch size and the threads of the stored outcomes
on the same device, so that predictions are the stored ones; where they differ, a finding says so.
"""

from __future__ import annotations

import glob
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation, describe
from robharness.evaluation import loading
from robharness.evaluation.batch import Batch
from robharness.evaluation.devices import device_name
from robharness.evaluation.modes import kept_modes, neutral_modes
from robharness.evaluation.outcomes import BatchOutcome, group_cells
from robharness.export import recompute, thumbnails
from robharness.export.choice import Choice
from robharness.findings import Finding, finding, named_examples
from robharness.planning.cells import BLOCK, Cell, Plan, PlannedModel, fresh_command, quoted_glob
from robharness.report.details import GalleryExample
from robharness.store.failures import Failure
from robharness.store.results import CellResult, Results
from robharness.text import printable

SECONDS = 60.0
"""The time that passes may take; cells for which too little is left are left out."""
GRADIENT_PASSES = 3
"""The duration of a gradient in forward passes, for estimates."""
OWN_PASSES = 2
"""Forward passes of the harness per example: the judging pass, and one for the confidence."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Examples in the order of the choices, those of all models side by side, and why others are missing."""

    examples: tuple[GalleryExample, ...] = ()
    findings: tuple[Finding, ...] = ()


def gallery(results: Results, choices: Sequence[Choice], *, device: str = "cpu", seconds: float = SECONDS) -> Gallery:
    """Compute the chosen examples again. What fails costs its own cells, and is a finding.

    results: those that were chosen from; the data and weights of their plan are on this machine.
    device: as torch names it.
    seconds: the time that passes may take, on the whole. Every model gets an equal share, and what earlier ones left.
    """
    plan = results.plan
    stored = {(each.cell.model.label, each.cell.key): each for choice in choices for each in choice.cells}
    positions = {each.cell.key: choice.positions for choice in choices for each in choice.cells}
    number = sum(len(choice.cells) * len(choice.positions) for choice in choices)
    models = [model for model in plan.models if any(label == model.label for label, _ in stored)]
    work = _Work(plan=plan, device=device, side=thumbnails.largest_side(number), positions=positions)
    for index, model in enumerate(models, 1):
        work.allowed = seconds * index / len(models)
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
    allowed, spent: seconds of passes.
    made: the examples of all cells so far.
    """

    plan: Plan
    device: str
    side: int
    positions: Mapping[str, tuple[int, ...]]
    allowed: float = 0
    spent: float = 0
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
    """Compute the examples of a model's cells, the cheapest cells first."""
    try:
        loaded = loading.load_model(work.plan, model, device=work.device, batch_size=batch_size)
    except Exception as error:  # also a lack of memory
        work.fail(cells, error)
        return
    try:
        positions = sorted({position for cell in cells for position in work.positions[cell.key]})
        batches = recompute.read(loaded, positions)
        clean, per_pass = _clean_logits(loaded, batches)
        groups = [(_passes(group, work, loaded.classifier.batch_size), group) for group in group_cells(cells)]
        for passes, group in sorted(groups, key=lambda item: item[0]):
            if work.spent + passes * per_pass > work.allowed:
                work.findings.append(_left_out(work.plan, group, passes * per_pass))
                continue
            begun = time.perf_counter()
            wanted = {position for cell in group for position in work.positions[cell.key]}
            for cell, parts in recompute.compute(loaded, group, _selected(batches, wanted)):
                if isinstance(parts, ContractViolation):
                    work.fail([cell], parts)
                else:
                    work.made += [made for part in parts for made in _made(loaded, cell, part, clean, work)]
            work.spent += time.perf_counter() - begun
    except Exception as error:  # of the data, or a lack of memory
        missing = [cell for cell in cells if not any(made.cell is cell for made in work.made)]
        work.fail(missing or cells, error)
    finally:
        loaded.reader.threads.close()


def _clean_logits(
    loaded: loading.LoadedModel, batches: Sequence[tuple[np.ndarray, Batch]]
) -> tuple[dict[int, Tensor], float]:
    """Return the logits of the clean inputs by position, and the seconds that a pass takes."""
    begun = time.perf_counter()
    found: dict[int, Tensor] = {}
    for positions, batch in batches:
        with kept_modes():
            logits = batch.logits(loaded.with_clips(batch).classifier)
        found |= dict(zip(positions.tolist(), logits.cpu(), strict=True))
    passes = sum(math.ceil(len(batch) / loaded.classifier.batch_size) for _, batch in batches)
    return found, (time.perf_counter() - begun) / max(1, passes)


def _passes(group: Sequence[Cell], work: _Work, batch_size: int) -> int:
    """Return the number of passes that a group of cells takes, in forward passes, by the costs that plugins declare."""
    cell = group[-1]
    positions = {position for each in group for position in work.positions[each.key]}
    assert cell.perturbation is not None
    gradients = cell.cost.gradients + cell.cost.shared_gradients
    each = cell.cost.forwards + GRADIENT_PASSES * gradients + OWN_PASSES
    rows = len(positions)
    if cell.perturbation.needs_blocks:
        rows = BLOCK * len({position // BLOCK for position in positions})
    return each * (len(cell.perturbation.smaller) + 1) * math.ceil(rows / batch_size)


def _left_out(plan: Plan, group: Sequence[Cell], seconds: float) -> Finding:
    cell = group[-1]
    words = ("-o", "adversarial", "--only", quoted_glob(glob.escape(cell.name)))
    hint = f"To write its images to files: {plan.command('export-adversarial', *words)}"
    return finding(
        "gallery-left-out",
        f"not in the gallery: its examples would take about {max(1, round(seconds))} s of the {SECONDS:.0f} s that a "
        "gallery may take",
        subject=cell.name,
        hint=hint if cell.kind == "attack" else "",
    )


def _selected(batches: Sequence[tuple[np.ndarray, Batch]], wanted: Iterable[int]) -> list[tuple[np.ndarray, Batch]]:
    """Return the examples at these positions; the logits of the whole batches are used again."""
    some = [(at, batch, np.flatnonzero(np.isin(at, list(wanted)))) for at, batch in batches]
    return [
        (at[rows], batch.select(torch.from_numpy(rows).to(batch.x.device))) for at, batch, rows in some if len(rows)
    ]


def _made(
    loaded: loading.LoadedModel, cell: Cell, part: BatchOutcome, clean: Mapping[int, Tensor], work: _Work
) -> Iterable[_Made]:
    """Yield the examples of a cell on one batch that the gallery shows."""
    steps = loaded.model.entry.spec.preprocessing
    is_bgr = steps is not None and steps.channel_order == "bgr"
    perturbation, outcome = cell.perturbation, part.outcome
    assert perturbation is not None
    with kept_modes():
        logits = loaded.with_clips(part.batch).classifier.logits(outcome.inputs).cpu()
    for row, position in enumerate(part.positions.tolist()):
        if position not in work.positions[cell.key]:
            continue
        before, after = (thumbnails.visible(x[row], is_bgr=is_bgr) for x in (part.batch.x, outcome.inputs))
        label, clean_prediction = int(part.batch.labels[row]), _prediction(clean[position])
        prediction, size = int(outcome.prediction[row]), float(outcome.size[row])
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
                "clean_confidence": _confidence(clean[position]),
                "prediction": prediction,
                "confidence": _confidence(logits[row]),
                "margin": float(outcome.margin[row]),
                "fooled": clean_prediction == label != prediction,
                "clean": thumbnails.png(thumbnails.fitted(before, work.side)),
                "perturbed": thumbnails.png(thumbnails.fitted(after, work.side)),
                "size": size if math.isfinite(size) else None,
            },
            difference=thumbnails.fitted(after - before, work.side, by_mean=False),
            largest=float((after - before).abs().max()),
        )


def _prediction(logits: Tensor) -> int:
    return -1 if logits.isnan().any() else int(logits.argmax())


def _confidence(logits: Tensor) -> float:
    return float(logits.double().softmax(0).max())


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
            hint=f"To compute the stored outcomes again: {fresh_command(results.plan, label)}",
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
