"""Accuracies of training runs, which differ in their seed, with their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from robharness.report.figures.dots import chosen_perturbations, name_rows, offsets, row_height, selection_note
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    LABEL_LENGTH,
    Series,
    accuracy_of,
    add_legend,
    all_series,
    cells_of,
    percent,
    percent_axis,
)
from robharness.report.records import CellNumbers, Report
from robharness.text import printable


def run_figure(report: Report) -> Iterator[Figure]:
    """Yield the spread over runs, if a model has several."""
    series = [each for each in all_series(report) if each.has_runs and len(each.models) > 1]
    rows, of = chosen_perturbations(report, lambda cell: cell.complete and cell.model in report.run_of)
    if not series or not rows:
        return
    yield Figure(
        name="runs",
        title="Spread over training runs, not over examples",
        caption=(
            "Accuracy in % of each training run, which differ in their seed alone (dots); mean and one sample standard "
            "deviation over runs (line and bar). The spread over runs is not an interval over examples; "
            f"n = {report.n} examples per run.{selection_note(len(rows), of)}"
        ),
        alt=" ".join(_finding(report, each, rows) for each in series),
        draw=lambda: _draw(report, series, rows),
    )


def _values(cells: list[CellNumbers]) -> list[float]:
    return [value for cell in cells if (value := accuracy_of(cell)) is not None]


def _finding(report: Report, series: Series, rows: list[str]) -> str:
    found = {name: _values(cells) for name, cells in cells_of(report, series).items() if name in rows}
    said = [f"{printable(name, LABEL_LENGTH)} {percent(fmean(values), 1)}"
            + (f" ± {percent(stdev(values), 1)}" if len(values) > 1 else "")
            for name, values in found.items() if values]  # fmt: skip
    return f"{series.label}, {len(series.models)} runs: {', '.join(said) or 'none complete'}."


def _draw(report: Report, series: list[Series], rows: list[str]) -> Drawing:
    drawing = Drawing(figsize=(8, 0.9 + row_height(len(series)) * len(rows)), layout="constrained")
    FigureCanvasAgg(drawing)
    axis = drawing.subplots()
    for each, offset in zip(series, offsets(len(series)), strict=True):
        by_name, across, down, texts = cells_of(report, each), [], [], []
        for at, name in enumerate(rows):
            values = _values(by_name.get(name, []))
            if not values:
                continue
            height, mean = offset - at, 100 * fmean(values)
            spread = 100 * stdev(values) if len(values) > 1 else 0.0
            axis.plot([mean - spread, mean + spread], [height, height], color=each.color, linewidth=3, alpha=0.3,
                      solid_capstyle="butt")  # fmt: skip
            axis.plot([mean], [height], color=each.color, marker="|", markersize=9, markeredgewidth=1.8)
            for cell, value in zip(by_name[name], values, strict=False):
                across.append(100 * value)
                down.append(height)
                texts.append(f"{cell.model}: {name}: {percent(value, 1)}")
        (dots,) = axis.plot(across, down, color=each.color, marker=each.marker, linestyle="none", markersize=4,
                            alpha=0.8)  # fmt: skip
        drawing.describe(dots, texts)
    name_rows(axis, rows)
    percent_axis(axis, "accuracy of a run", along="x")
    handles = [Line2D([], [], color=each.color, marker=each.marker, linestyle="none", markersize=5) for each in series]
    add_legend(drawing, handles, [f"{each.label} ({len(each.models)} runs)" for each in series])
    return drawing
