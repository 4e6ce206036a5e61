"""Findings of a report: everything that a reader must know beside the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robharness import statistics
from robharness.report.records import CellNumbers, CorruptionErrors, SlopeNumbers
from robharness.specs.records import MetricResult
from robharness.store.results import CellResult, Results


def untrained(results: Results, *, failed: bool) -> list[str]:
    """The models that are not there, one line each where their training failed, and one for the others."""
    plan, remarks, labels = results.plan, [], []
    for model in plan.untrained:
        why = model.artefact.failure if model.artefact else ""
        if why:
            remarks.append(f"{model.label} could not be trained: {why}")
        else:
            labels.append(model.label)
    if failed or not labels:
        return remarks if failed else []
    return [
        f"not trained yet: {', '.join(labels)}; {len(plan.pending_cells)} cells wait for that. To train: robharness train "
        f"{plan.suite.path_for_shell}"
    ]


def metric_findings(values: dict[str, dict[str, MetricResult]]) -> list[str]:
    """Metrics that say why they have no number."""
    return [f"no {name} for {label}: {each.unavailable_reason}" for name, by in values.items() for label, each in by.items()
            if each.unavailable_reason]  # fmt: skip


def failures(results: Results) -> list[str]:
    """One line per cause, with the cells that it cost."""
    cells: dict[str, list[str]] = {}
    for result in results.every:
        for failure in result.failures:
            cells.setdefault(str(failure), []).append(result.cell.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more cells' if len(names) > 1 else ''}: {cause}"
        for cause, names in cells.items()
    ]


BOUNDARY_TOLERANCE = 1e-4
"""Of the logit range: how near the boundary another pass shape, thread count or device may tip an outcome over."""
RUNTIME_FACTORS = ("rows", "threads", "device", "memory_format", "folded", "sources")


def provenance_findings(results: Results) -> list[str]:
    """How outcomes were made, where that is not one way: they are the same only up to rounding."""
    remarks = []
    for label in results.labels:
        cells = [result for result in results.every if result.cell.model.label == label and result.n]
        ways = [way for cell in cells for way in cell.provenance]
        for rows in sorted({way["too_many_rows"] for way in ways if "too_many_rows" in way}):
            fewer = {way["rows"] for way in ways if way.get("too_many_rows") == rows}
            remarks.append(
                f"{label}: memory was too small for {rows} examples per pass; {_all_of(sorted(fewer))} were taken"
            )
        mixed = [cell for cell in cells if len({_runtime_factors(way) for way in cell.provenance}) > 1]
        if mixed:
            remarks.append(_mixed(label, mixed))
        networks = {way.get("model_state") for way in ways}
        if len(networks) > 1:
            remarks.append(
                f"{label}: its outcomes come from {len(networks)} different networks under one name; "
                f"to compute them again: robharness run SUITE --fresh '{label}'"
            )
    return remarks


def _mixed(label: str, cells: Sequence[CellResult]) -> str:
    """How many outcomes of these cells, whose parts were made in different ways, could be others for that."""
    seen = {name: {way.get(name, 0) for cell in cells for way in cell.provenance} for name in RUNTIME_FACTORS}
    differ = ", ".join(f"{name} {_all_of(sorted(values, key=str))}" for name, values in seen.items() if len(values) > 1)
    near = sum(int((np.abs(c.columns["margin"]) <= BOUNDARY_TOLERANCE * c.columns["logit_range"]).sum()) for c in cells)
    return (
        f"{label}: parts of one cell were made in different ways ({differ}), in {len(cells)} cells; {near} of their "
        f"{sum(cell.n for cell in cells)} outcomes are so near the boundary (1e-4 of the logit range) that this alone "
        f"can tip them over"
    )


def _all_of(values: Sequence[Any]) -> str:
    return " and ".join(map(str, values))


def _runtime_factors(way: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(way.get(name, 0) for name in RUNTIME_FACTORS)


def weaker_attacks(results: Results) -> list[str]:
    """Attacks of many steps that leave more right than one of a single step: a step too small, or masked gradients."""
    remarks = []
    for label in results.labels:
        cells = [result for result in results.of(label, "attack") if result.n and _is_plain(result)]
        for one in (cell for cell in cells if cell.cell.cost.gradients + cell.cell.cost.shared_gradients == 1):
            for many in (cell for cell in cells if cell.cell.cost.gradients > 1):
                mine, other = one.cell.perturbation, many.cell.perturbation
                if mine and other and (mine.norm, mine.eps) == (other.norm, other.eps):
                    single, iterated = results.paired([one, many])
                    if iterated.sum() > single.sum():
                        remarks.append(
                            f"{label}: {other.name} leaves {int(iterated.sum())} of {len(single)} right, "
                            f"{mine.name}, a single step, {int(single.sum())}: its steps are too small or too few, "
                            f"or gradients mislead it"
                        )
    return remarks


def _is_plain(result: CellResult) -> bool:
    perturbation = result.cell.perturbation
    if perturbation is None or perturbation.surrogate is not None or perturbation.is_targeted:
        return False
    return bool(perturbation.entry.spec.access != "features")  # these do not even look at the classes


def unreadable_examples(results: Results) -> list[str]:
    """Broken examples are the same ones for all models, so they are named once."""
    broken = sorted(
        {example for result in results.cells if result.cell.kind == "clean" for example in result.unreadable}
    )
    if not broken:
        return []
    more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    count = (
        "example of the data cannot be read and counts"
        if len(broken) == 1
        else "examples of the data cannot be read and count"
    )
    return [f"{len(broken)} {count} as wrong everywhere: {', '.join(broken[:NAMED])}{more}"]


NAMED = 5
"""Broken examples that a warning names."""


def number_findings(
    cells: Sequence[CellNumbers], slopes: Sequence[SlopeNumbers], errors: Sequence[CorruptionErrors]
) -> list[str]:
    remarks = []
    for cell in cells:
        name = f"{cell.model}, {cell.perturbation}"
        if cell.not_numbers:
            remarks.append(f"{name}: {cell.not_numbers} examples have logits that are not numbers; they count as wrong")
        remarks += [f"{name}: {note} {total:g} over {cell.numbers.n} examples"
                    for note, total in cell.notes.items() if total and note in cell.alarms]  # fmt: skip
    if any(slope.few_examples for slope in slopes):
        n = min(slope.n for slope in slopes)
        remarks.append(
            f"slopes come from {n} examples, fewer than {statistics.MIN_SLOPE_EXAMPLES}: noise in the reference's drops "
            "bends them; read them by their intervals"
        )
    remarks += [f"no mCE of {each.corruptions} for {each.model}: {each.lacks}" for each in errors if each.lacks]
    return remarks
