"""A report as a small piece of HTML for notebooks: the answer, the numbers of the tables, the counts of findings."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable

from robharness.report.document import source_of
from robharness.report.records import Report
from robharness.report.renderers.formatting import format_note, format_value
from robharness.report.tables import tables
from robharness.report.values import Row, Table, Value
from robharness.text import NAME_LENGTH, SENTENCE_LENGTH, printable

MOST_BYTES = 18_000
"""The largest size, but for the last sentences; rows of tables that would exceed it are left out and counted."""
MOST_COLUMNS = 20
"""The largest number of columns of a table."""
MOST_SENTENCES = 3
"""The largest number of sentences of the answer."""
NAME = 60
"""Most characters of a name in a table."""
WITHOUT_INTERVALS = 'intervals are left out here; they are in summary() and in the file of save("report.html")'


def render(report: Report) -> str:
    """Return the report as an HTML fragment of less than 20 kB, with the numbers that the terminal shows.

    A large report has no intervals in it. The fragment has no script and no colours of its own, so that it fits light
    and dark pages. All text is escaped.
    """
    whole = _render(report, with_intervals=True)
    return whole if len(whole.encode()) <= MOST_BYTES else _render(report, with_intervals=False)


def _render(report: Report, with_intervals: bool) -> str:
    parts = [f"<p><b>{_text(line, SENTENCE_LENGTH // 2)}</b></p>" for line in report.answer[:MOST_SENTENCES]]
    parts.append(f"<p>{_text(report.title)}; {_text(source_of(report).splitlines()[0])}; {_completeness(report)}</p>")
    parts += [] if with_intervals else [f"<p>{_text(WITHOUT_INTERVALS)}</p>"]
    for table in tables(report):
        left = None if with_intervals else MOST_BYTES - sum(len(part.encode()) for part in parts)
        parts.append(_table(table, left))
    if report.findings:
        parts.append(f"<p>{_findings(report)}</p>")
    return f"<div>{''.join(parts)}</div>"


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


def _table(table: Table, most: int | None) -> str:
    """Return a table.

    most: bytes; the table then has no intervals, and no more rows than fit. None for the whole table.
    """
    columns = slice(1, 1 + MOST_COLUMNS)
    head = f"<tr>{''.join(f'<th>{_text(name, NAME)}</th>' for name in ('', *table.header[columns]))}</tr>"
    caption = table.caption if most is None else table.caption.partition(";")[0]
    title = f"<b>{_text(table.title)}</b>"
    begin = f"<table style='text-align:right'><caption>{title}{_below([caption])}</caption>{head}"
    rows = [row for row in table.rows if row is not None]
    lines, size = list[str](), len(begin.encode())
    for row in rows:
        line = _row(row, columns, with_intervals=most is None)
        size += len(line.encode())
        if most is not None and size > most:
            break
        lines.append(line)
    left_out = _left_out(len(rows) - len(lines), "rows"), _left_out(len(table.header) - 1 - MOST_COLUMNS, "columns")
    more = f"<p>{title}: {' and '.join(filter(None, left_out))} are left out here</p>" if any(left_out) else ""
    return f"{begin}{''.join(lines)}</table>{more}" if lines else more


def _left_out(count: int, noun: str) -> str:
    return f"{count} {noun}" if count > 0 else ""


def _row(row: Row, columns: slice, with_intervals: bool) -> str:
    values = row.values[columns.start - 1 : columns.stop - 1]
    return f"<tr><th>{_text(row.name, NAME)}</th>{''.join(_value(value, with_intervals) for value in values)}</tr>"


def _value(value: Value, with_intervals: bool) -> str:
    """Return the number, its intervals, and its notes, such as "20 of 40 examples"."""
    number, below = format_value(value)
    lines = below if with_intervals else map(format_note, value.notes)
    return f"<td>{_text(number)}{_below(lines)}</td>"


def _below(texts: Iterable[str]) -> str:
    """Return a small line of these texts, or nothing if they are empty."""
    line = ", ".join(filter(None, texts))
    return f"<br><small>{_text(line, SENTENCE_LENGTH)}</small>" if line else ""


def _text(text: object, limit: int = NAME_LENGTH) -> str:
    return html.escape(printable(text, limit))
