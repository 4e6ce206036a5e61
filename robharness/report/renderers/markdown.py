"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from robharness.report.document import Document, document_of
from robharness.report.records import Report
from robharness.report.renderers.base import Layout
from robharness.report.renderers.formatting import format_note, format_parts
from robharness.report.values import Table, Value
from robharness.text import COMMAND_LENGTH, markdown

name, suffix = "Markdown", ".md"


def render(report: Report, layout: Layout = Layout()) -> str:  # noqa: B008
    """Return the report as Markdown: the answer, the tables with their intervals, and the findings, errors first."""
    return render_document(document_of(report), layout)


def render_document(document: Document, layout: Layout = Layout()) -> str:  # noqa: B008
    """Return a document as Markdown, its tables with their intervals."""
    parts = [f"# {markdown(document.title)}", *_paragraphs(document.answer)]
    parts.append("\n".join(map(_sentence, document.source.split("\n"))))
    for table in map(layout.arranged, document.tables):
        parts.append(f"## {markdown(table.title)}\n\n{render_table(table)}")
    for heading, lines, _ in document.sections:
        parts.append("\n".join([f"## {heading}", "", *(f"- {_sentence(line)}" for line in lines)]))
    if document.verdict:
        parts.append(f"**{_sentence(document.verdict)}**")
    return "\n\n".join(parts) + "\n"


def _paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Yield a paragraph per sentence; those that begin with two spaces are items of a list."""
    for is_item, found in groupby(sentences, key=lambda sentence: sentence.startswith("  ")):
        if is_item:
            yield "\n".join(f"- {_sentence(each)}" for each in found)
        else:
            yield from map(_sentence, found)


def render_table(table: Table) -> str:
    """Return a table as Markdown without its title, with its caption below it."""
    lines = [_line(map(markdown, table.header))]
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
