"""Units of work: one model, one span of examples, and the cells that miss the span."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from robharness.store.spans import Span

UNIT_SECONDS = 60.0
"""The intended duration of a unit."""
MAX_SPAN_BYTES = 128 * 2**20
"""The most bytes of float32 inputs that a unit holds at once; an attack makes some eight copies of them."""
MIN_PASSES = 8
"""Passes that a unit may have beyond MAX_SPAN_BYTES, since passes on an accelerator are large, as its memory is."""
MAX_GROWTH = 8
"""The largest factor between two units, since the first one is slow while caches are cold."""

UnitPlanner = Callable[[Sequence[str], Mapping[str, Sequence[Span]], int, int], tuple[Span, list[str]] | None]
"""A function that chooses the next unit, such as `next_unit`."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One model, one span of examples, and the cells that miss the span.

    label: of the model.
    keys: of the cells.
    deaths: the number of workers that died while they computed this unit.
    """

    label: str
    span: Span
    keys: tuple[str, ...]
    deaths: int = 0


class UnitSize:
    """The number of examples in a unit of about a minute: whole passes, and never more than memory can hold.

    batch_size: examples per pass.
    input_values: float32 values per example.
    """

    def __init__(self, batch_size: int, input_values: int) -> None:
        self._batch_size = batch_size
        most = MAX_SPAN_BYTES // (4 * input_values) // batch_size * batch_size
        self._most = max(MIN_PASSES * batch_size, most)
        self._examples = batch_size  # the first unit waits for its data; later ones are prefetched

    def examples(self, missing: int, workers: int = 1) -> int:
        """Return the number of examples of the next unit.

        missing: examples that are still to be computed.
        workers: that share them; units get smaller towards the end, so that all workers finish together.
        """
        share = missing if workers == 1 else -(-missing // (2 * workers))
        return max(self._batch_size, min(self._examples, -(-share // self._batch_size) * self._batch_size))

    def record(self, examples: int, seconds: float) -> None:
        """Adapt the size to the duration of a finished unit."""
        wanted = min(examples * UNIT_SECONDS / max(seconds, 1e-9), MAX_GROWTH * self._examples)
        whole_passes = int(wanted) // self._batch_size * self._batch_size
        self._examples = min(max(self._batch_size, whole_passes), self._most)

    def shrink(self, batch_size: int) -> None:
        """Set a smaller number of examples per pass, and halve the limit of a unit, if memory was too small."""
        self._batch_size = batch_size
        self._most = max(batch_size, self._most // 2 // batch_size * batch_size)
        self._examples = min(self._examples, self._most)


def next_unit(
    keys: Sequence[str], missing_spans: Mapping[str, Sequence[Span]], size: int, multiple: int = 1
) -> tuple[Span, list[str]] | None:
    """Return the first span that cells miss and the keys of these cells, or None if nothing is missing.

    keys: of the cells to choose from.
    missing_spans: by key, ascending.
    size: the most examples.
    multiple: of examples that are computed together; the span ends at a multiple of it, even if it exceeds `size`.
    """
    firsts = {key: missing_spans[key][0] for key in keys if missing_spans[key]}
    if not firsts:
        return None
    start = min(first for first, _ in firsts.values())
    due = [key for key, (first, _) in firsts.items() if first == start]
    ends = [stop for key, (_, stop) in firsts.items() if key in due]
    later = [first for first, _ in firsts.values() if first > start]
    stop = max(start + size, start + multiple) // multiple * multiple
    return (start, min([stop, *ends, *later])), due
