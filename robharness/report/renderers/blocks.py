"""Tables as lines of text that fit a width: a line per row, blocks of columns, names that wrap.

Plain strings, because a table library takes seconds for thousands of numbers, and cuts those that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len

from robharness.report.renderers.formatting import Parts, format_parts, labelled_note
from robharness.report.values import Row, Table
from robharness.text import TITLE_LENGTH, printable

GAP = "  "
INDENT = "  "
NAME_WIDTH, LEAST_NAME_WIDTH, HEADING_WIDTH = 26, 12, 12
"""Widths down to which names of rows and of columns are wrapped so that more columns fit into a block."""

_WORD = re.compile(r"\S+\s*|\s+")
_PIECE = re.compile(r"[^\-_/,;(|]+[\-_/,;(|]*|[\-_/,;(|]+")
_CHARACTER = re.compile(r".[\u0300-\u036f\u200d\ufe0f]*", re.DOTALL)


class Line(NamedTuple):
    """A line of a table and its part: "heading", "rule", "row" or "note"."""

    text: str
    part: str


@dataclass(frozen=True)
class _Row:
    """A row as text: an entry per column, and the notes below it by name."""

    name: str
    entries: list[str]
    notes: dict[str, list[str]]


def table_lines(table: Table, width: int, *, intervals: bool = False, rule: str = "─") -> tuple[list[Line], bool]:
    """Return the lines of a table, without its title and caption, and whether they show intervals.

    width: most cells of a line; a line is longer only if one number with the start of a name does not fit.
    intervals: whether intervals are shown even if there is no room for all columns side by side.
    rule: the character below headings.
    """
    parts: _Parts = [[format_parts(value) for value in row.values] if row else None for row in table.rows]
    text = _Text(table, parts, width, rule)
    if intervals or len(text.blocks) == 1:
        return list(text.lines()), True
    short: _Parts = [[each.without_intervals for each in row] if row else None for row in parts]
    return list(_Text(table, short, width, rule, details=False).lines()), False


_Parts = list[list[Parts] | None]
"""The numbers of each row, one per column; None for a line between sections."""


class _Text:
    """A table as text, with the columns of each block."""

    def __init__(self, table: Table, parts: _Parts, width: int, rule: str, *, details: bool = True) -> None:
        self.width, self.rule = width, rule
        self.headings = [_name(name) for name in table.header[1:]]
        self.rows = _as_text(table, parts, details)
        names = [row.name for row in self.rows if row]
        names += [INDENT + note for row in self.rows if row for note in row.notes]
        natural = max(map(_cells, names), default=0)
        self.entry_widths = [
            max((_cells(each[column]) for row in self.rows if row for each in (row.entries, *row.notes.values())),
                default=0)
            for column in range(len(self.headings))
        ]  # fmt: skip
        self.least = [
            max(entry, min(HEADING_WIDTH, _cells(heading)))
            for entry, heading in zip(self.entry_widths, self.headings, strict=True)
        ]
        room = width - len(GAP) - max(self.least, default=0)
        least_name = min(natural, NAME_WIDTH, max(room, LEAST_NAME_WIDTH))
        self.blocks = self._packed(width - least_name)
        used = max((sum(self.least[column] + len(GAP) for column in block) for block in self.blocks), default=0)
        self.name_width = max(least_name, min(natural, width - used))

    def _packed(self, room: int) -> list[list[int]]:
        """Return the columns of each block, as few blocks as possible and of about the same size."""

        def pack(most: int) -> list[list[int]]:
            blocks: list[list[int]] = []
            left = 0
            for column, width in enumerate(self.least):
                needed = width + len(GAP)
                if not blocks or needed > left or len(blocks[-1]) == most:
                    blocks.append([])
                    left = room
                blocks[-1].append(column)
                left -= needed
            return blocks

        found = pack(len(self.least))
        even = pack(-(-len(self.least) // max(1, len(found))))
        return even if len(even) == len(found) else found

    def lines(self) -> Iterator[Line]:
        names = [(_folded(row.name, self.name_width), self._note_names(row)) if row else None for row in self.rows]
        for number, block in enumerate(self.blocks):
            if number:
                yield Line("", "row")
            widths = self._widths(block)
            yield from self._heading(block, widths)
            for row, folded in zip(self.rows, names, strict=True):
                if row is None or folded is None:
                    yield Line("", "row")
                    continue
                yield from self._row(folded[0], row.entries, block, widths, "row")
                for name, entries in zip(folded[1], row.notes.values(), strict=True):
                    if any(entries[column] for column in block):
                        yield from self._row(name, entries, block, widths, "note")

    def _note_names(self, row: _Row) -> list[list[str]]:
        return [_folded(name, self.name_width, INDENT, INDENT * 2) for name in row.notes]

    def _row(
        self, name: list[str], entries: Sequence[str], block: list[int], widths: dict[int, int], part: str
    ) -> Iterator[Line]:
        shown = "".join(GAP + _right(entries[column], widths[column]) for column in block)
        yield Line((_left(name[0], self.name_width) + shown).rstrip(), part)
        for more in name[1:]:
            yield Line(more, part)

    def _heading(self, block: list[int], widths: dict[int, int]) -> Iterator[Line]:
        folded = {column: _folded(self.headings[column], widths[column]) for column in block}
        height = max(map(len, folded.values()))
        for level in range(height):
            texts = ("" if (at := level - height + len(folded[column])) < 0 else folded[column][at] for column in block)
            line = "".join(GAP + _right(text, widths[column]) for text, column in zip(texts, block, strict=True))
            yield Line((" " * self.name_width + line).rstrip(), "heading")
        rules = "".join(GAP + self.rule * widths[column] for column in block)
        yield Line(self.rule * self.name_width + rules, "rule")

    def _widths(self, block: list[int]) -> dict[int, int]:
        """Return the widths of a block's columns, those with which headings have the fewest lines."""
        room = self.width - self.name_width - len(GAP) * len(block)
        least = {column: self.least[column] for column in block}
        most = max(len(_folded(self.headings[column], width)) for column, width in least.items())
        for height in range(1, most):
            widths = {column: self._width_for(column, height) for column in block}
            if sum(widths.values()) <= room:
                return widths
        return least

    def _width_for(self, column: int, height: int) -> int:
        """Return the smallest width at which a column's heading has no more lines than this."""
        heading, least = self.headings[column], self.least[column]
        width = max(least, -(-_cells(heading) // height))
        while len(_folded(heading, width)) > height:
            width += 1
        return width


def _as_text(table: Table, parts: _Parts, details: bool) -> list[_Row | None]:
    """Return the rows as text. A note that all rows have alike is a row of its own, at the end."""
    numbers = [row for row in parts if row is not None]
    widths = [[max(map(len, column)) for column in zip(*column_parts, strict=True)]
              for column_parts in zip(*numbers, strict=True)]  # fmt: skip
    rows = [_row_as_text(row, found, widths, details) if row and found else None
            for row, found in zip(table.rows, parts, strict=True)]  # fmt: skip
    present = [row for row in rows if row is not None]
    first = present[0].notes if len(present) > 1 else {}
    for name, entries in list(first.items()):
        if all(row.notes.get(name) == entries for row in present):
            for row in present:
                row.notes.pop(name)
            rows.append(_Row(name, entries, {}))
    return rows


def _row_as_text(row: Row, parts: list[Parts], widths: list[list[int]], details: bool) -> _Row:
    notes: dict[str, list[str]] = {}
    for column, value in enumerate(row.values):
        for note in (*(value.details if details else ()), *value.notes):
            name, text = labelled_note(note)
            entries = notes.setdefault(_name(name), [""] * len(row.values))
            entries[column] = f"{entries[column]}, {text}" if entries[column] else text
    for entries in notes.values():
        entries[:] = [_below(text, below) for text, below in zip(entries, widths, strict=True)]
    return _Row(_name(row.name), [_entry(each, below) for each, below in zip(parts, widths, strict=True)], notes)


def _entry(parts: Parts, widths: list[int]) -> str:
    """Return a number with its parts below those of the numbers above it."""
    return " ".join(part.rjust(width) for part, width in zip(parts, widths, strict=True) if width)


def _below(text: str, widths: list[int]) -> str:
    """Return a note's number below the first part of the numbers, if it is no longer."""
    rest = sum(1 + width for width in widths[1:] if width)
    return text.rjust(widths[0]) + " " * rest if text and len(text) <= widths[0] else text


def _folded(text: str, width: int, first: str = "", others: str = INDENT) -> list[str]:
    """Return a name as lines of at most this width, broken at spaces, or else after punctuation, or else anywhere.

    first, others: the indents of the first line and of the others.
    """
    if _cells(first) + _cells(text) <= width:
        return [first + text]
    lines, line, indent = [], "", first
    pieces = _WORD.findall(text)
    while pieces:
        piece = pieces.pop(0)
        room = max(1, width - len(indent))
        if _cells((line + piece).rstrip()) <= room:
            line += piece
        elif line:
            lines.append((indent + line).rstrip())
            line, indent = "", others
            pieces.insert(0, piece)
        elif len(parts := _PIECE.findall(piece)) > 1 or len(parts := _split(piece, room)) > 1:
            pieces[:0] = parts
        else:  # one character that is wider than the line
            line = piece
    return [*lines, *([(indent + line).rstrip()] if line else [])]


def _split(piece: str, room: int) -> list[str]:
    """Return the first characters of a piece that fit, one at least, and the others."""
    start = ""
    for character in _CHARACTER.findall(piece):
        if start and _cells(start + character) > room:
            return [start, piece[len(start) :]]
        start += character
    return [piece]


def _name(text: str) -> str:
    return printable(text, TITLE_LENGTH).strip()


def _cells(text: str) -> int:
    """Return the width of a text in a terminal, where wide characters take two cells."""
    return len(text) if text.isascii() else cell_len(text)


def _left(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _right(text: str, width: int) -> str:
    return " " * (width - _cells(text)) + text
