"""A check as Markdown that fits into one comment of GitHub or GitLab, or into the summary of a job."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

from robharness.comparison.check_tables import CELLS, document_of_check
from robharness.comparison.records import CellCheck, CheckReport, Verdict
from robharness.report.document import Document
from robharness.report.renderers.markdown import render_document, render_table
from robharness.report.values import Table
from robharness.text import COMMAND_LENGTH, counted, markdown, printable

COMMENT_LENGTH = 65_000
"""Most characters of a comment; GitHub takes 65,536 and GitLab 1,000,000."""
MOST_LINES = (1000, 500, 200, 100, 50, 20, 10, 5, 2, 1, 0)
"""The number of lines that each list and each table is shortened to, until the text fits."""
QUIET: tuple[Verdict, ...] = ("passed", "new")
"""The verdicts of cells that are folded away."""


def marker(report: CheckReport) -> str:
    """Return the first line of every comment on checks of a suite, which is not shown, and by which it is found."""
    return f"<!-- robharness check {quote(report.suite.encode(errors='replace'), safe=' ').replace('--', '-%2D')} -->"


def render(report: CheckReport, limit: int = COMMENT_LENGTH, size: Callable[[str], int] = len) -> str:
    """Return a check as Markdown: the verdict, the cells that did not just pass, and the others folded away.

    limit: the largest size of the text. One that is too large has shorter lists and tables, and says so.
    size: of a text; by default the number of characters.
    """
    document = document_of_check(replace(report, accept=""))  # which stands in a block, to be copied
    document = replace(document, answer=(document.verdict or "Passed.", *document.answer), verdict="")
    document = replace(document, tables=document_of_check(_selected(report, is_quiet=False)).tables)
    folded = document_of_check(_selected(report, is_quiet=True)).tables
    text = _text(report, document, folded)
    for lines in MOST_LINES:
        if size(text) <= limit:
            break
        text = _text(report, _shortened(document, lines), _cut(folded, lines), lines)
    return text


def _accept(report: CheckReport) -> str:
    """Return the command that accepts the results as a block to be copied; empty if there is nothing to accept."""
    document = document_of_check(report)
    if not report.accept or report.update is not None or not (document.verdict or report.of("improved")):
        return ""
    command = printable(report.accept, COMMAND_LENGTH)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    words = "To accept the present results:" if document.verdict else "To make the improvement the baseline:"
    return f"{words}\n\n{fence}\n{command}\n{fence}"


def _selected(report: CheckReport, *, is_quiet: bool) -> CheckReport:
    """Return the same with the cells and ratios that just passed, or with the others, alone."""
    return replace(
        report,
        cells=tuple(each for each in report.cells if (each.verdict in QUIET) == is_quiet),
        benchmarks=tuple(each for each in report.benchmarks if (each.verdict in QUIET) == is_quiet),
    )


def _text(report: CheckReport, document: Document, folded: tuple[Table, ...], lines: int | None = None) -> str:
    parts = [marker(report), render_document(document).rstrip("\n"), *filter(None, [_accept(report)])]
    for table in folded:
        verdicts = [each.verdict for each in report.of(*QUIET) if isinstance(each, CellCheck) == (table.title == CELLS)]
        counts = (f"{count} {verdict}" for verdict in QUIET if (count := verdicts.count(verdict)))
        summary = f"<summary>{markdown(table.title)}: {', '.join(counts)}</summary>"
        parts.append(f"<details>{summary}\n\n{render_table(table)}\n\n</details>")
    if lines is not None:
        parts.append(f"Shortened: each list and each table has its first {counted(lines, 'line', 'lines')} alone.")
    return "\n\n".join(parts) + "\n"


def _shortened(document: Document, lines: int) -> Document:
    """Return a document whose lists and tables have no more lines than this; the verdict stays."""
    return replace(
        document,
        answer=document.answer[: 1 + lines],
        findings=document.findings[:lines],
        tables=_cut(document.tables, lines),
    )


def _cut(tables: tuple[Table, ...], lines: int) -> tuple[Table, ...]:
    return tuple(replace(table, rows=table.rows[:lines]) for table in tables) if lines else ()
