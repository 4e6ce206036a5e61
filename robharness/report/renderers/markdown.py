"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from robharness.report.records import Report, source_of
from robharness.report.tables import Table, Value, tables


def render(report: Report) -> str:
    """The whole report as one Markdown text."""
    parts = [f"# {_escaped(report.title)}", source_of(report)]
    parts += [_table(table) for table in tables(report)]
    for heading, lines in (("Warnings", report.warnings), ("Failed", report.problems)):
        if lines:
            parts.append("\n".join([f"## {heading}", "", *(f"- {_escaped(line)}" for line in lines)]))
    if not report.complete:
        parts.append("**Incomplete: some cells failed or are not computed yet.**")
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"## {_escaped(table.title)}", "", _line([_escaped(name) for name in table.header])]
    lines.append(_line(["---", *["---:"] * (len(table.header) - 1)]))
    lines += [_line([_value(value) for value in row]) for row in table.rows if row is not None]
    return "\n".join([*lines, *(["", _escaped(table.caption)] if table.caption else [])])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value(value: Value) -> str:
    return "<br>".join([_escaped(value.text), *(f"<sub>{_escaped(line)}</sub>" for line in value.below)])


def _escaped(text: str) -> str:
    for character in ("\\", "|", "*", "_", "<", ">"):
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
