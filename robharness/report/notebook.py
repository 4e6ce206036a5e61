"""A report as a small piece of HTML for notebooks: the answer, the numbers of the tables, the counts of findings."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable

from robharness.report.records import Report, source_of
from robharness.report.renderers.formatting import format_note, format_value
from robharness.report.tables import tables
from robharness.report.values import Row, Table, Value
from robharness.text import NAME_LENGTH, SENTENCE_LENGTH, printable

MOST_BYTES = 18_000
"""The largest size of the tables; rows that would exceed it are left out and counted."""
MOST_COLUMNS = 20
"""The largest number of columns of a table."""
MOST_SENTENCES = 3
"""The largest number of sentences of the answer."""
NAME = 60
"""Most characters of a name in a table."""


def render(report: Report) -> str:
    """Return the report as an HTML fragment of less than 20 kB, with the numbers that the terminal shows.

    It has no script and no colours of its own, so that it fits light and dark pages. All text is escaped.
    """
    answer = [f"<p><b>{_text(line, SENTENCE_LENGTH // 2)}</b></p>" for line in report.answer[:MOST_SENTENCES]]
    head = [f"<p>{_text(report.title)}; {_text(source_of(report).splitlines()[0])}; {_completeness(report)}</p>"]
    left = MOST_BYTES - sum(len(part.encode()) for part in (*answer, *head))
    body = []
    for table in tables(report):
        part = _table(table, left)
        left -= len(part.encode())
        body.append(part)
    findings = _findings(report)
    return f"<div>{''.join([*answer, *head, *body, *([f'<p>{findings}</p>'] if findings else [])])}</div>"


def _completeness(report: Report) -> str:
    complete = sum(cell.complete for cell in report.cells)
    if report.complete:
        return "all cells are complete"
    return f"<b>incomplete</b>: {complete} of {len(report.cells)} cells are complete"


def _findings(report: Report) -> str:
    """Return "1 error (cell-failed), 3 warnings (few-examples, 2 code-changed)", or an empty text."""
    parts = []
    for severity in ("error", "warning", "note"):
        codes = Counter(found.code for found in report.findings if found.severity == severity)
        if count := codes.total():
            names = ", ".join(f"{number} {code}" if number > 1 else code for code, number in codes.items())
            parts.append(f"{count} {severity}{'s' * (count > 1)} ({_text(names, SENTENCE_LENGTH)})")
    return ", ".join(parts)


def _table(table: Table, most: int) -> str:
    """Return a table, or the count of its rows if none of them fits into that many bytes."""
    columns = slice(1, 1 + MOST_COLUMNS)
    head = f"<tr>{''.join(f'<th>{_text(name, NAME)}</th>' for name in ('', *table.header[columns]))}</tr>"
    rows = [row for row in table.rows if row is not None]
    title = f"<b>{_text(table.title)}</b>"
    size = len(f"<table style='text-align:right'><caption>{title}</caption>{head}</table>".encode())
    shown: list[str] = []
    for row in rows:
        line = _row(row, columns)
        size += len(line.encode())
        if size > most:
            break
        shown.append(line)
    left_out = _left_out(len(rows) - len(shown), "rows"), _left_out(len(table.header) - 1 - MOST_COLUMNS, "columns")
    more = f"<p>{title}: {' and '.join(filter(None, left_out))} are left out here</p>" if any(left_out) else ""
    if not shown:
        return more
    return f"<table style='text-align:right'><caption>{title}</caption>{head}{''.join(shown)}</table>{more}"


def _left_out(count: int, noun: str) -> str:
    return f"{count} {noun}" if count > 0 else ""


def _row(row: Row, columns: slice) -> str:
    values = row.values[columns.start - 1 : columns.stop - 1]
    return f"<tr><th>{_text(row.name, NAME)}</th>{''.join(map(_value, values))}</tr>"


def _value(value: Value) -> str:
    """Return the number with its notes, such as "20 of 40 examples"; intervals are in other forms of the report."""
    number, _ = format_value(value)
    notes = _lines(map(format_note, value.notes))
    return f"<td>{_text(number)}{notes}</td>"


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"<br><small>{_text(text)}</small>" for text in texts)


def _text(text: object, limit: int = NAME_LENGTH) -> str:
    return html.escape(printable(text, limit))


