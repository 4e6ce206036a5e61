"""A comparison as one HTML page: it holds its style, its script and its figures, and loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from robharness.comparison.outputs.figures import MOST_PAIRS, figures
from robharness.comparison.outputs.tables import document_of
from robharness.comparison.records import LEVEL, CellDifference, Comparison, RunsDifference, pair_name
from robharness.report.renderers.html.layout import fill
from robharness.report.renderers.html.sections import KIND_NAMES
from robharness.report.renderers.html.shown import beside, data, number_entry
from robharness.report.values import Value, accuracy_digits

_HERE = Path(__file__).parent
NOTHING = Markup("<td>–</td>")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    at: the place of the cell in the comparison.
    pair: the place of its models among the pairs of the filter.
    entries: the numbers, as <td> elements.
    """

    at: int
    pair: int
    cell: CellDifference | RunsDifference
    entries: tuple[Markup, ...]


def render(comparison: Comparison) -> str:
    """Return the page."""
    document = document_of(comparison)
    pairs = list(dict.fromkeys([(runs.other, runs.model) for runs in comparison.runs] + list(comparison.pairs)))
    places = {pair: at for at, pair in enumerate(pairs)}
    kinds = {cell.kind for cell in comparison.cells}
    drawn = figures(comparison)
    return fill(
        "comparison.html",
        folders=[_HERE],
        title=document.title,
        source=document.source,
        answer=document.answer,
        findings=document.findings,
        figures=drawn,
        comparison=comparison,
        pairs=[pair_name(*pair) for pair in pairs],
        pair_name=pair_name,
        heads=_heads(comparison.pairs or tuple(pairs)),
        cells=[Row(at=at, pair=places[cell.other, cell.model], cell=cell, entries=_numbers(cell, comparison))
               for at, cell in enumerate(comparison.cells)],
        runs=[Row(at=at, pair=places[each.other, each.model], cell=each, entries=_runs(each))
              for at, each in enumerate(comparison.runs)],
        changed=any(cell.lost_ids or cell.gained_ids for cell in comparison.cells),
        kinds=[kind for kind in KIND_NAMES if kind in kinds],
        kind_names=KIND_NAMES,
        percent=f"{100 * LEVEL:g} %",
        most_pairs=MOST_PAIRS if len(comparison.pairs) > MOST_PAIRS else 0,
        table_of=lambda name: "cells",
    )  # fmt: skip


def _heads(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the names of both sides, which are the labels if two models are compared."""
    return pairs[0] if len(pairs) == 1 and pairs[0][0] != pairs[0][1] else ("before", "after")


def _numbers(cell: CellDifference, comparison: Comparison) -> tuple[Markup, ...]:
    digits = accuracy_digits(cell.n)
    count = f"{cell.n}" if cell.n == comparison.n else f'<span class="missing">{cell.n} of {comparison.n}</span>'
    first = Markup(f"<td{data(cell.n)}>{count}</td>")
    if cell.difference is None:
        return first, *[NOTHING] * 9
    return (
        first,
        number_entry(cell.before, "percentage", digits),
        number_entry(cell.after, "percentage", digits),
        number_entry(cell.difference, "points", digits, cell.interval),
        number_entry(cell.lost, "count", 0),
        number_entry(cell.gained, "count", 0),
        _p(cell),
        number_entry(cell.drop_before, "drop", 0),
        number_entry(cell.drop_after, "drop", 0),
        number_entry(cell.drop_difference, "points", digits - 1, cell.drop_interval),
    )


def _p(cell: CellDifference) -> Markup:
    """Return the entry of p, in bold if the difference is significant."""
    entry = number_entry(cell.p_holm, "p", 0)
    if not cell.is_significant:
        return entry
    return Markup(entry.replace("<td", Markup('<td class="significant"'), 1))


def _runs(found: RunsDifference) -> tuple[Markup, ...]:
    digits = accuracy_digits(found.n)

    def mean(number: float | None, deviation: float | None) -> Markup:
        return beside(Value(number=number, digits=digits, deviation=deviation))

    def counted(runs: int, asked: int) -> Markup:
        text: Any = runs if runs == asked else Markup(f'<span class="missing">{runs} of {asked}</span>')
        return Markup(f"<td{data(runs)}>{text}</td>")

    return (
        Markup(f"<td{data(found.n)}>{found.n}</td>"),
        counted(found.runs_before, found.asked_before),
        mean(found.before, found.before_deviation),
        counted(found.runs_after, found.asked_after),
        mean(found.after, found.after_deviation),
        number_entry(found.difference, "points", digits, found.interval),
    )
