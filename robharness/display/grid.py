"""Layout of the live view: which perturbations and models are shown, in which blocks, with how much of each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robharness.display import texts
from robharness.engine.progress import CellProgress, RunProgress

MIN_ROWS = 5
"""Rows that a block has before models are left out, if there are as many perturbations."""
MIN_NAME, NAME_SHARE = 12, 0.4
"""Columns for the names of perturbations: at least, and the share of the width while models need room."""
MAX_HEADING = 3
"""The most lines for the label of a model."""
GAP = 2
"""Columns between two models."""


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """Symbols beside letters and digits."""

    sign: str = "±"
    ellipsis: str = "…"
    full: str = "━"
    empty: str = "─"


UNICODE, ASCII = Symbols(), Symbols(sign="+-", ellipsis="..", full="#", empty="-")


@dataclass(frozen=True, kw_only=True)
class Format:
    """The numbers of an entry: the accuracy with its interval, and the number of examples so far.

    width: of the accuracy with its interval, in columns.
    number: returns these as text.
    has_count: whether the number of examples is shown.
    legend: says what the numbers are.
    """

    width: int
    number: Callable[[CellProgress, Symbols], str]
    has_count: bool
    legend: str

    def columns(self, count: int) -> int:
        """Return the width of an entry, which begins with a mark.

        count: the width of the largest number of examples.
        """
        return 1 + self.width + ((1 + count) if self.has_count else 0)


def _ends(cell: CellProgress, symbols: Symbols) -> str:
    accuracy, low, high = texts.interval(cell.right, cell.n)
    return f"{accuracy:5.1f} {f'[{low:.1f}, {high:.1f}]':<13}"


def _half_width(cell: CellProgress, symbols: Symbols) -> str:
    accuracy, low, high = texts.interval(cell.right, cell.n)
    return f"{accuracy:5.1f} {symbols.sign}{max(accuracy - low, high - accuracy):<4.1f}"


def _accuracy(cell: CellProgress, symbols: Symbols) -> str:
    return f"{texts.interval(cell.right, cell.n)[0]:5.1f}"


FORMATS = (
    Format(width=19, number=_ends, has_count=True, legend="accuracy [95 %] n"),
    Format(width=12, number=_half_width, has_count=True, legend="accuracy ±95 % n"),
    Format(width=12, number=_half_width, has_count=False, legend="accuracy ±95 %"),
    Format(width=5, number=_accuracy, has_count=False, legend="accuracy"),
)
"""Formats of an entry, the widest first."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A layout: blocks of models, each with the same perturbations.

    names: of the perturbations that are shown.
    blocks: labels of the models that are shown.
    name_width, entry_width: in columns of a terminal, without the gap before an entry.
    count_width: of the number of examples.
    heading: lines for the labels.
    note: says how many models and perturbations are not shown; empty if all are.
    """

    format: Format
    names: list[str]
    blocks: list[list[str]]
    name_width: int
    entry_width: int
    count_width: int
    heading: int
    note: str


def layout(progress: RunProgress, width: int, lines: int) -> Grid | None:
    """Choose a layout of at most this many columns and lines; None if there is no room for a single row.

    The models and perturbations that are left out have not changed for longest.
    """
    labels, names = progress.labels, progress.names
    longest_name = _longest(names)
    name_width = min(longest_name, max(MIN_NAME, int(width * NAME_SHARE)))
    count_width = len(str(progress.expected))
    chosen = _format(width - name_width, len(labels), count_width)
    if chosen is None:
        return None
    format, columns = chosen
    blocks, rows = _blocks(len(labels), len(names), columns, lines)
    if rows < len(names) or blocks * columns < len(labels):
        lines -= 1  # for the note
        blocks, rows = _blocks(len(labels), len(names), columns, lines)
    if rows < 1:
        return None
    shown_labels, shown_names = latest(progress, 0, blocks * columns), latest(progress, 1, rows)
    spare = width - name_width - columns * (format.columns(count_width) + GAP)
    more_name = min(spare, longest_name - name_width)
    entry_width = format.columns(count_width)
    longest_label = 1 + _longest(shown_labels)
    entry_width += max(0, min((spare - more_name) // columns, longest_label - entry_width))
    needed = max(len(texts.broken(label, entry_width - 1, MAX_HEADING)) for label in shown_labels)
    return Grid(
        format=format,
        names=shown_names,
        blocks=[shown_labels[at : at + columns] for at in range(0, len(shown_labels), columns)],
        name_width=name_width + more_name,
        entry_width=entry_width,
        count_width=count_width,
        heading=max(1, min(needed, lines // blocks - len(shown_names))),
        note=_note(len(names) - len(shown_names), len(labels) - len(shown_labels)),
    )


def _longest(names: Sequence[str]) -> int:
    return max(map(texts.width, names))


def _format(width: int, labels: int, count_width: int) -> tuple[Format, int] | None:
    """Return the widest format with which all models stand side by side, or else two of them, or else one.

    Accuracies without an interval are the last resort.
    Returns the number of models side by side as well, or None if not one has room.
    """
    with_interval = FORMATS[:-1]
    for wanted, formats in ((labels, with_interval), (2, with_interval[1:]), (1, with_interval), (1, FORMATS)):
        for format in formats:
            columns = width // (format.columns(count_width) + GAP)
            if columns >= wanted:
                return format, min(columns, labels)
    return None


def _blocks(labels: int, names: int, columns: int, lines: int) -> tuple[int, int]:
    """Return the number of blocks, and of rows in each, that fit into the lines; a block has a line of labels."""
    blocks = -(-labels // columns)
    while blocks > 1 and lines // blocks - 1 < min(names, MIN_ROWS):
        blocks -= 1
    return blocks, min(names, lines // blocks - 1)


def latest(progress: RunProgress, part: int, most: int) -> list[str]:
    """Return the labels (part 0) or names (part 1) of cells that are computed or changed last, in the plan's order."""
    every = (progress.labels, progress.names)[part]
    if len(every) <= most:
        return every
    latest = dict.fromkeys(every, (False, 0))
    for key, cell in progress.cells.items():
        latest[key[part]] = max(latest[key[part]], (cell.workers > 0, cell.change))
    chosen = set(sorted(every, key=lambda each: latest[each], reverse=True)[:most])
    return [each for each in every if each in chosen]


def _note(names: int, labels: int) -> str:
    counts = ((names, "perturbation"), (labels, "model"))
    hidden = [f"{count} more {noun}{'s' if count > 1 else ''}" for count, noun in counts if count]
    return f"and {' and '.join(hidden)}" if hidden else ""
