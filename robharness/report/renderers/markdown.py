"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from robharness.report.records import Report, source_of
from robharness.report.renderers.base import Layout
from robharness.report.renderers.formatting import format_note, format_parts
from robharness.report.tables import tables
from robharness.report.values import Table, Value
from robharness.text import COMMAND_LENGTH, markdown

name, suffix = "Markdown", ".md"


def render(report: Report, layout: Layout = Layout()) -> str:  # noqa: B008
    """Return the report as Markdown: the answer, the tables with their intervals, and the findings, errors first."""
    parts = [f"# {markdown(report.title)}", *map(_sentence, report.answer)]
    parts.append("\n".join(map(_sentence, source_of(report).split("\n"))))
    parts += [_table(layout.arranged(table)) for table in tables(report)]
    for heading, lines in (("Failed", report.problems), ("Warnings", report.warnings), ("Notes", report.notes)):
        if lines:
            parts.append("\n".join([f"## {heading}", "", *(f"- {_sentence(line)}" for line in lines)]))
    if not report.complete:
        parts.append("**Incomplete: some cells failed or are not computed yet.**")
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"## {markdown(table.title)}", "", _line(map(markdown, table.header))]
    lines.append(_line(["---", *["---:"] * (len(table.header) - 1)]))
    lines += [_line([markdown(row.name), *map(_value, row.values)]) for row in table.rows if row is not None]
    return "\n".join([*lines, *(["", _sentence(table.full_caption)] if table.full_caption else [])])


def _sentence(text: str) -> str:
    return markdown(text, COMMAND_LENGTH)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(value: Value) -> str:
    """Return the number with its intervals, and its notes in lines below it."""
    text = " ".join(filter(None, format_parts(value)))
    notes = (format_note(note) for note in (*value.details, *value.notes))
    return "<br>".join([markdown(text), *(f"<sub>{markdown(note)}</sub>" for note in notes)])
