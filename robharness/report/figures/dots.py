"""Rows of dots on an axis of accuracies, which have room for long names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

from robharness.report.figures.series import Series, accuracy_of, all_series, cells_of, plain
from robharness.report.records import CellNumbers, Report

MOST_PERTURBATIONS = 12
"""Perturbations with rows of dots; the tables have all."""


def chosen_perturbations(report: Report, has_number: Callable[[CellNumbers], bool]) -> tuple[list[str], int]:
    """Return clean and the perturbations with the lowest mean accuracy, in the order of the suite, and their number.

    has_number: whether a cell counts.
    """
    accuracies: dict[str, list[float]] = {}
    for cell in report.cells:
        value = accuracy_of(cell)
        if value is not None and has_number(cell):
            accuracies.setdefault(cell.perturbation, []).append(value)
    lowest = sorted(accuracies, key=lambda name: (name != "clean", sum(accuracies[name]) / len(accuracies[name])))
    kept = set(lowest[:MOST_PERTURBATIONS])
    return [name for name in accuracies if name in kept], len(accuracies)


def selection_note(shown: int, of: int) -> str:
    """Return the rule of `chosen_perturbations` if it left some out."""
    return f" Clean and the {shown - 1} of {of - 1} perturbations with the lowest mean accuracy." if shown < of else ""


def strongest(report: Report, series: Series, has_number: Callable[[CellNumbers], bool]) -> CellNumbers | None:
    """Return the attacked cell with a model's lowest accuracy; the corrupted one without attacks.

    Of runs, the first is taken.
    """
    cells = [found for cells in cells_of(report, series).values() for cell in cells[:1]
             if has_number(found := cell) and accuracy_of(cell) is not None]  # fmt: skip
    for kind in ("attack", "corruption"):
        of_kind = [cell for cell in cells if cell.kind == kind]
        if of_kind:
            return min(of_kind, key=lambda cell: accuracy_of(cell) or 0.0)
    return None


def row_height(series: int) -> float:
    """Return the height in inches of a row that has a dot per model."""
    return float(max(0.3, 0.11 * series + 0.16) * matplotlib.rcParams["font.size"] / 10)


def offsets(count: int) -> list[float]:
    """Return the heights of dots around the middle of their row, the first on top."""
    return [0.0] if count == 1 else [0.36 - 0.72 * at / (count - 1) for at in range(count)]


def name_rows(axis: Any, names: Sequence[str]) -> None:
    """Name rows 0, -1, -2, ... and draw lines between them."""
    axis.set_yticks([-at for at in range(len(names))], [plain(name) for name in names])
    axis.set_ylim(-len(names) + 0.5, 0.5)
    axis.tick_params(axis="y", length=0)
    for at in range(1, len(names)):
        axis.axhline(0.5 - at, color=matplotlib.rcParams["text.color"], alpha=0.12, linewidth=0.8)
    axis.grid(axis="x", alpha=0.2)


def series_with(report: Report, has_number: Callable[[CellNumbers], bool]) -> list[Series]:
    """Return the models that have such a cell."""
    models = {cell.model for cell in report.cells if has_number(cell)}
    return [series for series in all_series(report) if models.intersection(series.models)]
