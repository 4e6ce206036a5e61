"""Reliability diagrams: accuracy against confidence, clean and under the strongest attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg

from robharness.report.figures.dots import series_with, strongest
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    LABEL_LENGTH,
    Series,
    cells_of,
    ink,
    percent,
    percent_axis,
    percent_sign,
    plain,
)
from robharness.report.records import CellNumbers, Report
from robharness.text import printable


def reliability_figures(report: Report) -> Iterator[Figure]:
    """Yield a figure per model whose confidences are stored."""
    for number, series in enumerate(series_with(report, _has_bins), 1):
        cells = _chosen(report, series)
        first = f" The first of {len(series.models)} runs, {printable(cells[0].model, 60)}." if series.has_runs else ""
        yield Figure(
            name=f"reliability-{number}",
            title=f"Reliability, {series.label}",
            caption=(
                "Accuracy of predictions against their confidence, the largest probability, in bins of equal width, in "
                "%; bars: 95 % confidence intervals; below the diagonal, predictions are over-confident. Histograms: "
                "examples per bin. Clean, and the strongest attack on this model. ECE: expected calibration error over "
                f"these bins; n = {', '.join(str(cell.calibration.n) for cell in cells if cell.calibration)}.{first}"
            ),
            alt=" ".join(_finding(series, cell) for cell in cells),
            draw=lambda series=series, cells=cells: _draw(series, cells),  # type: ignore[misc]
        )


def _has_bins(cell: CellNumbers) -> bool:
    return cell.calibration is not None and cell.calibration.n > 0


def _chosen(report: Report, series: Series) -> list[CellNumbers]:
    clean = [cell for cell in cells_of(report, series).get("clean", []) if _has_bins(cell)][:1]
    attacked = strongest(report, series, _has_bins)
    return [*clean, *([attacked] if attacked else [])]


def _finding(series: Series, cell: CellNumbers) -> str:
    found = cell.calibration
    assert found is not None
    text = (f"{series.label}, {printable(cell.perturbation, LABEL_LENGTH)}: mean confidence {percent(found.confidence)}"
            f", expected calibration error {percent(found.ece, 1)}")  # fmt: skip
    wrong = found.confidence_when_wrong
    return f"{text}." if wrong is None else f"{text}, confidence when wrong {percent(wrong)}."


def _draw(series: Series, cells: list[CellNumbers]) -> Drawing:
    drawing = Drawing(figsize=(3.9 * len(cells), 4.6), layout="constrained")
    FigureCanvasAgg(drawing)
    grid = drawing.subplots(2, len(cells), squeeze=False, sharex="col", height_ratios=(3, 1))
    for column, cell in enumerate(cells):
        _draw_cell(drawing, grid[0, column], grid[1, column], series, cell)
    for row in grid:
        for axis in row[1:]:
            axis.set_ylabel("")
    return drawing


def _draw_cell(drawing: Drawing, above: Any, below: Any, series: Series, cell: CellNumbers) -> None:
    found = cell.calibration
    assert found is not None
    bins = [each for each in found.bins if each.n and each.confidence is not None and each.accuracy is not None]
    above.plot([0, 100], [0, 100], color=ink(), alpha=0.35, linewidth=1)
    across = [100 * (each.confidence or 0.0) for each in bins]
    up = [100 * (each.accuracy or 0.0) for each in bins]
    for x, each in zip(across, bins, strict=True):
        if each.interval is not None:
            above.plot([x, x], [100 * end for end in each.interval], color=series.color, linewidth=1.2, alpha=0.7)
    above.plot(across, up, color=series.color, linewidth=1)
    (dots,) = above.plot(across, up, color=series.color, marker="o", linestyle="none", markersize=4.5)
    drawing.describe(dots, [
        f"confidence {percent(each.low)} to {percent(each.high)}: accuracy {percent(each.accuracy or 0.0, 1)}, "
        f"n = {each.n}" for each in bins
    ])  # fmt: skip
    percent_axis(above, "accuracy", top=102)
    above.set_ylim(-2, 102)
    title = f"{plain(cell.perturbation, 45)}\nECE {100 * found.ece:.1f} {percent_sign()}"
    above.set_title(title, fontsize="small")
    below.bar([50 * (each.low + each.high) for each in found.bins], [each.n for each in found.bins],
              width=[95 * (each.high - each.low) for each in found.bins], color=series.color, alpha=0.5)  # fmt: skip
    below.set_ylabel("examples")
    percent_axis(below, "confidence", along="x", top=102)
    below.set_xlim(-2, 102)
    for axis in (above, below):
        axis.grid(alpha=0.2)

