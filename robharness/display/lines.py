"""Lines of the live view: styled pieces of text that never exceed the width and the height of a terminal."""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len

from robharness.display import texts
from robharness.display.grid import GAP, UNICODE, Grid, Symbols, layout
from robharness.engine.progress import CellProgress, RunProgress

BAR, MIN_BAR = 30, 6
"""The most and the fewest columns of the bar."""
NAME_START = 0.75
"""The share of a shortened name of a perturbation that is its start, where norm and eps stand."""


class Piece(NamedTuple):
    """Text in one style of rich."""

    text: str
    style: str = ""


Line = list[Piece]


def live_lines(progress: RunProgress, width: int, height: int, symbols: Symbols = UNICODE) -> list[Line]:
    """Return the lines of the live view: bar, speed, time left, failures, and the accuracies so far.

    width, height: the most columns and lines.
    """
    head = [summary_line(progress, width, symbols)]
    if progress.last_failure:
        text = texts.fitted(f"last failure: {progress.last_failure}", width, ellipsis=symbols.ellipsis)
        head.append([Piece(text, "red")])
    room = height - len(head)
    grid = layout(progress, width, room) if progress.cells and room > 1 else None
    return [*head, *_grid_lines(progress, grid, width, symbols)] if grid else head[:height]


def summary_line(progress: RunProgress, width: int, symbols: Symbols = UNICODE) -> Line:
    """Return the line with the bar, the computed share, the speed, the time left and the number of failures.

    What has no room is left out, the least important first.
    """
    parts = {
        "share": Piece(f"{100 * progress.fraction:3.0f} %", "bold"),
        "computed": Piece(texts.computed(progress)),
        "speed": Piece(texts.speed(progress)),
        "left": Piece(texts.time_left(progress), "bold"),
        "failures": Piece(texts.failures(progress), "bold red"),
    }
    parts = {name: part for name, part in parts.items() if part.text}
    for name in ("", "speed", "computed", "share", "left", "failures"):
        parts.pop(name, None)
        room = width - sum(GAP + cell_len(part.text) for part in parts.values())
        if room >= MIN_BAR:
            break
    bar = max(0, min(BAR, room))
    done = round(bar * progress.fraction)
    line = [Piece(symbols.full * done, "green"), Piece(symbols.empty * (bar - done), "dim")]
    for part in parts.values():
        line += [Piece(" " * GAP), part]
    return line


def _grid_lines(progress: RunProgress, grid: Grid, width: int, symbols: Symbols) -> list[Line]:
    """Return the lines of all blocks, and the note on what is not shown."""
    found: list[Line] = []
    legend = grid.format.legend.replace("±", symbols.sign)
    for block in grid.blocks:
        headings = [texts.broken(label, grid.entry_width - 1, grid.heading, symbols.ellipsis) for label in block]
        lines = max(map(len, headings))
        for at in range(lines):
            left = legend if at == lines - 1 and cell_len(legend) <= grid.name_width else ""
            row = [Piece(texts.padded(left, grid.name_width), "dim")]
            for heading in headings:
                skipped = at - (lines - len(heading))  # the last lines of all labels are on one line
                text = heading[skipped] if skipped >= 0 else ""
                row.append(Piece(" " * GAP + texts.padded(text, grid.entry_width, right=True), "bold"))
            found.append(row)
        for name in grid.names:
            shown = texts.fitted(name, grid.name_width, start=NAME_START, ellipsis=symbols.ellipsis)
            line = [Piece(texts.padded(shown, grid.name_width))]
            for label in block:
                line += [Piece(" " * GAP), *_entry(progress.cells.get((label, name)), grid, symbols)]
            found.append(line)
    if grid.note:
        found.append([Piece(texts.fitted(grid.note, width, ellipsis=symbols.ellipsis), "dim")])
    return found


def _entry(cell: CellProgress | None, grid: Grid, symbols: Symbols) -> Line:
    """Return the numbers of a cell, right-aligned; ">" marks a cell that is computed now, "!" one that failed."""
    format = grid.format
    wide = format.width + 1 + grid.count_width if format.has_count else format.width
    before = " " * (grid.entry_width - 1 - wide)
    if cell is None:
        return [Piece(before + " " * (1 + wide))]
    mark = Piece(
        before + (">" if cell.workers else "!" if cell.failures else " "), "bold red" if cell.failures else "bold cyan"
    )
    if not cell.n:
        text, style = ("failed", "red") if cell.failures else ("-", "dim")
        text = text[:4] if format.width < len(text) else text
        return [mark, Piece(texts.padded(texts.padded(text, 5, right=True), wide), style)]
    style = "red" if cell.failures else "" if cell.n == cell.expected else "cyan"
    number = Piece(texts.padded(format.number(cell, symbols), format.width), style)
    if not format.has_count:
        return [mark, number]
    return [mark, number, Piece(f" {cell.n:>{grid.count_width}}", "dim" if cell.n == cell.expected else "")]
