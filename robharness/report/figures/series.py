"""Labels, colours, markers and line styles that tell models apart, and the layout that all figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from robharness.report.figures.figure import Drawing
from robharness.report.records import CellNumbers, Report
from robharness.text import printable

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that people with any colour vision tell apart, without yellow, which white pages hide, and black.

Source: Okabe and Ito 2008, Color Universal Design.
"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", ":", "-.")
LABEL_LENGTH = 60
"""Most characters of a model's label or an attack's name in a figure."""
ACROSS = 3
"""Panels side by side."""


@dataclass(frozen=True)
class Series:
    """A model of a figure, or the runs that share its label.

    label: as shown.
    models: the labels in the report: one, or those of the runs.
    has_runs: whether these are runs of one model.
    """

    label: str
    models: tuple[str, ...]
    has_runs: bool
    color: Any
    marker: str
    line: Any


def all_series(report: Report) -> list[Series]:
    """Return the models of a report; a model looks the same in all figures of one style."""
    shown = distinct_labels(report.columns)
    colors = palette()
    return [
        Series(
            label=shown[name],
            models=tuple(labels),
            has_runs=name not in report.models,
            color=colors[at % len(colors)],
            marker=MARKERS[at % len(MARKERS)],
            line=LINES[at // len(colors) % len(LINES)],
        )
        for at, (name, labels) in enumerate(report.columns.items())
    ]


def palette() -> list[Any]:
    """Return the colours of Matplotlib's style, or Okabe and Ito's if the user has not chosen any."""
    chosen = matplotlib.rcParams["axes.prop_cycle"]
    colors = chosen.by_key().get("color", [])
    is_default = chosen == matplotlib.rcParamsDefault["axes.prop_cycle"]
    return list(OKABE_ITO) if is_default or not colors else colors


def distinct_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return each label as a figure shows it; labels that would look the same get numbers."""
    shown: dict[str, str] = {}
    for label in labels:
        text, count = printable(label, LABEL_LENGTH), 1
        while text in shown.values():
            count += 1
            text = f"{printable(label, LABEL_LENGTH)} ({count})"
        shown[label] = text
    return shown


def plain(text: object, limit: int = LABEL_LENGTH) -> str:
    """Return foreign text for Matplotlib, which reads formulas, and with `text.usetex` LaTeX, in what it draws."""
    shown = printable(text, limit)
    if matplotlib.rcParams["text.usetex"]:
        from robharness.text import latex

        return latex(shown, limit)
    return shown.replace("$", r"\$") if matplotlib.rcParams["text.parse_math"] else shown


def ink() -> Any:
    """Return the colour of text, for lines that belong to no model."""
    return matplotlib.rcParams["text.color"]


def panels(count: int, *, width: float = 1.0, height: float = 1.0, **options: Any) -> tuple[Drawing, list[Any]]:
    """Return a drawing with `count` panels in rows of at most `ACROSS`, and its axes.

    width, height: of a panel, in shares of the figure size of Matplotlib's style.
    options: of `Figure.subplots`.
    """
    across = min(count, ACROSS)
    down = -(-count // across)
    base = matplotlib.rcParams["figure.figsize"]
    drawing = Drawing(figsize=(width * base[0] * across, height * base[1] * down), layout="constrained")
    FigureCanvasAgg(drawing)
    grid = drawing.subplots(down, across, squeeze=False, **options)
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.remove()
    return drawing, axes[:count]


def add_legend(drawing: Drawing, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Add a legend below the panels, with as many columns as fit, and make the figure higher by its rows."""
    size = matplotlib.rcParams["font.size"] * 0.83
    width = drawing.get_figwidth() * 72
    widest = max(map(len, labels)) * 0.62 * size + 5 * size
    columns = max(1, min(len(labels), int(width / widest)))
    rows = -(-len(labels) // columns)
    drawing.set_figheight(drawing.get_figheight() + rows * 1.6 * size / 72 + 0.1)
    drawing.legend(handles, [plain(label, len(label)) for label in labels], loc="outside lower center", ncols=columns,
                   frameon=False, fontsize="small", handlelength=2.6)  # fmt: skip


def percent_axis(axis: Any, name: str, *, along: str = "y", top: float = 100.0) -> None:
    """Label an axis of percentages from 0."""
    if along == "y":
        axis.set_ylabel(f"{name} ({percent_sign()})")
        axis.set_ylim(0, top)
    else:
        axis.set_xlabel(f"{name} ({percent_sign()})")
        axis.set_xlim(0, top)


def percent_sign() -> str:
    """Return the sign of percent, which LaTeX takes for a comment."""
    return r"\%" if matplotlib.rcParams["text.usetex"] else "%"


def accuracy_of(cell: CellNumbers) -> float | None:
    """Return the accuracy, or the robust accuracy if only examples that are right clean were attacked."""
    return cell.numbers.robust_accuracy if cell.numbers.accuracy is None else cell.numbers.accuracy


def interval_of(cell: CellNumbers) -> Any:
    """Return the interval of `accuracy_of`."""
    return cell.numbers.robust_interval if cell.numbers.accuracy is None else cell.numbers.interval


def cells_of(report: Report, series: Series) -> dict[str, list[CellNumbers]]:
    """Return the cells of a model, or the complete cells of its runs, by perturbation; only those with outcomes."""
    found: dict[str, list[CellNumbers]] = {}
    for cell in report.cells:
        if cell.model in series.models and cell.numbers.n and (cell.complete or not series.has_runs):
            found.setdefault(cell.perturbation, []).append(cell)
    return found


def spoken(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    shown = [printable(name, LABEL_LENGTH) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def percent(share: float, digits: int = 0) -> str:
    """Return a fraction as a percentage, such as "38 %"."""
    return f"{100 * share:.{digits}f} %"
