"""The scatter of relative drops under corruptions against those of the reference: the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.lines import Line2D

from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    Series,
    add_legend,
    all_series,
    cells_of,
    extremes,
    ink,
    panels,
    percent,
    percent_axis,
    plain,
    spoken,
)
from robharness.report.records import CellNumbers, Report
from robharness.text import printable


def scatter(report: Report) -> Iterator[Figure]:
    """Yield the scatter, with a point per model, corruption and severity, if the suite has a reference."""
    if report.reference is None:
        return
    reference = report.run_of.get(report.reference, report.reference)
    others = [series for series in all_series(report) if series.models[0] not in report.columns[reference]]
    points = {series.label: found for series in others if (found := _points(report, series))}
    if not points:
        return
    slopes = {series.label: _slope(report, series) for series in others}
    named = printable(report.reference, 60)
    count = max(map(len, points.values()))
    fitted = sorted(((slope, label) for label, slope in slopes.items() if slope is not None and label in points))
    losses = sorted((-sum(own > base for _, base, own in found), label) for label, found in points.items())
    yield Figure(
        name="corruptions",
        title=f"Relative drops under corruptions against {named}",
        caption=(
            f"Relative drop from the clean accuracy in %, of {named} (across) and of the other models (up); one point "
            "per model, corruption and severity. Lines: least squares through the origin, with the slope beside the "
            f"label. Grey diagonal: the same drop as {named}; points above it lose more. n = {report.n} per point"
            f"{_runs_note(others)}."
        ),
        alt=(
            f"Scatter of {count} corruptions. "
            + (
                f"Slopes against {named}: {extremes([f'{label} {slope:.2f}' for slope, label in fitted[::-1]])}. "
                if fitted
                else ""
            )
            + f"Corruptions under which a larger share is lost than by {named}: "
            + extremes([f"{label} {-more} of {len(points[label])}" for more, label in losses])
            + "."
        ),
        draw=lambda: _draw(report),
    )


def _points(report: Report, series: Series) -> list[tuple[CellNumbers, float, float]]:
    """Return a cell, the reference's drop and the model's mean drop for each corruption that both have."""
    base = {cell.perturbation: cell for cell in report.cells if cell.model == report.reference}
    found = []
    for name, cells in cells_of(report, series).items():
        if cells[0].kind != "corruption" or name not in base:
            continue
        before, drops = base[name].numbers.relative_drop, [cell.numbers.relative_drop for cell in cells]
        own = [drop for drop in drops if drop is not None]
        if before is not None and own:
            found.append((cells[0], before, fmean(own)))
    return found


def _slope(report: Report, series: Series) -> float | None:
    """Return the slope over all corruptions, or its mean over the runs of the model."""
    found = [slope.slope for slope in report.slopes
             if slope.model in series.models and slope.group is None and slope.severity is None]  # fmt: skip
    values = [slope for slope in found if slope is not None]
    return fmean(values) if values else None


def _runs_note(series: list[Series]) -> str:
    labels = [each.label for each in series if each.has_runs]
    return f"; points and slopes of {spoken(labels)} are means over runs" if labels else ""


def _draw(report: Report) -> Drawing:
    drawing, (axis,) = panels(1, width=1.25, height=1.25)
    handles, names, drawn = [], [], []
    every = [(series, _points(report, series)) for series in all_series(report)]
    every = [(series, points) for series, points in every
             if points and report.reference not in series.models]  # fmt: skip
    values = [100 * value for _, points in every for _, base, own in points for value in (base, own)]
    high = max([*values, 1.0]) * 1.08
    low = min(0.0, *values) - 0.02 * high
    axis.plot([low, high], [low, high], color=ink(), alpha=0.35, linewidth=1, zorder=1)
    size = max(12.0, 36.0 - len(every) * sum(len(points) for _, points in every) / 80)
    for series, points in every:
        across, up = [100 * base for _, base, _ in points], [100 * own for _, _, own in points]
        dots = axis.scatter(across, up, s=size, color=series.color, marker=series.marker, linewidths=0, alpha=0.85,
                            zorder=3)  # fmt: skip
        drawing.describe(dots, [
            f"{series.label}: {cell.perturbation}: drop {percent(own, 1)}, reference {percent(base, 1)}"
            for cell, base, own in points
        ])  # fmt: skip
        drawn += [(x, y, cell) for x, y, (cell, _, _) in zip(across, up, points, strict=True)]
        slope = _slope(report, series)
        if slope is not None:
            end = high if slope <= 1 else high / slope
            axis.plot([0, end], [0, slope * end], color=series.color, linestyle=series.line, linewidth=1.2, zorder=2)
        handles.append(Line2D([], [], color=series.color, marker=series.marker,
                              linestyle=series.line if slope is not None else "none"))  # fmt: skip
        names.append(series.label if slope is None else f"{series.label} (slope {slope:.2f})")
    percent_axis(axis, f"relative drop of {plain(report.reference)}", along="x", top=high)
    percent_axis(axis, "relative drop of the model", top=high)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_aspect("equal")
    handles.append(Line2D([], [], color=ink(), alpha=0.35, linewidth=1))
    names.append("equal drops")
    add_legend(drawing, handles, names)
    _label(drawing, axis, drawn)
    return drawing


def _label(drawing: Drawing, axis: Any, points: list[tuple[float, float, CellNumbers]]) -> None:
    """Write the corruption above the highest point of each, wherever that covers no point and no other name."""
    drawing.draw_without_rendering()
    renderer = drawing.canvas.get_renderer()  # type: ignore[attr-defined]
    size = 0.75 * matplotlib.rcParams["font.size"]
    places = axis.transData.transform([(x, y) for x, y, _ in points])
    frame = axis.get_window_extent(renderer)
    taken: list[Any] = []
    highest: dict[str, int] = {}
    for at, (_, y, cell) in enumerate(points):
        if cell.perturbation not in highest or y > points[highest[cell.perturbation]][1]:
            highest[cell.perturbation] = at
    many = len({cell.severity for _, _, cell in points}) > 1
    reach = drawing.dpi / 72 * 3
    for at in sorted(highest.values(), key=lambda at: -points[at][1]):
        x, y, cell = points[at]
        short = (cell.title or cell.perturbation).rpartition("/")[2].replace("_", " ")
        text = plain(f"{short} {cell.severity}" if many else short, 30)
        for dx, dy, across, up in ((0, 5, "center", "bottom"), (5, 0, "left", "center"), (-5, 0, "right", "center")):
            note = axis.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=across, va=up, fontsize=size)
            box = note.get_window_extent(renderer)
            clear = box.padded(1)
            covered = any(clear.overlaps(other) for other in taken) or any(
                box.x0 - reach < px < box.x1 + reach and box.y0 - reach < py < box.y1 + reach
                for other, (px, py) in enumerate(places) if other != at
            )  # fmt: skip
            inside = box.x0 > frame.x0 and box.x1 < frame.x1 and box.y1 < frame.y1
            if inside and not covered:
                taken.append(box)
                note.set_in_layout(False)
                break
            note.remove()
