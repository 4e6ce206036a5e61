"""Figures of a comparison: differences with intervals, accuracy against budget, and accuracies under corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import matplotlib
from matplotlib.lines import Line2D

from robharness import statistics
from robharness.comparison.records import LEVEL, CellDifference, Comparison
from robharness.report.details import with_unit
from robharness.report.figures.curves import MOST_PANELS, Line, budget_finding, draw_budgets, unit_of
from robharness.report.figures.dots import name_rows, row_height
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    MARKERS,
    Series,
    add_legend,
    distinct_labels,
    extremes,
    ink,
    palette,
    panels,
    percent,
    percent_axis,
    plain,
)
from robharness.report.renderers.formatting import format_difference
from robharness.specs.budget import Budget
from robharness.statistics import Interval
from robharness.text import printable

MOST_PAIRS = 4
"""Pairs of models that have figures; the table has all."""
MOST_ROWS = 48
"""Cells in one figure of rows."""
OVER_EXAMPLES = "95 % confidence intervals over examples"


def figures(comparison: Comparison) -> list[Figure]:
    """Return the figures that the first pairs of models have numbers for."""
    return [figure for number, pair in enumerate(comparison.pairs[:MOST_PAIRS], 1)
            for figure in _of_pair(comparison, pair, number)]  # fmt: skip


def _of_pair(comparison: Comparison, pair: tuple[str, str], number: int) -> Iterator[Figure]:
    cells = [cell for cell in comparison.cells if (cell.other, cell.model) == pair and cell.difference is not None]
    words = _Words(pair, number, len(comparison.pairs))
    if cells:
        yield _differences(cells, words, comparison.test)
    yield from _budgets(cells, words)
    corruptions = [cell for cell in cells if cell.kind == "corruption"]
    if corruptions:
        yield _corruptions([cell for cell in cells if cell.kind == "clean"] + corruptions, words)


class _Words:
    """Names in the figures of a pair of models.

    before, after: the labels of both sides.
    of: the end of titles, if there are several pairs.
    """

    def __init__(self, pair: tuple[str, str], number: int, pairs: int) -> None:
        other, model = pair
        names = ["before", "after"] if other == model else list(distinct_labels(pair).values())
        self.before, self.after = names
        self.number = number
        self.of = f", {printable(model, 60)}" if pairs > 1 else ""

    def series(self) -> list[Series]:
        """Return the looks of both sides, in the current style."""
        colors = palette()
        return [
            Series(label=label, models=(label,), has_runs=False, color=colors[at % len(colors)], marker=MARKERS[at],
                   line=("--", "-")[at])
            for at, label in enumerate((self.before, self.after))
        ]  # fmt: skip


def _interval(accuracy: float | None, n: int) -> Interval:
    return statistics.accuracy_interval(round((accuracy or 0.0) * n), n)


def _numbers(cells: Sequence[CellDifference]) -> str:
    counts = [cell.n for cell in cells]
    return f"n = {min(counts)}" if min(counts) == max(counts) else f"n = {min(counts)} to {max(counts)}"


def _selected(cells: Sequence[CellDifference]) -> tuple[list[CellDifference], str]:
    """Return clean and the cells with the largest differences, in their order, and the rule if some are left out."""
    if len(cells) <= MOST_ROWS:
        return list(cells), ""
    ranked = sorted(range(len(cells)), key=lambda at: (cells[at].kind != "clean", -abs(cells[at].difference or 0.0)))
    kept = sorted(ranked[:MOST_ROWS])
    return [cells[at] for at in kept], f" The {MOST_ROWS} of {len(cells)} cells with the largest differences."


# --- differences ----------------------------------------------------------------------------------------------------


def _differences(cells: Sequence[CellDifference], words: _Words, test: str) -> Figure:
    shown, rule = _selected(cells)
    significant = [cell for cell in cells if cell.is_significant]
    fell = sum((cell.difference or 0.0) < 0 for cell in significant)
    ranked = sorted(shown, key=lambda cell: cell.difference or 0.0)
    texts = [f"{printable(cell.perturbation, 60)} {_points(cell)}" for cell in ranked]
    return Figure(
        name=f"differences-{words.number}",
        title=f"Differences with intervals{words.of}",
        caption=(
            f"Accuracy of {words.after} minus that of {words.before}, in points, paired by example; bars: "
            f"{OVER_EXAMPLES}, each for one difference alone. Filled: significant at "
            f"{100 * LEVEL:g} % ({test}); {_numbers(shown)}.{rule}"
        ),
        alt=(
            f"Of {len(cells)} cells, the accuracy fell significantly in {fell} and rose significantly in "
            f"{len(significant) - fell}. From the largest fall to the largest rise, in points: {extremes(texts)}."
        ),
        draw=lambda: _draw_differences(shown),
    )


def _points(cell: CellDifference) -> str:
    low, high = cell.interval or (cell.difference or 0.0,) * 2
    return f"{format_difference(cell.difference or 0.0, 'percentage', 1)} [{100 * low:.1f}, {100 * high:.1f}]"


def _draw_differences(cells: Sequence[CellDifference]) -> Drawing:
    drawing, axis = _rows(cells)
    colors = palette()
    axis.axvline(0, color=ink(), alpha=0.5, linewidth=1, zorder=1)
    for at, cell in enumerate(cells):
        difference = cell.difference or 0.0
        low, high = cell.interval or (difference, difference)
        color = (colors[1 % len(colors)] if difference < 0 else colors[0]) if cell.is_significant else "0.5"
        axis.hlines(-at, 100 * low, 100 * high, color=color, linewidth=1.4, zorder=2)
        (dot,) = axis.plot([100 * difference], [-at], marker="o", markersize=5, linestyle="none", color=color,
                           markerfacecolor=color if cell.is_significant else "none", zorder=3)  # fmt: skip
        p = f", p {cell.p_holm:.2g}" if cell.p_holm is not None else ""
        drawing.describe(dot, [f"{cell.perturbation}: {_points(cell)} points{p}, n = {cell.n}"])
    reach = 1.05 * max([100 * abs(end) for cell in cells for end in cell.interval or ()] or [1.0])
    axis.set_xlim(-reach, reach)
    axis.set_xlabel("difference of accuracies (points)")
    return drawing


def _rows(cells: Sequence[CellDifference]) -> tuple[Drawing, Any]:
    """Return a drawing with a row per cell, and its axis."""
    base = matplotlib.rcParams["figure.figsize"]
    inches = (len(cells) + 2) * row_height(1)
    drawing, (axis,) = panels(1, width=1.25, height=max(0.4, inches / base[1]))
    name_rows(axis, [cell.perturbation for cell in cells])
    return drawing, axis


# --- accuracy against budget ----------------------------------------------------------------------------------------


def _budgets(cells: Sequence[CellDifference], words: _Words) -> Iterator[Figure]:
    """Yield a figure per norm, with a panel per attack that has two or more budgets."""
    attacks: dict[str, dict[str, list[CellDifference]]] = {}
    for cell in cells:
        if cell.kind == "attack" and cell.eps is not None:
            attacks.setdefault(cell.norm or "none", {}).setdefault(cell.title, []).append(cell)
    clean = [cell for cell in cells if cell.kind == "clean"]
    for norm, titles in attacks.items():
        several = {title: clean + some for title, some in titles.items() if len({cell.eps for cell in some}) > 1}
        shown = dict(list(several.items())[:MOST_PANELS])
        if not shown:
            continue
        every = [cell for some in shown.values() for cell in some]
        unit = unit_of(cell.eps for cell in every if cell.eps is not None)
        measure = with_unit(norm, next((cell.unit for cell in every if cell.unit), ""))
        counted = (
            "robust accuracy" if all(cell.count == "robust" for cell in every if cell.kind != "clean") else "accuracy"
        )
        yield Figure(
            name=f"budgets-{norm}-{words.number}",
            title=f"Accuracy against budget, {norm}{words.of}",
            caption=(
                f"{counted.capitalize()} in % against the budget eps ({measure}{unit and f', in 1/{unit}'}), "
                f"{words.before} and {words.after}; the clean accuracy stands at 0. Bands: {OVER_EXAMPLES}, of each "
                f"side alone; {_numbers(every)}."
                + (f" The first {len(shown)} of {len(several)} attacks." if len(several) > len(shown) else "")
            ),
            alt=" ".join(budget_finding(title, lines) for title, lines in _lines(shown, words).items()),
            draw=partial(_draw_budgets, shown, words, measure, unit, counted),
        )


def _draw_budgets(
    titles: dict[str, list[CellDifference]], words: _Words, measure: str, unit: str, counted: str
) -> Drawing:
    return draw_budgets(_lines(titles, words), measure, unit, counted)


def _lines(titles: dict[str, list[CellDifference]], words: _Words) -> dict[str, list[Line]]:
    """Return the lines before and after, by attack."""
    return {title: [_line(cells, series, side) for side, series in enumerate(words.series())]
            for title, cells in titles.items()}  # fmt: skip


def _line(cells: Sequence[CellDifference], series: Series, side: int) -> Line:
    points = []
    for cell in sorted(cells, key=_eps):
        accuracy = (cell.before, cell.after)[side] or 0.0
        low, high = _interval(accuracy, cell.n)
        name = f"{series.label}: {cell.perturbation}: {percent(accuracy, 1)}"
        points.append(
            (_eps(cell), accuracy, low, high, f"{name} [{percent(low, 1)}, {percent(high, 1)}], n = {cell.n}")
        )
    eps, accuracies, lows, highs, names = zip(*points, strict=True)
    return Line(series, eps, accuracies, lows, highs, names)


def _eps(cell: CellDifference) -> Fraction:
    return Fraction(Budget(cell.eps)) if cell.eps is not None else Fraction(0)


# --- corruptions ----------------------------------------------------------------------------------------------------


def _corruptions(cells: Sequence[CellDifference], words: _Words) -> Figure:
    shown, rule = _selected(cells)
    ranked = sorted((cell for cell in cells if cell.kind == "corruption"), key=lambda cell: cell.difference or 0.0)
    texts = [f"{printable(cell.perturbation, 60)} from {percent(cell.before or 0.0)} to {percent(cell.after or 0.0)}"
             for cell in ranked]  # fmt: skip
    return Figure(
        name=f"corruptions-{words.number}",
        title=f"Accuracy under corruptions{words.of}",
        caption=(
            f"Accuracy in % of {words.before} and of {words.after}, joined by a line; {_numbers(shown)}.{rule} "
            "Whether a difference is more than chance is in the figure of differences."
        ),
        alt=(
            f"Of {len(ranked)} corruptions, the accuracy is lower for {words.after} in "
            f"{sum((cell.difference or 0.0) < 0 for cell in ranked)} and higher in "
            f"{sum((cell.difference or 0.0) > 0 for cell in ranked)}. From the largest fall to the largest rise: "
            f"{extremes(texts)}."
        ),
        draw=lambda: _draw_corruptions(shown, words),
    )


def _draw_corruptions(cells: Sequence[CellDifference], words: _Words) -> Drawing:
    drawing, axis = _rows(cells)
    both = words.series()
    at = [-row for row in range(len(cells))]
    sides = [[100 * (cell.before or 0.0) for cell in cells], [100 * (cell.after or 0.0) for cell in cells]]
    axis.hlines(at, *sides, color=ink(), alpha=0.35, linewidth=1.4, zorder=1)
    for series, values, side in zip(both, sides, ("before", "after"), strict=True):
        (dots,) = axis.plot(
            values, at, color=series.color, marker=series.marker, linestyle="none", markersize=5, zorder=3
        )
        shown = [percent(getattr(cell, side) or 0.0, 1) for cell in cells]
        texts = zip(cells, shown, strict=True)
        drawing.describe(dots, [f"{series.label}: {cell.perturbation}: {text}, n = {cell.n}" for cell, text in texts])
    percent_axis(axis, plain("accuracy"), along="x", top=101)
    handles = [Line2D([], [], color=each.color, marker=each.marker, linestyle="none", markersize=5) for each in both]
    add_legend(drawing, handles, [each.label for each in both])
    return drawing
