"""A report as text with tables, printed by rich on a terminal or rendered for a file."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from robharness.report.records import Report, source_of
from robharness.report.renderers.formatting import format_value
from robharness.report.tables import tables
from robharness.report.values import Table, Value
from robharness.text import COMMAND_LENGTH, styled

name, suffix = "text", ".txt"
FILE_WIDTH = 160
"""Columns of text in a file or a pipe."""


def render(report: Report) -> str:
    """Return the text that `show` prints, without colours and FILE_WIDTH wide."""
    file = io.StringIO()
    show(report, Console(file=file, width=FILE_WIDTH, force_terminal=False, color_system=None))
    return file.getvalue()


def show(report: Report, console: Console) -> None:
    """Print the tables, then notes, warnings and failures; a console that is no terminal is widened to FILE_WIDTH."""
    if not console.is_terminal and console.width < FILE_WIDTH:
        console.width = FILE_WIDTH
    console.print(styled(report.title, "bold"), Text(source_of(report)), sep="\n")
    for table in tables(report):
        console.print()
        console.print(_table(table))
    for heading, lines, style in (
        ("Notes", report.notes, ""),
        ("Warnings", report.warnings, "yellow"),
        ("Failed", report.problems, "red"),
    ):
        if lines:
            console.print(Text(f"\n{heading}", style=f"bold {style}".strip()))
            for line in lines:
                console.print(styled(f"  {line}", limit=COMMAND_LENGTH), soft_wrap=True)
    if not report.complete:
        console.print(Text("\nIncomplete: some cells failed or are not computed yet.", style="bold red"))


def _table(table: Table) -> RichTable:
    made = RichTable(
        title=styled(table.title, "bold"),
        caption=styled(table.caption, "dim", COMMAND_LENGTH),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    first, *columns = table.header
    made.add_column(styled(first), min_width=26)  # long names fold beside the lines of the numbers
    for column in columns:
        made.add_column(styled(column), justify="right", no_wrap=True)
    for row in table.rows:
        if row is None:
            made.add_section()
        else:
            made.add_row(styled(row.name), *map(_value, row.values))
    return made


def _value(value: Value) -> Group:
    text, below = format_value(value)
    return Group(styled(text), *(styled(line, "dim") for line in below))
