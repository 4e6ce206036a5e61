"""Accuracy of a model against the distance of the smallest perturbations of all attacks, beside the best distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
from matplotlib.lines import Line2D

from robharness.report.details import BestDistances, with_unit
from robharness.report.figures.curves import MOST_PANELS, curve_steps, panel_size
from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import (
    LINES,
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
from robharness.report.records import CellNumbers, Report
from robharness.report.rows import unit_of
from robharness.text import printable

MOST_ATTACKS = 12
"""Attacks that one figure shows, those of the largest global optimality; the table has all."""
BEST = "best distance per example"


def optimality_figures(report: Report) -> Iterator[Figure]:
    """Yield a figure per norm with several attacks without a budget, with a panel per model."""
    for norm in dict.fromkeys(found.norm for found in report.optimalities):
        attacks = [found for found in report.optimalities if found.norm == norm]
        attacks.sort(key=lambda found: -1.0 if found.value is None else found.value, reverse=True)
        measure = with_unit(norm, unit_of(report, norm))
        names = [found.perturbation for found in attacks[:MOST_ATTACKS]]
        best = [found for found in report.best_distances if found.norm == norm and found.until is not None]
        shown = best[:MOST_PANELS]
        if shown:
            yield Figure(
                name=f"optimality-{norm}",
                title=f"Attacks against the best distances, {norm}",
                caption=(
                    f"Accuracy in % against eps ({measure}) under each attack without a budget, and for the smallest "
                    "distance of each example that any of them found (black), up to the dotted eps_0. Local optimality "
                    "compares the areas between these lines and the clean accuracy; n = "
                    f"{shown[0].n}."
                    + (f" The best {len(names)} of {len(attacks)} attacks." if len(names) < len(attacks) else "")
                    + (f" The first {len(shown)} of {len(best)} models." if len(shown) < len(best) else "")
                ),
                alt=" ".join(_finding(found, _cells(report, found, names)) for found in shown),
                draw=partial(_draw, report, measure, names, shown),
            )


def _cells(report: Report, best: BestDistances, names: Sequence[str]) -> list[CellNumbers]:
    """Return the cells of these attacks on a model, in the order of the names."""
    cells = {cell.perturbation: cell for cell in report.cells if cell.model == best.model and cell.optimality}
    return [cells[name] for name in names if name in cells]


def _finding(best: BestDistances, cells: Sequence[CellNumbers]) -> str:
    """Return the local optimality of the attacks on a model in words, the highest first."""
    found = [(each.value, printable(cell.perturbation, 60)) for cell in cells
             if (each := cell.optimality) is not None and each.value is not None]  # fmt: skip
    found.sort(reverse=True)
    return f"{printable(best.model, 60)}, local optimality: {extremes([f'{n} {percent(v, 1)}' for v, n in found])}."


def _draw(report: Report, norm: str, names: Sequence[str], shown: Sequence[BestDistances]) -> Drawing:
    drawing, axes = panels(len(shown), **panel_size(len(shown)), sharey=True)
    styles = _styles(names)
    for axis, best in zip(axes, shown, strict=True):
        for cell in _cells(report, best, names):
            assert cell.distances is not None
            axis.plot(*curve_steps(cell.distances.curve), **styles[cell.perturbation], drawstyle="steps-post")
        axis.plot(*curve_steps(best.curve), color=ink(), linewidth=1, drawstyle="steps-post")
        axis.axvline(best.until, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(plain(best.model), fontsize="medium" if len(shown) == 1 else "small")
        axis.set_xlabel(f"eps ({norm})")
        axis.set_xlim(-0.02 * (best.until or 1), 1.1 * (best.until or 1))
        percent_axis(axis, "accuracy", top=101)
        axis.label_outer(remove_inner_ticks=False) if axis.get_subplotspec().colspan.start else None
        axis.grid(alpha=0.2)
    handles = [Line2D([], [], **styles[name]) for name in names] + [Line2D([], [], color=ink(), linewidth=1)]
    add_legend(drawing, handles, [*distinct_labels(names).values(), BEST])
    return drawing


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the colour and the dashes of each attack, which differ from those of the others as far as possible."""
    colors, width = palette(), matplotlib.rcParams["lines.linewidth"]
    return {
        name: {"color": colors[at % len(colors)], "linestyle": LINES[1:][at // len(colors) % 3], "linewidth": width}
        for at, name in enumerate(names)
    }
