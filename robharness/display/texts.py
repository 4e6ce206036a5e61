"""Texts of the live view: accuracies with intervals, durations, speeds, and names cut to a width."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from rich.cells import cell_len

from robharness.engine.progress import CellProgress, RunProgress
from robharness.text import TITLE_LENGTH, printable

ELLIPSIS = "…"
BREAKS = " -_/,(:"
"""Characters after which a long label is broken, if one stands in the second half of a line."""


@lru_cache(maxsize=4096)
def interval(right: int, n: int) -> tuple[float, float, float]:
    """Return the accuracy and the ends of its 95 % interval, in percent; n > 0.

    Source: `robharness.statistics.accuracy_interval`, as in reports.
    """
    from robharness.statistics import accuracy_interval

    low, high = accuracy_interval(right, n)
    return 100 * right / n, 100 * low, 100 * high


def accuracy(cell: CellProgress) -> str:
    """Return the accuracy so far with its interval, "38.2 [35.1, 41.4]"; n > 0."""
    share, low, high = interval(cell.right, cell.n)
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def duration(seconds: float) -> str:
    """Return "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_left(progress: RunProgress) -> str:
    """Return "12 min left", "estimating the time left" while nothing is known, or an empty text if nothing is left."""
    if progress.fraction == 1:
        return ""
    seconds = progress.seconds_left
    return "estimating the time left" if seconds is None else f"{duration(seconds)} left"


def speed(progress: RunProgress) -> str:
    """Return "128 examples/s"; an empty text before the first outcome."""
    rate = progress.rate
    if rate is None:
        return ""
    return f"{rate:,.0f} examples/s" if rate >= 10 else f"{rate:.2g} examples/s"


def failures(progress: RunProgress) -> str:
    """Return "2 failed"; an empty text without failures."""
    return f"{progress.failures} failed" if progress.failures else ""


def computed(progress: RunProgress) -> str:
    """Return "1,230 of 3,000 examples"."""
    return f"{progress.computed:,} of {progress.work:,} examples"


@lru_cache(maxsize=4096)
def width(text: str) -> int:
    """Return the columns of a terminal that foreign text has as one line."""
    return cell_len(printable(text, TITLE_LENGTH))


@lru_cache(maxsize=4096)
def fitted(text: str, width: int, *, start: float = 0.5, ellipsis: str = ELLIPSIS) -> str:
    """Return foreign text as one line of at most this many columns of a terminal, cut in its middle.

    start: the share of what is kept that is the start of the text.
    """
    shown = printable(text, TITLE_LENGTH)
    if cell_len(shown) <= width:
        return shown
    if width <= cell_len(ellipsis):
        return _start(shown, width)
    left = width - cell_len(ellipsis)
    end = _start(shown[::-1], left - int(start * left))[::-1]
    return f"{_start(shown, left - cell_len(end))}{ellipsis}{end}"


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text with spaces up to a width in columns of a terminal."""
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces


@lru_cache(maxsize=4096)
def broken(text: str, width: int, lines: int, ellipsis: str = ELLIPSIS) -> tuple[str, ...]:
    """Return foreign text as lines of at most this many columns, cut in its middle if the lines are too few."""
    rest, found = printable(text, TITLE_LENGTH), list[str]()
    while len(found) < lines - 1 and cell_len(rest) > width:
        line = _start(rest, width)
        if not line:
            break
        at = max((line.rfind(mark) for mark in BREAKS), default=-1) + 1
        found.append(line[:at] if 2 * at > len(line) else line)
        rest = rest[len(found[-1]) :]
    return tuple(line.rstrip() for line in [*found, fitted(rest, width, ellipsis=ellipsis)])


def _start(text: str, width: int) -> str:
    """Return the longest start of a text that has at most this many columns."""
    return "".join(_within(text, width))


def _within(text: str, width: int) -> Iterator[str]:
    for character in text:
        width -= cell_len(character)
        if width < 0:
            return
        yield character
