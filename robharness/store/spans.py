"""Spans of positions in a data set's fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Span = tuple[int, int]
"""Positions start to stop - 1 of a data set's fixed order."""


@lru_cache(maxsize=16)
def span_positions(start: int, stop: int) -> np.ndarray:
    """Return the positions of a span, (n,) int64, read-only: cells share the array."""
    positions = np.arange(start, stop)
    positions.flags.writeable = False
    return positions


def uncovered(covered: Sequence[Span], span: Span) -> list[Span]:
    """Return the parts of `span` that no span of `covered` contains, in order.

    covered: spans in any order, which may overlap.
    """
    found, position = [], span[0]
    for start, stop in sorted(covered):
        if start >= span[1]:
            break
        if start > position:
            found.append((position, start))
        position = max(position, stop)
    return [*found, (position, span[1])] if position < span[1] else found


def common_positions(positions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the positions that all of these have, ascending. Returns the first array itself if all are equal.

    positions: of stored outcomes, ascending; at least one array. Cells with the same span share one array.
    """
    common = positions[0]
    for other in {id(each): each for each in positions}.values():
        if other is not common and not np.array_equal(other, common):
            common = np.intersect1d(common, other, assume_unique=True)
    return common
