"""Accuracies of the worst class, and of the classes with the lowest accuracies."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from robharness.report.figures.dots import (
    chosen_perturbations,
    name_rows,
    offsets,
    row_height,
    selection_note,
    series_with,
    strongest,
)
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    LABEL_LENGTH,
    Series,
    accuracy_of,
    add_legend,
    cells_of,
    panels,
    percent,
    percent_axis,
    plain,
)
from robharness.report.records import CellNumbers, Report
from robharness.text import printable


def class_figures(report: Report) -> Iterator[Figure]:
    """Yield the accuracy of the worst class of every model, then the lowest classes of each model."""
    series = series_with(report, _has_classes)
    if not series:
        return
    rows, of = chosen_perturbations(report, _has_classes)
    cells = [cell for each in series for cells in cells_of(report, each).values() for cell in cells if cell.classes]
    first = [f" Of several runs, the first: {', '.join(e.models[0] for e in series if e.has_runs)}."
             if any(each.has_runs for each in series) else ""][0]  # fmt: skip
    yield Figure(
        name="worst-classes",
        title="Accuracy of the worst class",
        caption=(
            "Accuracy in % on the class where it is lowest (filled), with a 95 % confidence interval that holds for "
            "the minimum over all classes, and on all examples (hollow); "
            f"{max(cell.classes.classes for cell in cells if cell.classes)} classes, n = {report.n}."
            f"{selection_note(len(rows), of)}{first}"
        ),
        alt=" ".join(_worst_finding(report, each, rows) for each in series),
        draw=lambda: _draw_worst(report, series, rows),
    )
    for number, each in enumerate(series, 1):
        shown = _chosen(report, each)
        yield Figure(
            name=f"classes-{number}",
            title=f"Classes with the lowest accuracies, {each.label}",
            caption=(
                "Accuracy in % per class, with 95 % confidence intervals that hold for all classes together; at most "
                f"ten classes, the lowest first; clean and under the strongest attack. n = {report.n}.{first}"
            ),
            alt=" ".join(_lowest_finding(each, cell) for cell in shown),
            draw=lambda shown=shown: _draw_lowest(shown),  # type: ignore[misc]
        )


def _has_classes(cell: CellNumbers) -> bool:
    return cell.classes is not None


def _chosen(report: Report, series: Series) -> list[CellNumbers]:
    """Return the clean cell of a model, and that of its strongest attack."""
    clean = [cell for cell in cells_of(report, series).get("clean", []) if cell.classes][:1]
    attacked = strongest(report, series, _has_classes)
    return [*clean, *([attacked] if attacked else [])]


def _worst_finding(report: Report, series: Series, rows: list[str]) -> str:
    found = cells_of(report, series)
    said = [f"{printable(name, LABEL_LENGTH)} {percent(cells[0].classes.worst)}"
            for name, cells in found.items() if name in rows and cells[0].classes]  # fmt: skip
    return f"Worst class of {series.label}: {', '.join(said)}."


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
        for height, cell in points:
            assert cell.classes is not None
            low, high = cell.classes.worst_interval
            axis.plot([100 * low, 100 * high], [height, height], color=each.color, linewidth=1.2, alpha=0.7)
        heights = [height for height, _ in points]
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


def _draw_lowest(cells: list[CellNumbers]) -> Drawing:
    most = max(len(cell.classes.lowest) for cell in cells if cell.classes)
    drawing, axes = panels(len(cells), width=0.62)
    drawing.set_figheight(1.1 + 0.28 * most)
    for axis, cell in zip(axes, cells, strict=True):
        assert cell.classes is not None
        lowest = cell.classes.lowest
        heights = [-at for at in range(len(lowest))]
        for height, each in zip(heights, lowest, strict=True):
            axis.plot([100 * end for end in each.interval], [height, height], color="C0", linewidth=1.4)
        (dots,) = axis.plot([100 * each.accuracy for each in lowest], heights, color="C0", marker="o",
                            linestyle="none", markersize=4.5)  # fmt: skip
        drawing.describe(dots, [f"class {each.label}: {percent(each.accuracy, 1)}, n = {each.n}" for each in lowest])
        name_rows(axis, [f"class {each.label}" for each in lowest])
        axis.set_ylim(-most + 0.5, 0.5)
        percent_axis(axis, "accuracy", along="x")
        axis.set_xlim(-1, 101)
        axis.set_title(plain(cell.perturbation, 45), fontsize="small")
    return drawing
