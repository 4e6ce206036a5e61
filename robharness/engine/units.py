"""Units of work: one model, one span of examples, the cells that miss the span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robharness.store.spans import Span

UNIT_SECONDS = 60.0
MAX_SPAN_BYTES = 128 * 2**20
"""Of float32 inputs that a unit holds at once; an attack makes some eight copies of them."""
MIN_PASSES = 8
"""That a unit may have all the same, since passes on an accelerator are large, as its memory is."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One model (its label), one span of examples, the cells (their keys) that miss it.

    deaths: of processes that had this unit.
    """

    label: str
    span: Span
    keys: tuple[str, ...]
    deaths: int = 0


class UnitSize:
    """How many examples make a unit of about a minute; whole passes, and never more than memory can hold."""

    def __init__(self, rows: int, values: int) -> None:
        self._rows = rows
        self._most = max(MIN_PASSES * rows, MAX_SPAN_BYTES // (4 * values) // rows * rows)
        self._examples = rows  # the first unit waits for its data, the others are read ahead

    def examples(self, left: int, hands: int = 1) -> int:
        """For the next unit. left: examples there are still; hands: how many share them, so that all end together."""
        share = left if hands == 1 else -(-left // (2 * hands))
        return max(self._rows, min(self._examples, -(-share // self._rows) * self._rows))

    def took(self, examples: int, seconds: float) -> None:
        """Learn from a unit; at most eight times the size at once, since the first is cold."""
        wanted = min(examples * UNIT_SECONDS / max(seconds, 1e-9), 8 * self._examples)
        self._examples = min(max(self._rows, int(wanted) // self._rows * self._rows), self._most)

    def shrink(self, rows: int) -> None:
        """Passes have fewer rows now, and memory holds half of what was thought."""
        self._rows = rows
        self._most = max(rows, self._most // 2 // rows * rows)
        self._examples = min(self._examples, self._most)


def next_unit(
    keys: Sequence[str], gaps: dict[str, list[Span]], size: int, multiple: int = 1
) -> tuple[Span, list[str]] | None:
    """The first span of at most `size` examples that some cells miss, and their keys; None when all is there.

    multiple: of examples that are computed together: the span ends at one, though that makes it larger.
    """
    firsts = {key: gaps[key][0] for key in keys if gaps[key]}
    if not firsts:
        return None
    start = min(first for first, _ in firsts.values())
    due = [key for key, (first, _) in firsts.items() if first == start]
    ends = [stop for key, (_, stop) in firsts.items() if key in due]
    later = [first for first, _ in firsts.values() if first > start]
    stop = max(start + size, start + multiple) // multiple * multiple
    return (start, min([stop, *ends, *later])), due
