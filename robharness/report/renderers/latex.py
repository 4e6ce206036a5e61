"""A report as LaTeX tables in the layouts of the paper's Tables 1 to 8, for \\input into a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from robharness.report.records import Report
from robharness.report.relative_tables import GAIN_DIGITS, gain_in_words, mean_in_words
from robharness.report.renderers.latex_layouts import (
    GAP_ARROW,
    SIGNIFICANT,
    Entry,
    Grid,
    Group,
    capital,
    cells_by_row,
    gain_arrow,
    of_attacks,
    of_corruptions,
    of_models,
    options,
    rows_of,
)
from robharness.report.rows import legend
from robharness.report.tables import counted_accuracy, tables
from robharness.report.values import Table
from robharness.text import SENTENCE_LENGTH, TITLE_LENGTH, latex, printable

name, suffix = "LaTeX", ".tex"
WIDTH, LINES = 115, 45
"""Characters side by side and lines below each other, which fit a page as those of the paper's Table 1 do."""


def render(report: Report) -> str:
    """Return a file with one table environment per table of the report, and further ones for what fits no page."""
    head = [
        f"% {printable(report.title, TITLE_LENGTH)}",
        r"% Tables by robharness. Write \usepackage{booktabs} in the preamble, and \input with this file's name below.",
        "% In a paper of two columns, write table* in place of table.",
    ]
    return "\n".join([*head, *(_environment(report, table, at) for at, table in enumerate(tables(report), 1))]) + "\n"


def _environment(report: Report, table: Table, number: int) -> str:
    cells = cells_by_row(table, report)
    kinds = {row.kind for row in rows_of(table)}
    if "clean" not in kinds:
        grid, words = of_models(table, cells), [_sentence(table.full_caption)]
    elif "corruption" in kinds:
        grid, words = of_corruptions(table, report, cells), _words(report, "accuracy", table)
    else:
        words = _words(report, counted_accuracy(report), table)
        grid, words = of_attacks(table, report, cells), [*words, *options(cells)]
    ours = [set(entry.notes) for entry in grid.entries if entry.is_ours]
    shared = set.intersection(*ours) if ours else set()
    words += [latex(note, SENTENCE_LENGTH) for note in sorted(shared)]
    if not report.complete:
        words.append("Incomplete: some cells failed or are not computed yet")
    title = f"{latex(report.title, TITLE_LENGTH)}: {latex(table.title, TITLE_LENGTH)}"
    marks: dict[str, str] = {}
    parts: list[list[str]] = []
    for block in _blocks(grid):
        tabular = _tabular(block, shared, marks)
        if not parts or sum(part.count("\n") for part in [*parts[-1], tabular]) > LINES:
            parts.append([])
        parts[-1].append(tabular)
    notes = "; ".join(f"{mark}: {latex(note, SENTENCE_LENGTH)}" for note, mark in marks.items())
    label = f"tab:{_slug(report.suite)}-{_slug(table.title)}-{number}"
    caption = rf"\caption[{{{title}}}]{{{'. '.join(filter(None, [title, *words]))}.}}\label{{{label}}}"
    lines = []
    for part in parts:
        lines += ["", r"\begin{table}[tbp]", r"\centering\small\setlength{\tabcolsep}{4pt}", caption]
        lines += ["\n\\par\\medskip\n".join(part)]
        lines += [rf"\par\smallskip{{\footnotesize {notes}}}"] if notes else []
        lines += [r"\end{table}"]
        caption = rf"\addtocounter{{table}}{{-1}}\caption[]{{{title}, continued.}}"
    return "\n".join(lines)


def _slug(text: str) -> str:
    """Return a text as a part of a \\label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:60].strip("-") or "table"


def _sentence(text: str) -> str:
    return latex(capital(text), SENTENCE_LENGTH)


# --- words ----------------------------------------------------------------------------------------------------------


def _words(report: Report, counted: str, table: Table) -> list[str]:
    """Return sentences on a table of accuracies and drops, or of differences, whose intervals LaTeX does not show.

    counted: the accuracy that the table has.
    """
    values = [value for row in rows_of(table) for value in row.values]
    if any(value.kind == "points" for value in values):
        tests = [value.p for value in values if value.p is not None]
        none = [f"No p is below {SIGNIFICANT}"] if tests and min(tests) >= SIGNIFICANT else []
        return [_sentence(part) for part in (table.caption, *_widths(table, "differences of "), *none)]
    words = [
        f"{counted.removesuffix(',')} in % on {printable(report.data)}",
        "↓: relative drop from the clean accuracy",
    ]
    if report.gap and report.gaps_closed:
        words.append(f"{GAP_ARROW}: share of the accuracy gap from {report.gap[0]} to {report.gap[1]} that is closed")
    if report.gains:
        words.append(f"{gain_arrow(report)}: {_gains(report)}")
    parts = [f"{'; '.join(words)}; n = {report.n} examples per cell", *_widths(table), *legend(table, report)]
    return [_sentence(part) for part in parts]


def _gains(report: Report) -> str:
    """Describe the gains with their medians and their mean, as the caption of the paper's Table 5."""
    medians = [f"{each.model} {100 * each.value:.{GAIN_DIGITS}f} %" for each in report.gain_summaries
               if each.model is not None and each.value is not None]  # fmt: skip
    said = f"{gain_in_words(report, list(dict.fromkeys(gain.model for gain in report.gains)))}"
    return f"{said}; median gain across attacks: {', '.join(medians)}{mean_in_words(report)} %" if medians else said


