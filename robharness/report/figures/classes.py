"""Accuracies of the worst class, and of the classes with the lowest accuracies."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from robharness.report.figures.dots import (
    PANELS_PER_FIGURE,
    Pair,
    chosen_perturbations,
    clean_and_strongest,
    name_rows,
    offsets,
    pair_legend,
    pairs,
    row_height,
    selection_note,
    series_with,
)
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    LABEL_LENGTH,
    Series,
    accuracy_of,
    add_legend,
    cells_of,
    extremes,
    panels,
    percent,
    percent_axis,
    plain,
)
from robharness.report.records import CellNumbers, Report
from robharness.text import printable

MOST_LOWEST = 5
"""Classes of a cell that a panel shows; the report's details have more."""


def class_figures(report: Report) -> Iterator[Figure]:
    """Yield the accuracy of the worst class of every model, then the lowest classes of each model."""
    series = series_with(report, _has_classes)
    if not series:
        return
    rows, of = chosen_perturbations(report, _has_classes)
    cells = [cell for each in series for cells in cells_of(report, each).values() for cell in cells if cell.classes]
    labels = [printable(each.models[0], LABEL_LENGTH) for each in series if each.has_runs]
    first = f" Of several runs, the first: {', '.join(labels)}." if labels else ""
    yield Figure(
        name="worst-classes",
        title="Accuracy of the worst class",
        caption=(
            "Accuracy in % on the class where it is lowest (filled), with a 95 % confidence interval that holds for "
            "the minimum over all classes, and on all examples (hollow); "
            f"{max(cell.classes.classes for cell in cells if cell.classes)} classes, n = {report.n}."
            f"{selection_note(len(rows), of)}{first}"
        ),
        alt=" ".join(_worst_finding(name, [c for c in cells if c.perturbation == name]) for name in rows),
        draw=lambda: _draw_worst(report, series, rows),
    )
    every = clean_and_strongest(report, _has_classes)
    for at in range(0, len(every), PANELS_PER_FIGURE):
        shown = every[at : at + PANELS_PER_FIGURE]
        yield Figure(
            name=f"classes-{1 + at // PANELS_PER_FIGURE}",
            title=f"Classes with the lowest accuracies, {pairs(shown)}",
            caption=(
                "Accuracy in % per class, with 95 % confidence intervals that hold for all classes together: the "
                f"{MOST_LOWEST} lowest classes or fewer, clean and under the strongest attack on each model; "
                f"n = {report.n}.{first}"
            ),
            alt=" ".join(_lowest_finding(pair.series, cell) for pair in shown for cell in pair.cells),
            draw=partial(_draw_lowest, shown),
        )


def _has_classes(cell: CellNumbers) -> bool:
    return cell.shows_classes


def _worst_finding(name: str, cells: list[CellNumbers]) -> str:
    """Return the accuracies of the worst class in words, the highest first."""
    found = sorted((-cell.classes.worst, printable(cell.model, LABEL_LENGTH)) for cell in cells if cell.classes)
    texts = [f"{label} {percent(-worst)}" for worst, label in found]
    return f"Worst class, {printable(name, LABEL_LENGTH)}: {extremes(texts)}."


def _lowest_finding(series: Series, cell: CellNumbers) -> str:
    assert cell.classes is not None
    lowest = cell.classes.lowest[0]
    return (f"{series.label}, {printable(cell.perturbation, LABEL_LENGTH)}: class {lowest.label} has the lowest "
            f"accuracy, {percent(lowest.accuracy)} of {lowest.n} examples.")  # fmt: skip


def _draw_worst(report: Report, series: list[Series], rows: list[str]) -> Drawing:
    drawing = Drawing(figsize=(8, 0.9 + row_height(len(series)) * len(rows)), layout="constrained")
    FigureCanvasAgg(drawing)
    axis = drawing.subplots()
    for each, offset in zip(series, offsets(len(series)), strict=True):
        found = cells_of(report, each)
        points = [(offset - at, cell) for at, name in enumerate(rows) for cell in found.get(name, [])[:1]
                  if cell.classes]  # fmt: skip
        heights = [height for height, _ in points]
        ends = [cell.classes.worst_interval for _, cell in points if cell.classes]
        axis.hlines(heights, [100 * low for low, _ in ends], [100 * high for _, high in ends], color=each.color,
                    linewidth=1.2, alpha=0.7)  # fmt: skip
        axis.plot([100 * (accuracy_of(cell) or 0.0) for _, cell in points], heights, color=each.color,
                  marker=each.marker, linestyle="none", markersize=4.5, markerfacecolor="none", alpha=0.8)  # fmt: skip
        (dots,) = axis.plot([100 * cell.classes.worst for _, cell in points if cell.classes], heights,
                            color=each.color, marker=each.marker, linestyle="none", markersize=4.5)  # fmt: skip
        drawing.describe(dots, [
            f"{each.label}: {cell.perturbation}: worst class {percent(cell.classes.worst, 1)}"
            for _, cell in points if cell.classes
        ])  # fmt: skip
    name_rows(axis, rows)
    percent_axis(axis, "accuracy of the worst class", along="x")
    axis.set_xlim(-1, 101)
    handles = [Line2D([], [], color=each.color, marker=each.marker, linestyle="none", markersize=5) for each in series]
    add_legend(drawing, handles, [each.label for each in series])
    return drawing


def _draw_lowest(shown: list[Pair]) -> Drawing:
    rows = max(sum(len(cell.classes.lowest[:MOST_LOWEST]) for cell in pair.cells if cell.classes) for pair in shown)
    size = matplotlib.rcParams["font.size"]
    height = (0.55 + 0.021 * size * rows) / matplotlib.rcParams["figure.figsize"][1]
    drawing, axes = panels(len(shown), width=0.62, height=height, sharex=True)
    for axis, pair in zip(axes, shown, strict=True):
        names: list[str] = []
        for cell, look in pair.looks():
            assert cell.classes is not None
            lowest = cell.classes.lowest[:MOST_LOWEST]
            heights = [-(len(names) + at) for at in range(len(lowest))]
            names += [f"class {each.label}" for each in lowest]
            axis.hlines(heights, [100 * each.interval.low for each in lowest],
                        [100 * each.interval.high for each in lowest], color=look["color"], linewidth=1.3)  # fmt: skip
            (dots,) = axis.plot([100 * each.accuracy for each in lowest], heights, color=look["color"],
                                marker=look["marker"], linestyle="none", markersize=4.5)  # fmt: skip
            drawing.describe(dots, [
                f"{cell.perturbation}: class {each.label}: {percent(each.accuracy, 1)}, n = {each.n}"
                for each in lowest
            ])  # fmt: skip
        name_rows(axis, names)
        percent_axis(axis, "accuracy", along="x")
        axis.set_xlim(-2, 102)
        lines = [plain(pair.series.label, 45)]
        lines += [plain(pair.cells[-1].perturbation, 45)] if pair.cells[-1].kind != "clean" else []
        axis.set_title("\n".join(lines), fontsize="small")
    pair_legend(drawing, shown)
    return drawing
