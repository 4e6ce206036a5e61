"""Accuracy against the budget of an attack, and against the distance of the smallest perturbations found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from statistics import fmean, stdev
from typing import Any

from matplotlib.lines import Line2D

from robharness.report.details import with_unit
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    Series,
    accuracy_of,
    add_legend,
    all_series,
    cells_of,
    extremes,
    interval_of,
    panels,
    percent,
    percent_axis,
    plain,
    spoken,
)
from robharness.report.records import CellNumbers, Report
from robharness.report.rows import unit_of as unit_of_norm
from robharness.specs.budget import Budget
from robharness.text import printable

MOST_PANELS = 12
"""Attacks that one figure shows; the tables have all."""


@dataclass(frozen=True)
class Line:
    """The accuracies of a model against budgets.

    eps: exact budgets, ascending, 0 for the clean input.
    low, high: the ends of the band.
    """

    series: Series
    eps: tuple[Fraction, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    names: tuple[str, ...]


def budget_figures(report: Report) -> Iterator[Figure]:
    """Yield a figure per norm, with a panel per attack that has two or more budgets."""
    attacks: dict[str, dict[str, set[str]]] = {}
    for cell in report.cells:
        if cell.kind == "attack" and cell.eps is not None and cell.title and cell.numbers.n:
            attacks.setdefault(cell.norm or "none", {}).setdefault(cell.title, set()).add(cell.eps)
    crafted_elsewhere = {cell.title for cell in report.cells if cell.transfer is not None}
    for norm, titles in attacks.items():
        chosen = [title for title, budgets in titles.items() if len(budgets) > 1]
        chosen.sort(key=lambda title: title in crafted_elsewhere)  # attacks on the models themselves are shown first
        if chosen:
            yield _budget_figure(report, norm, chosen)


def _budget_figure(report: Report, norm: str, titles: list[str]) -> Figure:
    shown = titles[:MOST_PANELS]
    lines = {title: _lines(report, title) for title in shown}
    runs = [series.label for series in all_series(report) if series.has_runs]
    unit = unit_of(cell.eps for cell in report.cells if cell.eps is not None and cell.title in shown)
    measure = with_unit(norm, unit_of_norm(report, norm))
    caption = (
        f"{_counted(report)} in % against the budget eps ({measure}{unit and f', in 1/{unit}'}); the clean accuracy "
        f"stands at 0. Bands: 95 % confidence intervals over examples; n = {report.n}."
    )
    if runs:
        caption += f" {spoken(runs)}: means over runs, with bars of one sample standard deviation over runs instead."
    if len(titles) > len(shown):
        caption += f" The first {len(shown)} of {len(titles)} attacks."
    return Figure(
        name=f"budgets-{norm}",
        title=f"{'Retrieval' if report.retrieval else 'Accuracy'} against budget, {norm}",
        caption=caption,
        alt=" ".join(budget_finding(title, found) for title, found in lines.items()),
        draw=lambda: draw_budgets(
            {title: _lines(report, title) for title in shown},
            measure,
            unit,
            _counted(report).partition(" (")[0].lower(),
        ),
    )


def _counted(report: Report) -> str:
    if report.retrieval:
        return "Retrieval"
    return "Robust accuracy (correct both clean and attacked)" if report.count == "robust" else "Accuracy"


def _lines(report: Report, title: str) -> list[Line]:
    """Return the line of each model with outcomes at a budget of this attack."""
    found = []
    for series in all_series(report):
        points = [
            (Fraction(0) if each[0].kind == "clean" else Fraction(Budget(each[0].eps or "0")), each)
            for each in cells_of(report, series).values()
            if each[0].kind == "clean" or (each[0].title == title and each[0].eps is not None)
        ]
        rows = [row for eps, each in sorted(points, key=lambda point: point[0]) if (row := _point(eps, each, series))]
        if any(row[0] for row in rows):
            eps, accuracy, low, high, names = zip(*rows, strict=True)
            found.append(Line(series, eps, accuracy, low, high, names))
    return found


def _point(eps: Fraction, cells: list[CellNumbers], series: Series) -> tuple[Fraction, float, float, float, str] | None:
    values = [value for cell in cells if (value := accuracy_of(cell)) is not None]
    if not values:
        return None
    mean, name = fmean(values), f"{series.label}: {cells[0].perturbation}: {percent(fmean(values), 1)}"
    if series.has_runs:
        spread = stdev(values) if len(values) > 1 else 0.0
        return eps, mean, mean - spread, mean + spread, f"{name}, {len(values)} runs"
    interval = interval_of(cells[0])
    low, high = (mean, mean) if interval is None else interval
    return eps, mean, low, high, f"{name} [{percent(low, 1)}, {percent(high, 1)}], n = {cells[0].numbers.n}"


def unit_of(budgets: Iterable[str]) -> str:
    """Return the denominator that all of these budgets are written with, such as "255", or ""."""
    found = {budget.partition("/")[2] for budget in budgets}
    return found.pop() if len(found) == 1 else ""


def budget_finding(title: str, lines: list[Line]) -> str:
    """Return the accuracies at the largest budget in words, the highest first."""
    named = printable(title, 60)
    largest = max(line.eps[-1] for line in lines)
    ends = sorted(((line.accuracy[-1], line) for line in lines if line.eps[-1] == largest),
                  key=lambda each: -each[0])  # fmt: skip
    texts = [f"{line.series.label} from {percent(line.accuracy[0])} to {percent(value)}" for value, line in ends]
    return f"{named}, from the smallest to the largest budget: {extremes(texts)}."


def draw_budgets(lines: dict[str, list[Line]], norm: str, unit: str, counted: str) -> Drawing:
    """Draw a panel per attack.

    norm: the name of the norm or measure, with the unit of its budgets.
    unit: the denominator of all budgets, or "".
    counted: the name of the accuracy.
    """
    drawing, axes = panels(len(lines), **panel_size(len(lines)), sharey=True)
    for axis, (title, found) in zip(axes, lines.items(), strict=True):
        for line in found:
            draw_line(drawing, axis, line, Fraction(unit or 1), has_band=len(found) <= 8)
        axis.set_title(plain(title), fontsize="medium" if len(lines) == 1 else "small")
        axis.set_xlabel(f"eps ({norm}, in 1/{unit})" if unit else f"eps ({norm})")
        axis.set_xlim(left=-0.02 * axis.get_xlim()[1])
    finish(drawing, axes, counted, [line.series for line in unique_lines(lines)])
    return drawing


def draw_line(drawing: Drawing, axis: Any, line: Line, unit: Fraction, *, has_band: bool) -> None:
    """Draw a line with its band, or with bars in place of a band, and with tooltips on its points."""
    series, across = line.series, [float(eps * unit) for eps in line.eps]
    up, low, high = ([100 * value for value in values] for values in (line.accuracy, line.low, line.high))
    if series.has_runs or not has_band:
        axis.vlines(across, low, high, color=series.color, linewidth=1, alpha=0.6, zorder=2)
    else:
        axis.fill_between(across, low, high, color=series.color, alpha=0.15, linewidth=0, zorder=1)
    axis.plot(across, up, color=series.color, linestyle=series.line, zorder=3)
    (dots,) = axis.plot(across, up, color=series.color, marker=series.marker, linestyle="none", markersize=4.5,
                        zorder=4)  # fmt: skip
    drawing.describe(dots, line.names)


def panel_size(count: int) -> dict[str, float]:
    """Return the width and the height of each of several panels, in shares of the figure size."""
    return {"width": 1.2, "height": 1.0} if count == 1 else {"width": 0.72, "height": 0.72}


def unique_lines(lines: dict[str, list[Line]]) -> list[Line]:
    """Return a line of each series in any of the panels."""
    found: dict[str, Line] = {}
    for each in lines.values():
        for line in each:
            found.setdefault(line.series.label, line)
    return list(found.values())


def finish(drawing: Drawing, axes: list[Any], counted: str, series: list[Series],
            names: list[str] | None = None) -> None:  # fmt: skip
    """Label the vertical axes, and add the legend."""
    for axis in axes:
        percent_axis(axis, counted, top=101)
        axis.label_outer(remove_inner_ticks=False) if len(axes) > 1 and axis.get_subplotspec().colspan.start else None
        axis.grid(alpha=0.2)
    handles = [Line2D([], [], color=each.color, marker=each.marker, linestyle=each.line, markersize=4.5)
               for each in series]  # fmt: skip
    add_legend(drawing, handles, names or [each.label for each in series])


# --- smallest perturbations -----------------------------------------------------------------------------------------


def distance_figures(report: Report) -> Iterator[Figure]:
    """Yield a figure per norm, with a panel per attack without a budget."""
    norms: dict[str, list[str]] = {}
    for cell in report.cells:
        if cell.distances is not None and cell.perturbation not in norms.setdefault(cell.norm or "none", []):
            norms[cell.norm or "none"].append(cell.perturbation)
    for norm, names in norms.items():
        shown = names[:MOST_PANELS]
        found = [cell for cell in report.cells if cell.distances is not None and cell.perturbation in shown]
        measure = with_unit(norm, unit_of_norm(report, norm))
        has_area = any(cell.distances and cell.distances.area is not None for cell in found)
        yield Figure(
            name=f"distances-{norm}",
            title=f"Accuracy against the size of the smallest perturbation, {norm}",
            caption=(
                f"Accuracy in % on inputs that may be perturbed by up to eps ({measure}): the share of examples whose "
                f"smallest perturbation found is larger; n = {report.n}."
                + (" The area is the mean accuracy over budgets up to the dotted limit." if has_area else "")
                + (f" The first {len(shown)} of {len(names)} attacks." if len(names) > len(shown) else "")
            ),
            alt=" ".join(_distance_finding(name, [c for c in found if c.perturbation == name]) for name in shown),
            draw=partial(_draw_distances, report, measure, shown),
        )


def _distance_finding(name: str, cells: list[CellNumbers]) -> str:
    """Return the median distances and areas of an attack in words, the largest median first."""
    found = [(each, printable(cell.model, 60)) for cell in cells if (each := cell.distances) is not None]
    found.sort(key=lambda each: -math.inf if each[0].median is None else -each[0].median)
    texts = []
    for each, model in found:
        text = f"{model} beyond the budgets found" if each.median is None else f"{model} {each.median:.3g}"
        if each.area is not None and each.area_until is not None:
            text += f" (mean accuracy up to {each.area_until:.3g}: {percent(each.area, 1)})"
        texts.append(text)
    return f"{printable(name, 60)}, median smallest perturbation: {extremes(texts)}."


def _draw_distances(report: Report, norm: str, names: list[str]) -> Drawing:
    drawing, axes = panels(len(names), **panel_size(len(names)), sharey=True)
    legend: dict[str, tuple[Series, list[str]]] = {}
    for axis, name in zip(axes, names, strict=True):
        limit = None
        for series in all_series(report):
            for cell in cells_of(report, series).get(name, []):
                if cell.distances is None:
                    continue
                across, up = curve_steps(cell.distances.curve)
                axis.plot(across, up, color=series.color, linestyle=series.line, drawstyle="steps-post",
                          alpha=0.6 if series.has_runs else 1)  # fmt: skip
                limit = cell.distances.area_until or limit
                _, areas = legend.setdefault(series.label, (series, []))
                areas += [] if cell.distances.area is None else [percent(cell.distances.area, 1)]
        if limit is not None:
            axis.axvspan(0, limit, color="0.5", alpha=0.08, linewidth=0)
            axis.axvline(limit, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(plain(name), fontsize="medium" if len(names) == 1 else "small")
        axis.set_xlabel(f"eps ({norm})")
        axis.set_xlim(left=-0.02 * axis.get_xlim()[1])
    labels = [f"{label} (area {', '.join(areas[:6])})" if areas and len(names) == 1 else label
              for label, (_, areas) in legend.items()]  # fmt: skip
    finish(drawing, axes, "accuracy", [series for series, _ in legend.values()], labels)
    return drawing


def curve_steps(curve: tuple[tuple[float, float], ...]) -> tuple[list[float], list[float]]:
    """Return the ends of the steps of a curve, in percent."""
    points = [(0.0, 1.0), *curve] if not curve or curve[0][0] > 0 else list(curve)
    return [eps for eps, _ in points], [100 * accuracy for _, accuracy in points]
