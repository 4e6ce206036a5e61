"""Agreement of the examples of cells, for results without the data that would decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from robharness.store.parts import Part

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, eq=False)
class _Examples:
    """The ids and labels of the positions start to stop - 1."""

    start: int
    stop: int
    ids: pa.ChunkedArray
    labels: np.ndarray

    def agrees_with(self, other: _Examples) -> bool:
        """Return whether both have the same ids and labels at the positions that both have."""
        if self.ids is other.ids and (self.start, self.stop) == (other.start, other.stop):
            return np.array_equal(self.labels, other.labels)
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        if start >= stop:
            return True
        ours, theirs = (
            (each.ids.slice(start - each.start, stop - start), each.labels[start - each.start : stop - each.start])
            for each in (self, other)
        )
        return bool(ours[0].equals(theirs[0])) and np.array_equal(ours[1], theirs[1])


class SeenExamples:
    """The ids and labels of all parts that are read; each different one is kept once."""

    def __init__(self) -> None:
        self._different = dict[tuple[int, int], list[_Examples]]()
        self._parts = dict[str, dict[Part, _Examples]]()
        self._lock = Lock()  # cells are read in several threads

    def check(self, key: str, part: Part, ids: pa.ChunkedArray, labels: np.ndarray) -> None:
        """Note the ids and labels of a part, whatever they are.

        key: of its cell.
        """
        new = _Examples(part.start, part.stop, ids, labels)
        with self._lock:
            known = self._different.setdefault((part.start, part.stop), [])
            same = next((each for each in known if each.agrees_with(new)), None)
            if same is None:
                known.append(new)
            self._parts.setdefault(key, {})[part] = same or new

    def disagreeing(self, keys: Sequence[str]) -> set[str]:
        """Return the keys of the cells whose ids or labels are not those of most cells.

        keys: of cells, in an order that decides between equally many.
        """
        counts: dict[int, int] = {}
        examples = {key: [self._parts[key][part] for part in sorted(self._parts[key])] for key in keys
                    if key in self._parts}  # fmt: skip
        every = {id(each): each for some in examples.values() for each in some}
        for some in examples.values():
            for each in some:
                counts[id(each)] = counts.get(id(each), 0) + 1
        accepted: list[_Examples] = []
        for candidate in sorted(every.values(), key=lambda each: -counts[id(each)]):
            if all(candidate.agrees_with(each) for each in accepted):
                accepted.append(candidate)
        right = {id(each) for each in accepted}
        return {key for key, some in examples.items() if any(id(each) not in right for each in some)}
