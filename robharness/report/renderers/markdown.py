"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from robharness.report.records import Report, source_of
from robharness.report.renderers.formatting import format_value
from robharness.report.tables import tables
from robharness.report.values import Table, Value

name, suffix = "Markdown", ".md"


def render(report: Report) -> str:
    """Return the report as Markdown: the tables, then notes, warnings and failures."""
    parts = [f"# {_escaped(report.title)}", source_of(report)]
    parts += [_table(table) for table in tables(report)]
    for heading, lines in (("Notes", report.notes), ("Warnings", report.warnings), ("Failed", report.problems)):
        if lines:
            parts.append("\n".join([f"## {heading}", "", *(f"- {_escaped(line)}" for line in lines)]))
    if not report.complete:
        parts.append("**Incomplete: some cells failed or are not computed yet.**")
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"## {_escaped(table.title)}", "", _line(map(_escaped, table.header))]
    lines.append(_line(["---", *["---:"] * (len(table.header) - 1)]))
    lines += [_line([_escaped(row.name), *map(_value, row.values)]) for row in table.rows if row is not None]
    return "\n".join([*lines, *(["", _escaped(table.caption)] if table.caption else [])])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(value: Value) -> str:
    text, below = format_value(value)
    return "<br>".join([_escaped(text), *(f"<sub>{_escaped(line)}</sub>" for line in below)])


def _escaped(text: str) -> str:
    for character in ("\\", "|", "*", "_", "<", ">"):
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
