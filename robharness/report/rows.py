"""Rows of tables: a value per model, or per label that runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from robharness.report.details import Published
from robharness.report.records import CellNumbers, Report
from robharness.report.runs import spread
from robharness.report.values import (
    PUBLISHED,
    Kind,
    Note,
    Number,
    Row,
    Table,
    Value,
    is_published,
    part_of,
    published_note,
)
from robharness.text import SENTENCE_LENGTH, printable

T = TypeVar("T")
NO_VALUE = Value()


SPREAD = "±: sample standard deviation over runs, which differ in their seed, not over examples"


def model_table(
    title: str,
    report: Report,
    rows: Sequence[Row | None],
    caption: str = "",
    brackets: str = "",
    columns: Sequence[str] | None = None,
) -> Table:
    """Return a table with a column per model, or per label that runs share.

    columns: the labels in the header; all of the report's if None.
    """
    made = Table(title, ("", *(report.columns if columns is None else columns)), tuple(rows), caption, brackets)
    return replace(made, caption="; ".join(filter(None, (caption, *legend(made, report)))))


def legend(table: Table, report: Report) -> Iterator[str]:
    """Yield the protocols of the models if they differ, and what published numbers and deviations of a table mean."""
    if len(found := report.labels_by_protocol) > 1:
        named = (f"{printable(name)} ({printable(labels, SENTENCE_LENGTH)})" for name, labels in found.items())
        yield f"protocols: {', '.join(named)}"
    values = [value for row in table.rows if row is not None for value in row.values]
    notes = {note[0] for value in values for note in value.notes if is_published(note)}
    shown = [source for source in report.published_sources if published_name(report, source) in notes]
    if len(report.published_sources) > 1 and shown:
        sources = (f"{source_number(report, source)}: {printable(source)}" for source in shown)
        yield f"published: the number in a source, in brackets ours minus it; {'; '.join(sources)}"
    elif shown:
        source = "".join(f" in {printable(each)}" for each in shown if each)
        yield f"published: the number{source}, in brackets ours minus it"
    if any(each.deviation is not None for value in values for each in (value, value.drop) if each is not None):
        yield SPREAD


def source_number(report: Report, source: str) -> str:
    """Return the number of a source of published numbers, such as "[1]"."""
    return f"[{report.published_sources.index(source) + 1}]"


def published_name(report: Report, source: str) -> str:
    """Return the words before a source's numbers: "published", or "published [1]" if the report has several sources."""
    return f"{PUBLISHED} {source_number(report, source)}" if len(report.published_sources) > 1 else PUBLISHED


def published_notes(
    report: Report, published: Sequence[Published], ours: Value, kind: Kind, digits: int
) -> tuple[Note, ...]:
    """Return a note for each published number of a value."""
    return tuple(published_note(Number(each.value, kind, digits), ours, published_name(report, each.source))
                 for each in published)  # fmt: skip


def cells_by_row(report: Report, wanted: Callable[[CellNumbers], bool]) -> dict[str, dict[str, CellNumbers]]:
    rows: dict[str, dict[str, CellNumbers]] = {}
    for cell in report.cells:
        if wanted(cell):
            rows.setdefault(cell.perturbation, {})[cell.model] = cell
    return rows


def unit_of(report: Report, norm: str | None) -> str:
    """Return the unit of budgets and sizes in a norm or measure; empty without one."""
    return next((cell.unit for cell in report.cells if cell.norm == norm), "")


def model_row(
    name: str,
    report: Report,
    by_model: Mapping[str, T],
    one: Callable[[T], Value],
    several: Callable[[list[T]], Value],
    columns: Sequence[str] | None = None,
) -> Row:
    """Return a row of the numbers of models.

    by_model: the numbers by label; those of some models may be missing.
    one: the value of a single model.
    several: the value over the available runs of a model.
    columns: the labels in the header; all of the report's if None.
    """
    values = dict(zip(report.columns, _by_column(report, by_model, one, several), strict=True))
    return Row(name, tuple(values.values() if columns is None else (values[label] for label in columns)))


def _by_column(
    report: Report, by_model: Mapping[str, T], one: Callable[[T], Value], several: Callable[[list[T]], Value]
) -> Iterator[Value]:
    for label, models in report.columns.items():
        available = [by_model[model] for model in models if model in by_model]
        if not available:
            yield NO_VALUE
        elif label in report.models:
            yield one(available[0])
        else:
            value, expected = several(available), report.expected_runs(label)
            runs = "runs" if expected > 1 else "run"
            count = part_of(len(available), expected, runs) or ((Number(expected), runs),)
            yield replace(value, notes=(*value.notes, *count))


def mean_over_runs(numbers: Sequence[float | None], kind: Kind, digits: int) -> Value:
    """Return the mean and the sample standard deviation."""
    mean, deviation = spread(numbers)
    return Value(number=mean, kind=kind, digits=digits, deviation=deviation)
