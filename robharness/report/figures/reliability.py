"""Reliability diagrams: accuracy against confidence, clean and under the strongest attack."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from matplotlib.collections import PolyCollection

from robharness.report.details import Calibration
from robharness.report.figures.dots import PANELS_PER_FIGURE, Pair, clean_and_strongest, pair_legend, pairs
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import ink, panels, percent, percent_axis, percent_sign, plain
from robharness.report.records import CellNumbers, Report
from robharness.text import printable

_DEPTH, _TOP = 30, 26
"""Height of the histogram's room below 0 % accuracy, and of its highest bar, in percent of the axis."""


def reliability_figures(report: Report) -> Iterator[Figure]:
    """Yield figures with a panel per model whose confidences are stored."""
    every = clean_and_strongest(report, lambda cell: cell.shows_calibration)
    for at in range(0, len(every), PANELS_PER_FIGURE):
        shown = every[at : at + PANELS_PER_FIGURE]
        yield Figure(
            name=f"reliability-{1 + at // PANELS_PER_FIGURE}",
            title=f"Reliability of {pairs(shown)}",
            caption=(
                "Accuracy of predictions against their confidence, the largest probability, in % and in bins of equal "
                "width, clean and under the strongest attack on each model. Bars: 95 % confidence intervals over "
                "examples. Below the diagonal, predictions are over-confident. Histograms: examples per bin. ECE: "
                f"expected calibration error over these bins. n = {report.n} per curve.{_first_runs(shown)}"
            ),
            alt=" ".join(_finding(pair.series.label, cell) for pair in shown for cell in pair.cells),
            draw=partial(_draw, shown),
        )


def _first_runs(shown: list[Pair]) -> str:
    first = [printable(pair.cells[0].model, 60) for pair in shown if pair.series.has_runs]
    return f" Of several runs, the first: {', '.join(first)}." if first else ""


def _finding(label: str, cell: CellNumbers) -> str:
    found = _calibration(cell)
    text = (f"{label}, {printable(cell.perturbation, 60)}: mean confidence {percent(found.confidence)}, expected "
            f"calibration error {percent(found.ece, 1)}")  # fmt: skip
    wrong = found.confidence_when_wrong
    return f"{text}." if wrong is None else f"{text}, confidence when wrong {percent(wrong)}."


def _calibration(cell: CellNumbers) -> Calibration:
    assert cell.calibration is not None
    return cell.calibration


def _draw(shown: list[Pair]) -> Drawing:
    drawing, axes = panels(len(shown), width=0.62, height=0.95, sharex=True, sharey=True)
    for axis, pair in zip(axes, shown, strict=True):
        axis.plot([0, 100], [0, 100], color=ink(), alpha=0.35, linewidth=1)
        axis.axhline(0, color=ink(), linewidth=0.8)
        most = max(each.n for cell in pair.cells for each in _calibration(cell).bins)
        for cell, look in pair.looks():
            _draw_cell(drawing, axis, cell, look, most, len(pair.cells))
        errors = " and ".join(f"{100 * _calibration(cell).ece:.1f} {percent_sign()}" for cell in pair.cells)
        lines = [plain(pair.series.label, 45), f"ECE {errors}; bins up to n = {most}"]
        lines[1:1] = [plain(pair.cells[-1].perturbation, 45)] if pair.cells[-1].kind != "clean" else []
        axis.set_title("\n".join(lines), fontsize="small")
        percent_axis(axis, "accuracy")
        percent_axis(axis, "confidence", along="x")
        axis.set_xlim(-2, 102)
        axis.set_ylim(-_DEPTH, 102)
        axis.set_yticks(range(0, 101, 20))
        axis.grid(alpha=0.2)
        axis.label_outer()
    pair_legend(drawing, shown)
    return drawing


def _draw_cell(drawing: Drawing, axis: Any, cell: CellNumbers, look: dict[str, Any], most: int, count: int) -> None:
    found = _calibration(cell)
    bins = [each for each in found.bins if each.n and each.confidence is not None and each.accuracy is not None]
    across, up = [100 * (each.confidence or 0.0) for each in bins], [100 * (each.accuracy or 0.0) for each in bins]
    ends = [each.interval or (each.accuracy or 0.0,) * 2 for each in bins]
    axis.vlines(across, [100 * low for low, _ in ends], [100 * high for _, high in ends], color=look["color"],
                linewidth=1.2, alpha=0.6)  # fmt: skip
    axis.plot(across, up, color=look["color"], linestyle=look["linestyle"], linewidth=1)
    (dots,) = axis.plot(across, up, color=look["color"], marker=look["marker"], linestyle="none", markersize=4)
    drawing.describe(dots, [
        f"{cell.perturbation}: confidence {percent(each.low)} to {percent(each.high)}: accuracy "
        f"{percent(each.accuracy or 0.0, 1)}, n = {each.n}" for each in bins
    ])  # fmt: skip
    bars = []
    for each in bins:
        width, top = 95 * (each.high - each.low) / count, _TOP * each.n / most - _DEPTH
        left = 100 * each.low + look["at"] * width
        bars.append([(left, -_DEPTH), (left, top), (left + width, top), (left + width, -_DEPTH)])
    axis.add_collection(PolyCollection(bars, facecolors=look["color"], alpha=0.5, linewidths=0), autolim=False)
