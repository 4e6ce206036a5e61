"""A comparison as a document: the answer, a table of accuracies and one of relative drops per pair, and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from robharness.comparison.answer import TEST, answer, digits_for
from robharness.comparison.records import CellDifference, Comparison, RunsDifference
from robharness.report.document import Document
from robharness.report.renderers.base import Layout
from robharness.report.rows import NO_VALUE, SPREAD
from robharness.report.values import Note, Number, Row, Table, Value, part_of
from robharness.text import SENTENCE_LENGTH, printable

LAYOUT = Layout(intervals=True)
"""The layout of the tables: a difference without its interval says nothing."""
OVER_EXAMPLES = "in brackets 95 % confidence intervals, paired by example"


def document_of(comparison: Comparison, *, changed: int = 0) -> Document:
    """Return the content of a comparison as text.

    changed: the number of changed examples of each kind that are named per cell.
    """
    return Document(
        title=comparison.title,
        answer=answer(comparison),
        source=source_of(comparison),
        tables=tuple(_tables(comparison, changed)),
        findings=comparison.findings,
        verdict="" if comparison.is_complete else "Incomplete: some cells are missing, or some of their outcomes are.",
    )


def source_of(comparison: Comparison) -> str:
    """Describe both sides and the data, in lines."""
    sides = {"before": (comparison.before, comparison.n_before), "after": (comparison.after, comparison.n_after)}
    if sides["before"] == sides["after"]:
        sides = {"before and after": sides["after"]}
    lines = [f"{which}: {name}, {n:,} examples per cell" for which, (name, n) in sides.items()]
    lines += [f"data: {comparison.data}"] if comparison.data else []
    lines += [f"clusters: examples whose ids agree in {comparison.clusters}"] if comparison.clusters else []
    return "\n".join(printable(line, SENTENCE_LENGTH) for line in lines)


def _tables(comparison: Comparison, changed: int) -> Iterator[Table]:
    by_runs: dict[tuple[str, str], list[RunsDifference]] = {}
    for runs in comparison.runs:
        by_runs.setdefault((runs.other, runs.model), []).append(runs)
    for (other, model), of_runs in by_runs.items():
        yield _runs(other, model, of_runs)
    for other, model in comparison.pairs:
        cells = [cell for cell in comparison.cells if (cell.other, cell.model) == (other, model)]
        if cells:
            yield _accuracies(other, model, cells, comparison)
        if any(cell.drop_difference is not None for cell in cells):
            yield _drops(other, model, cells, comparison)
        if changed and any(cell.lost or cell.gained for cell in cells):
            yield _changed(other, model, cells, changed)


def _accuracies(other: str, model: str, cells: Sequence[CellDifference], comparison: Comparison) -> Table:
    def values(cell: CellDifference) -> tuple[Value, ...]:
        notes = part_of(cell.n, comparison.n, "examples")
        if cell.difference is None:
            return NO_VALUE, NO_VALUE, Value(notes=notes), NO_VALUE, NO_VALUE
        digits = digits_for(cell.n)
        return (
            Value(number=cell.before, digits=digits),
            Value(number=cell.after, digits=digits),
            Value(number=cell.difference, kind="points", digits=digits, interval=cell.interval, interval_digits=digits,
                  notes=notes),
            Value(words=cell.changed),
            Value(number=cell.p_holm, kind="p"),
        )  # fmt: skip

    robust = "robust accuracy (correct both clean and perturbed)"
    counts = {cell.count for cell in cells if cell.kind != "clean"} or {"all"}
    accuracy = "accuracy" if counts == {"all"} else robust if len(counts) == 1 else f"accuracy, for ensembles {robust},"
    caption = (
        f"{accuracy} in %, difference in points; changed: examples that are right only before (-) and only after (+); "
        f"p: {TEST.rpartition(',')[0]}; n = {comparison.n:,}"
    )
    header = ("", *_headings(other, model), "difference", "changed", "p")
    return Table(f"Accuracy{_of(other, model)}", header, tuple(_rows(cells, values)), caption, OVER_EXAMPLES)


def _drops(other: str, model: str, cells: Sequence[CellDifference], comparison: Comparison) -> Table:
    def values(cell: CellDifference) -> tuple[Value, ...]:
        if cell.drop_difference is None:
            return NO_VALUE, NO_VALUE, NO_VALUE
        digits = digits_for(cell.n) - 1
        return (
            Value(number=cell.drop_before, kind="drop"),
            Value(number=cell.drop_after, kind="drop"),
            Value(number=cell.drop_difference, kind="points", digits=digits, interval=cell.drop_interval,
                  interval_digits=digits),
        )  # fmt: skip

    caption = (
        "relative drop from the clean accuracy in %, difference in points, above 0 if the drop became larger; "
        f"n = {comparison.n:,}"
    )
    rows = _rows([cell for cell in cells if cell.kind != "clean"], values)
    header = ("", *_headings(other, model), "difference")
    return Table(f"Relative drop{_of(other, model)}", header, tuple(rows), caption, OVER_EXAMPLES)


def _runs(other: str, model: str, runs: Sequence[RunsDifference]) -> Table:
    def values(found: RunsDifference) -> tuple[Value, ...]:
        digits = digits_for(found.n)
        return (
            Value(number=found.before, digits=digits, deviation=found.before_deviation,
                  notes=_runs_note(found.runs_before, found.asked_before)),
            Value(number=found.after, digits=digits, deviation=found.after_deviation,
                  notes=_runs_note(found.runs_after, found.asked_after)),
            Value(number=found.difference, kind="points", digits=digits, interval=found.interval,
                  interval_digits=digits),
        )  # fmt: skip

    caption = f"mean accuracy over runs in %, difference in points; {SPREAD}; n = {max(each.n for each in runs):,}"
    header = ("", *_headings(other, model), "difference")
    rows = tuple(Row(each.perturbation, values(each)) for each in runs)
    brackets = "in brackets 95 % confidence intervals over runs (Welch), not over examples"
    return Table(f"Means over runs{_of(other, model)}", header, rows, caption, brackets)


def _runs_note(runs: int, asked: int) -> tuple[Note, ...]:
    return part_of(runs, asked, "runs") or ((Number(asked), "runs" if asked != 1 else "run"),)


def _changed(other: str, model: str, cells: Sequence[CellDifference], changed: int) -> Table:
    """Return the ids of changed examples, a row per id; the cell's name stands in its first row."""
    rows = []
    for cell in cells:
        lost, gained = (
            _ids(ids, count, changed) for ids, count in ((cell.lost_ids, cell.lost), (cell.gained_ids, cell.gained))
        )
        for number, (one, another) in enumerate(zip_longest(lost, gained, fillvalue="")):
            rows.append(Row("" if number else cell.perturbation, (_words(one), _words(another)), cell.kind))
    header = ("", "right only before", "right only after")
    return Table(f"Changed examples{_of(other, model)}", header, tuple(rows))


def _ids(ids: Sequence[str], count: int, changed: int) -> list[str]:
    shown = list(ids[:changed])
    return [*shown, *([f"and {count - len(shown)} more"] if count > len(shown) else [])]


def _words(text: str) -> Value:
    return Value(words=text or " ")


def _rows(
    cells: Sequence[CellDifference], values: Callable[[CellDifference], tuple[Value, ...]]
) -> Iterator[Row | None]:
    """Yield a row per cell, and lines between clean examples, attacks and the groups of corruptions."""
    section: tuple[Any, ...] | None = None
    for cell in cells:
        if section is not None and section != (cell.kind, cell.group):
            yield None
        section = (cell.kind, cell.group)
        yield Row(cell.perturbation, values(cell), cell.kind)


def _headings(other: str, model: str) -> tuple[str, str]:
    return ("before", "after") if other == model else (other, model)


def _of(other: str, model: str) -> str:
    return f" of {model}" if other == model else f", {other} → {model}"
