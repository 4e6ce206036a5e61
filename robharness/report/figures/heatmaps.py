"""Relative drops per corruption and severity, and per source and judged model, as heat maps on one scale of colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm
from matplotlib.patches import Rectangle

from robharness.report.figures.figure import Drawing, Figure
from robharness.report.figures.series import Series, all_series, cells_of, ink, percent, plain
from robharness.report.records import CellNumbers, Report
from robharness.report.transfer_tables import transfer_cells
from robharness.text import printable

STEPS = 20
"""Number of colours of the scale."""
MOST_ROWS = 60
"""Corruptions that a map shows; the tables have all."""
MOST_TRANSFER_MAPS = 12
"""Transfer attacks, each budget counted, that have a map; the tables have all."""
_DARK, _LIGHT = "#010101", "#ffffff"
"""Ink on coloured cells, which does not change with the page's."""

Drops = dict[tuple[str, str], float]
"""(row, column) -> relative drop, a fraction."""


def transfer_maps(report: Report) -> Iterator[Figure]:
    """Yield a map of sources and judged models for each attack and budget that is crafted on other models."""
    columns = list(report.columns)
    found: dict[str, tuple[list[str], Drops]] = {}
    for attack, sources in transfer_cells(report).items():
        drops: Drops = {}
        for source, cells in sources.items():
            for label, models in report.columns.items():
                complete = [cells[model].numbers for model in models if model in cells and cells[model].complete]
                values = [each.relative_drop for each in complete if each.relative_drop is not None]
                drops |= {(source, label): fmean(values)} if values else {}
        if drops:
            found[attack] = list(sources), drops
    limits = _limits([drop for _, drops in found.values() for drop in drops.values()])
    for number, (attack, (rows, drops)) in enumerate(list(found.items())[:MOST_TRANSFER_MAPS], 1):
        shown = rows[:MOST_ROWS]
        caption = (
            f"Relative drop from the clean accuracy in % under {printable(attack, 100)}: the sources, on which the "
            f"attack is crafted, down, and the judged models across; n = {report.n} per cell. A model that is its own "
            f"source is attacked directly. All maps of transfer attacks have the same scale of colours."
        )
        if len(rows) > len(shown):
            caption += f" The first {len(shown)} of {len(rows)} sources."
        if len(found) > MOST_TRANSFER_MAPS:
            caption += f" Map {number} of the first {MOST_TRANSFER_MAPS}; there are {len(found)} attacks."
        missing = sum((row, column) not in drops for row in shown for column in columns)
        caption += _hatched(missing, len(shown) * len(columns))
        yield Figure(
            name=f"transfer-{number}",
            title=f"Transfer of {printable(attack, 100)}",
            caption=caption,
            alt=_finding(f"{printable(attack, 60)}, source and judged model", drops, missing),
            draw=partial(_draw, shown, columns, drops, limits, ""),
        )


def heat_maps(report: Report) -> Iterator[Figure]:
    """Yield a map per model; or one map of all models, if every corruption has one severity."""
    cells = [cell for cell in report.cells if cell.kind == "corruption"]
    rows = list(dict.fromkeys(map(_row_of, cells)))
    if not cells or not any(cell.numbers.relative_drop is not None for cell in cells):
        return
    series = all_series(report)
    severities = {cell.severity for cell in cells if cell.severity is not None}
    limits = _limits([drop for each in series for drop in _drops_of(report, each).values()])
    if len(severities) < 2:
        columns = [each.label for each in series]
        drops: Drops = {
            (row, each.label): drop for each in series for (row, _), drop in _drops_of(report, each).items()
        }
        yield _figure(report, 1, "Relative drops under corruptions", rows, columns, drops, limits, "all models")
        return
    columns = [str(severity) for severity in sorted(severities)]
    if any(cell.severity is None for cell in cells):
        columns.append("none")
    for number, each in enumerate(series, 1):
        title = f"Relative drops under corruptions, {each.label}"
        yield _figure(report, number, title, rows, columns, _drops_of(report, each), limits, each.label)


def _row_of(cell: CellNumbers) -> str:
    return cell.title or cell.perturbation


