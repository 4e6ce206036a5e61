"""A report as text with tables, printed on a terminal or rendered for a file."""

from __future__ import annotations

import io

from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from robharness.report.document import Document, document_of
from robharness.report.records import Report
from robharness.report.renderers.base import Layout
from robharness.report.renderers.blocks import table_lines
from robharness.report.values import Table
from robharness.text import COMMAND_LENGTH, SENTENCE_LENGTH, has_command, styled

name, suffix = "text", ".txt"
FILE_WIDTH = 160
"""Columns of text in a file or a pipe."""
STYLES = {"heading": "bold", "rule": "dim", "row": "", "note": "dim"}
"""The style of each part of a table."""


def render(report: Report, layout: Layout = Layout()) -> str:  # noqa: B008
    """Return the text that `show` prints, without colours and at most FILE_WIDTH wide."""
    return render_document(document_of(report), layout)


def render_document(document: Document, layout: Layout = Layout()) -> str:  # noqa: B008
    """Return the text that `show_document` prints, without colours and at most FILE_WIDTH wide."""
    file = io.StringIO()
    console = Console(file=file, width=FILE_WIDTH, force_terminal=False, color_system=None)
    show_document(document, console, layout)
    return file.getvalue()


def show(report: Report, console: Console, layout: Layout = Layout()) -> None:  # noqa: B008
    """Print the answer, the tables and the findings of a report; see `show_document`."""
    show_document(document_of(report), console, layout)


def show_document(document: Document, console: Console, layout: Layout = Layout()) -> None:  # noqa: B008
    """Print the answer, the tables and the findings, errors first.

    A console that is no terminal is widened to FILE_WIDTH.
    """
    if not console.is_terminal and console.width < FILE_WIDTH:
        console.width = FILE_WIDTH
    console.print(styled(document.title, "bold"), soft_wrap=True)
    for line in document.answer:
        if has_command(line):
            console.print(styled(line, limit=SENTENCE_LENGTH), soft_wrap=True)
        else:
            _print_wrapped(styled(line, limit=SENTENCE_LENGTH), console)
    console.print()
    for line in document.source.split("\n"):
        _print_wrapped(Text(line, style="dim"), console, indent="  ")  # so that no words of a name begin a line
    for table in document.tables:
        _print_table(layout.arranged(table), console, layout)
    for heading, lines, style in document.sections:
        console.print(Text(f"\n{heading}", style=f"bold {style}".strip()))
        for line in lines:
            console.print(styled(f"  {line}", limit=COMMAND_LENGTH), soft_wrap=True)
    if document.verdict:
        console.print()
        console.print(styled(document.verdict, "bold red", SENTENCE_LENGTH), soft_wrap=True)


def _print_table(table: Table, console: Console, layout: Layout) -> None:
    """Print a table as lines that rich neither cuts nor fills with spaces."""
    rule = "-" if console.options.ascii_only else "─"
    lines, intervals = table_lines(table, console.width, intervals=layout.intervals, rule=rule)
    styles = {part: Style.parse(style) for part, style in STYLES.items()}
    console.print()
    console.print(styled(table.title, "bold"), soft_wrap=True)
    console.print()
    console.print(Segments([Segment(f"{line}\n", styles[part]) for line, part in lines]), soft_wrap=True, end="")
    caption = table.full_caption if intervals else table.caption
    if table.brackets and not intervals:
        caption += "; 95 % intervals are left out"
    if caption:
        console.print()
        _print_wrapped(styled(caption, "dim", COMMAND_LENGTH), console)


def _print_wrapped(text: Text, console: Console, indent: str = "") -> None:
    """Print a text in lines of the console's width, without spaces at their ends.

    indent: of the lines after the first.
    """
    for number, line in enumerate(text.wrap(console, console.width - len(indent))):
        line.rstrip()
        console.print(Text(indent if number else "").append_text(line), soft_wrap=True)