def _widths(table: Table, kind: str = "") -> Iterator[str]:
    """Yield how far the intervals of accuracies and drops extend at most, which the table itself does not show.

    kind: "differences of " if these are their differences.
    """
    ours = [value for row in rows_of(table) for value in row.values]
    said, kinds = [], ("percentage", "drop", "points")
    for what, values in (
        (f"{kind}accuracies", ours),
        (f"{kind}relative drops", [value.drop for value in ours if value.drop]),
    ):
        reach = [max(value.number - value.interval.low, value.interval.high - value.number) for value in values
                 if value.number is not None and value.interval and value.kind in kinds]  # fmt: skip
        finite = [each for each in reach if math.isfinite(each)]
        said += [f"{math.ceil(1000 * max(finite) - 1e-9) / 10:.1f} points from {what}"] if finite else []
    if said:
        yield f"95 % confidence intervals over examples extend at most {' and '.join(said)}"


# --- entries and tabulars -------------------------------------------------------------------------------------------


def _blocks(grid: Grid) -> Iterator[Grid]:
    """Yield parts of a table that fit on a page: rows that fit below each other, and columns that fit side by side."""
    for groups in _side_by_side(grid):
        for first in range(0, len(grid.names), LINES):
            rows = slice(first, first + LINES)
            yield Grid(
                grid.corner,
                grid.names[rows],
                tuple(replace(group, entries=tuple(column[rows] for column in group.entries)) for group in groups),
                {at - first: text for at, text in grid.sections.items() if first <= at < first + LINES},
            )


def _side_by_side(grid: Grid) -> Iterator[tuple[Group, ...]]:
    """Yield groups of columns that fit side by side; groups that are too wide are divided."""
    room = WIDTH - max(map(_width, (grid.corner, *grid.names)))
    block: list[Group] = []
    taken = 0
    for group in grid.groups:
        widths = [2 + max(map(_width, [column, *(entry.text for entry in entries)]))
                  for column, entries in zip(group.columns, group.entries, strict=True)]  # fmt: skip
        fits_below = sum(widths) <= room < taken + sum(widths)
        for at, width in enumerate(widths):
            if block and (taken + width > room or (fits_below and at == 0)):
                yield tuple(block)
                block, taken = [], 0
            columns, entries = group.columns[at : at + 1], group.entries[at : at + 1]
            if at and block:
                last = block.pop()
                columns, entries = last.columns + columns, last.entries + entries
            block.append(Group(group.heading, columns, entries))
            taken += width
    if block:
        yield tuple(block)


def _width(text: str) -> int:
    """Return about how many characters wide LaTeX is when it is set."""
    return len(re.sub(r"\\(?:textsuperscript|scriptsize|[()]|quad)|[{}]", "", re.sub(r"\\[a-zA-Z]{2,}", "x", text)))


def _tabular(grid: Grid, shared: set[str], marks: dict[str, str]) -> str:
    """Return a tabular.

    shared: notes that the caption has.
    marks: note -> its letter; new notes are added.
    """
    width = sum(len(group.columns) for group in grid.groups)
    lines = [rf"\begin{{tabular}}{{l{'r' * width}}}", r"\toprule", *_heading_lines(grid), r"\midrule"]
    for row, text in enumerate(grid.names):
        if row in grid.sections:
            lines += [r"\midrule"] if row else []
            heading = grid.sections[row]
            lines += [rf"\multicolumn{{{width + 1}}}{{l}}{{\textit{{{heading}}}}} \\"] if heading else []
        entries = [column[row] for group in grid.groups for column in group.entries]
        if any(entry.text for entry in entries):
            lines.append(" & ".join([text, *(_marked(entry, shared, marks) for entry in entries)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _heading_lines(grid: Grid) -> list[str]:
    below = " & ".join([grid.corner, *(column for group in grid.groups for column in group.columns)]) + r" \\"
    if not any(group.heading for group in grid.groups):
        return [below]
    above, rules, at = [""], [], 2
    for group in grid.groups:
        last = at + len(group.columns) - 1
        above.append(rf"\multicolumn{{{len(group.columns)}}}{{c}}{{{group.heading}}}")
        rules += [rf"\cmidrule(lr){{{at}-{last}}}"] if group.heading else []
        at = last + 1
    return [" & ".join(above) + r" \\", "".join(rules), below]


def _marked(entry: Entry, shared: set[str], marks: dict[str, str]) -> str:
    """Return the text of an entry with letters for the notes that only some entries have."""
    letters = [marks.setdefault(note, _letter(len(marks))) for note in entry.notes if note not in shared]
    return entry.text + (rf"\textsuperscript{{{','.join(letters)}}}" if letters else "")


def _letter(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    before = _letter(number // 26 - 1) if number >= 26 else ""
    return before + "abcdefghijklmnopqrstuvwxyz"[number % 26]
