"""Tables as data: rows of numbers with their intervals, which the renderers alone format."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from robharness.statistics.intervals import Interval

Kind = Literal["percentage", "points", "p", "drop", "gap", "gain", "slope", "distance", "metric", "count"]
"""The meaning of a number.

percentage, drop, gap, gain: fractions, written in percent.
points: a difference of two fractions, written in points of percent with its sign.
p: the p value of a test.
slope: a ratio of relative drops.
distance: the norm of a perturbation.
metric: a number of a plugin's metric.
count: an integer.
"""


ENOUGH_FOR_TWO_DIGITS = 1000
"""Examples from which on accuracies have two digits after the decimal point."""


def accuracy_digits(n: int) -> int:
    """Return the digits after the decimal point of an accuracy over n examples, in percent."""
    return 2 if n >= ENOUGH_FOR_TWO_DIGITS else 1


@dataclass(frozen=True)
class Number:
    """A number of a note.

    value: None if there is no such number.
    digits: after the decimal point; significant digits for distances and metrics.
    is_difference: whether it is the difference of two numbers of this kind, which is written with its sign.
    """

    value: float | None
    kind: Kind = "count"
    digits: int = 0
    is_difference: bool = False


Note = tuple[str | Number, ...]
"""Words and numbers, such as ("published", Number(0.76, "percentage", 2)). The first or the last part is words."""


PUBLISHED = "published"
"""The first word of the note with the published number and the difference of ours from it.

The sources of a report that has several are numbered: "published [1]".
"""


@dataclass(frozen=True, kw_only=True)
class Value:
    """An entry of a table.

    number: None if there is no such number.
    words: in place of a number, such as a verdict.
    kind: the meaning of the number.
    digits: after the decimal point; significant digits for distances and metrics.
    interval: 95 % confidence interval over examples or runs; infinite for a gap that may be zero.
    interval_digits: the digits of both intervals.
    corruption_interval: 95 % confidence interval over corruptions.
    deviation: sample standard deviation over runs.
    drop: the relative drop from the clean accuracy, or a difference of such drops, itself a value.
    p: of the test that the number is 0.
    few_examples: whether the number comes from fewer examples than its metric requires.
    key: of the cell that the number is of; empty for numbers of several cells.
    details: notes on the spread of the number, which are shown where its intervals are.
    notes: further information, which is always shown.
    """

    number: float | None = None
    words: str = ""
    kind: Kind = "percentage"
    digits: int = 0
    interval: Interval | None = None
    interval_digits: int = 0
    corruption_interval: Interval | None = None
    deviation: float | None = None
    drop: Value | None = None
    p: float | None = None
    few_examples: bool = False
    key: str = ""
    details: tuple[Note, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table.

    name: its first entry.
    values: one per column.
    kind: that of its cells, "clean", "attack" or "corruption"; empty for numbers of several cells.
    """

    name: str
    values: tuple[Value, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    header: the names of the columns, that of the rows' names included.
    rows: None stands for a line between sections.
    caption: the quantity and its unit.
    brackets: the meaning of the intervals and of the details of its values.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[Row | None, ...]
    caption: str = ""
    brackets: str = ""

    @property
    def full_caption(self) -> str:
        """The caption of a table that shows intervals and details."""
        return "; ".join(filter(None, (self.caption, self.brackets)))

    def transposed(self) -> Table:
        """Return the table with a row per column and a column per row, without lines between sections."""
        corner, *names = self.header
        rows = [row for row in self.rows if row is not None]
        columns = zip(*(row.values for row in rows), strict=True)
        return replace(
            self,
            header=(corner, *(row.name for row in rows)),
            rows=tuple(Row(name, values) for name, values in zip(names, columns, strict=True)),
        )


def published_note(published: Number, ours: Value, name: str = PUBLISHED) -> Note:
    """Return the note "published 75.10 (-0.30)": a published number, and ours minus it if there is one.

    name: "published", or "published [1]" for the first of several sources.
    """
    if ours.number is None or published.value is None:
        return name, published
    return name, published, Number(ours.number - published.value, ours.kind, ours.digits, is_difference=True)


def is_published(note: Note) -> bool:
    """Return whether a note is that of a published number."""
    return isinstance(note[0], str) and re.fullmatch(rf"{PUBLISHED}( \[\d+\])?", note[0]) is not None


def part_of(part: int, whole: int, name: str) -> tuple[Note, ...]:
    """Return the note "4 of 5 corruptions", or no note if the part is the whole."""
    return ((Number(part), "of", Number(whole), name),) if part < whole else ()
