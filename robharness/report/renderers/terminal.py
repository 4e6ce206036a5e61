"""A report in a terminal, by rich."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from robharness.report.records import Report, source_of
from robharness.report.tables import Table, Value, tables

PIPED_WIDTH = 160


def show(report: Report, console: Console) -> None:
    """Print the tables, and then what a reader must know; a file or a pipe gets wide tables."""
    if not console.is_terminal and console.width < PIPED_WIDTH:
        console.width = PIPED_WIDTH
    console.print(Text(f"{report.title}", style="bold"), Text(source_of(report)), sep="\n")
    for table in tables(report):
        console.print()
        console.print(_table(table))
    for heading, lines, style in (
        ("Warnings", report.warnings, "yellow"),
        ("Failed", report.problems, "red"),
    ):
        if lines:
            console.print(Text(f"\n{heading}", style=f"bold {style}"))
            for line in lines:
                console.print(Text(f"  {line}"), soft_wrap=True)
    if not report.complete:
        console.print(Text("\nIncomplete: some cells failed or are not computed yet.", style="bold red"))


def _table(table: Table) -> RichTable:
    made = RichTable(
        title=Text(table.title, style="bold"),
        caption=Text(table.caption, style="dim"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    for index, name in enumerate(table.header):
        if index == 0:  # long names fold beside the lines of the numbers
            made.add_column(Text(name), min_width=26)
        else:
            made.add_column(Text(name), justify="right", no_wrap=True)
    for row in table.rows:
        if row is None:
            made.add_section()
        else:
            made.add_row(*[_value(value) for value in row])
    return made


def _value(value: Value) -> Group:
    return Group(Text(value.text), *(Text(line, style="dim") for line in value.below))
