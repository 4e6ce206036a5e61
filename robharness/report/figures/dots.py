"""Rows of dots on an axis of accuracies, which have room for long names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.lines import Line2D

from robharness.report.figures.figure import Drawing
from robharness.report.figures.series import (
    MARKERS,
    Series,
    accuracy_of,
    add_legend,
    all_series,
    cells_of,
    palette,
    plain,
    spoken,
)
from robharness.report.records import CellNumbers, Report

MOST_PERTURBATIONS, MOST_DOTS = 12, 96
"""Perturbations with rows of dots, and dots of all rows, of which there are at least 3; the tables have all."""
PANELS_PER_FIGURE = 6
"""Models of one figure that has a panel per model."""


class Pair(NamedTuple):
    """The clean cell of a model, or of its first run, and the cell of its strongest attack; one may be missing."""

    series: Series
    cells: list[CellNumbers]

    def looks(self) -> Iterator[tuple[CellNumbers, dict[str, Any]]]:
        """Yield each cell with the colour, marker and line that clean and attacked cells have in all panels."""
        colors = palette()
        for at, cell in enumerate(self.cells):
            number = int(cell.kind != "clean")
            yield cell, {"color": colors[number % len(colors)], "marker": MARKERS[number],
                         "linestyle": ("-", "--")[number], "at": at}  # fmt: skip


def clean_and_strongest(report: Report, has_number: Callable[[CellNumbers], bool]) -> list[Pair]:
    """Return the pairs of all models that have such cells."""
    found = []
    for series in series_with(report, has_number):
        clean = [cell for cell in cells_of(report, series).get("clean", []) if has_number(cell)][:1]
        attacked = strongest(report, series, has_number)
        if clean or attacked:
            found.append(Pair(series, [*clean, *([attacked] if attacked else [])]))
    return found


def pairs(shown: Sequence[Pair]) -> str:
    """Return the labels of the models in words."""
    return spoken([pair.series.label for pair in shown])


def pair_legend(drawing: Drawing, shown: Sequence[Pair]) -> None:
    """Add a legend that tells clean and attacked cells apart."""
    looks = {cell.kind: look for pair in shown for cell, look in pair.looks()}
    names = {"clean": "clean", "attack": "strongest attack", "corruption": "strongest corruption"}
    handles = [Line2D([], [], color=look["color"], marker=look["marker"], linestyle=look["linestyle"], markersize=4)
               for look in looks.values()]  # fmt: skip
    add_legend(drawing, handles, [names[kind] for kind in looks])


def chosen_perturbations(report: Report, has_number: Callable[[CellNumbers], bool]) -> tuple[list[str], int]:
    """Return clean and the perturbations with the lowest mean accuracy, in the order of the suite, and their number.

    has_number: whether a cell counts.
    """
    most = max(3, min(MOST_PERTURBATIONS, MOST_DOTS // max(1, len(series_with(report, has_number)))))
    accuracies: dict[str, list[float]] = {}
    for cell in report.cells:
        value = accuracy_of(cell)
        if value is not None and has_number(cell):
            accuracies.setdefault(cell.perturbation, []).append(value)
    lowest = sorted(accuracies, key=lambda name: (name != "clean", sum(accuracies[name]) / len(accuracies[name])))
    kept = set(lowest[:most])
    return [name for name in accuracies if name in kept], len(accuracies)


def selection_note(shown: int, of: int) -> str:
    """Return the rule of `chosen_perturbations` if it left some out."""
    return f" Clean and the {shown - 1} of {of - 1} perturbations with the lowest mean accuracy." if shown < of else ""


def strongest(report: Report, series: Series, has_number: Callable[[CellNumbers], bool]) -> CellNumbers | None:
    """Return the cell of an attack with a budget that has a model's lowest accuracy; without attacks, of a corruption.

    Of several runs, the first is taken.
    """
    first = [cells[0] for cells in cells_of(report, series).values()]
    cells = [cell for cell in first if has_number(cell) and accuracy_of(cell) is not None and not cell.is_unbounded]
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
    axis.hlines([0.5 - at for at in range(1, len(names))], 0, 1, transform=axis.get_yaxis_transform(),
                color=matplotlib.rcParams["text.color"], alpha=0.12, linewidth=0.8)  # fmt: skip
    axis.grid(axis="x", alpha=0.2)


def series_with(report: Report, has_number: Callable[[CellNumbers], bool]) -> list[Series]:
    """Return the models that have such a cell."""
    models = {cell.model for cell in report.cells if has_number(cell)}
    return [series for series in all_series(report) if models.intersection(series.models)]