def _drops_of(report: Report, series: Series) -> Drops:
    """Return the drops of a model, or their means over its complete runs."""
    found = {}
    for cells in cells_of(report, series).values():
        values = [cell.numbers.relative_drop for cell in cells if cell.numbers.relative_drop is not None]
        if cells[0].kind == "corruption" and values:
            column = "none" if cells[0].severity is None else str(cells[0].severity)
            found[_row_of(cells[0]), column] = fmean(values)
    return found


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the scale that all maps share: multiples of ten percent around all drops."""
    low, high = np.floor(10 * min([0.0, *values])) / 10, np.ceil(10 * max([0.1, *values])) / 10
    return float(low), float(high)


def _figure(
    report: Report,
    number: int,
    title: str,
    rows: list[str],
    columns: list[str],
    drops: Drops,
    limits: tuple[float, float],
    name: str,
) -> Figure:
    shown = rows[:MOST_ROWS]
    missing = sum((row, column) not in drops for row in shown for column in columns)
    has_severities = name != "all models"
    across = "severities" if has_severities else "models"
    caption = (
        f"Relative drop from the clean accuracy in %, corruptions down and {across} across; n = {report.n} per cell."
    )
    if has_severities:
        caption += " All maps of this report have the same scale of colours."
    caption += _hatched(missing, len(shown) * len(columns))
    if len(rows) > len(shown):
        caption += f" The first {len(shown)} of {len(rows)} corruptions."
    return Figure(
        name=f"heatmap-{number}",
        title=title,
        caption=caption,
        alt=_finding(name, drops, missing),
        draw=lambda: _draw(shown, columns, drops, limits, "severity" if has_severities else ""),
    )


def _hatched(missing: int, of: int) -> str:
    return f" Hatched: {missing} of {of} cells have no number." if missing else ""


def _finding(name: str, drops: Drops, missing: int) -> str:
    if not drops:
        return f"{name}: no drops are known."
    worst, least = max(drops, key=lambda key: drops[key]), min(drops, key=lambda key: drops[key])
    said = [f"{printable(row, 60)}, {printable(column, 60)} ({percent(drops[row, column])})"
            for row, column in (worst, least)]  # fmt: skip
    text = f"Heat map of {name}: the largest drop is under {said[0]}, the smallest under {said[1]}."
    return f"{text} {missing} cells have no number." if missing else text


def _draw(rows: list[str], columns: list[str], drops: Drops, limits: tuple[float, float], across: str) -> Drawing:
    size = matplotlib.rcParams["font.size"]
    width = max(0.55, 3.2 * size / 72) if across else max(0.55, min(1.1, 7 * size / 72))
    names = [plain(row, 60) for row in rows]
    margin = max(map(len, names)) * 0.6 * size / 72 + 0.3
    top = 0.5 if across else max(map(len, columns)) * 0.3 * size / 72 + 0.4
    drawing = Drawing(figsize=(margin + width * len(columns), top + 0.42 + 0.30 * len(rows) * size / 10),
                      layout="constrained")  # fmt: skip
    FigureCanvasAgg(drawing)
    axis = drawing.subplots()
    values = np.array([[100 * drops.get((row, column), np.nan) for column in columns] for row in rows])
    steps = np.linspace(100 * limits[0], 100 * limits[1], STEPS + 1)
    colors = matplotlib.colormaps[matplotlib.rcParams["image.cmap"]].resampled(STEPS)
    norm = BoundaryNorm(steps, STEPS)
    axis.pcolormesh(np.ma.masked_invalid(values), cmap=colors, norm=norm, edgecolors="none")
    for (down, right), value in np.ndenumerate(values):
        if np.isnan(value):
            axis.add_patch(Rectangle((right, down), 1, 1, fill=False, hatch="////", linewidth=0, edgecolor=ink(),
                                     alpha=0.4))  # fmt: skip
        else:
            note = axis.text(right + 0.5, down + 0.5, f"{value:.0f}", ha="center", va="center", fontsize="small",
                             color=_ink_on(colors(norm(value))))  # fmt: skip
            note.set_in_layout(False)
    axis.set_xticks(np.arange(len(columns)) + 0.5, [plain(column, 60) for column in columns])
    axis.set_yticks(np.arange(len(rows)) + 0.5, names)
    if not across and sum(map(len, columns)) * 0.65 * size / 72 > width * len(columns):
        axis.tick_params(axis="x", labelrotation=35)
        for label in axis.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    axis.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axis.xaxis.set_label_position("top")
    axis.set_xlabel(across)
    axis.invert_yaxis()
    for spine in axis.spines.values():
        spine.set_visible(False)
    return drawing


def _ink_on(color: Any) -> str:
    """Return black or white, whichever has more contrast on a colour. Source: relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return _DARK if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else _LIGHT
