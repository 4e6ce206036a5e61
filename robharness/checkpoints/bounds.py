"""Bounds of what is read from a file that nobody vouches for, and the exceptions for files that exceed them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

HEADER = 4 * 2**20
"""Bytes of the header of a safetensors file: about 40,000 tensors."""
DIRECTORY = 8 * 2**20
"""Bytes of the directory of a zip archive: about 70,000 records."""
PICKLE = 64 * 2**20
"""Bytes of a pickle that is read without its code. Tensors' values are not part of it."""
STEPS = 1_000_000
"""Reads of a pickle: one for an operation, one for each of its arguments; a tensor takes about 40."""
TEXT = 64 * 2**10
"""Bytes of a text in a pickle that are kept while it is inspected."""
NAME = 4096
"""Characters of a key."""
DIMENSIONS = 64
"""Dimensions of a tensor, as many as NumPy allows."""
LEVELS = 50
"""Containers in one another."""
VALUES = 2_000_000
"""Values in a content, each counted as often as it can be reached."""
VIEW = 64 * 2**20
"""Bytes of a tensor that repeats the values that are stored for it, as `expand` makes it."""

DENSE = "networks are filled with dense tensors alone"
SAVE = "save the tensors as dense ones where they are in memory, torch.save({...}, FILE)"


class Unfit(Exception):
    """A file that is not read, for a reason that no trust in its authors mends.

    remedy: the command to type; empty to list the file.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Damaged(Unfit):
    """A file that is cut off or damaged."""

    def __init__(self, detail: str, what: str = "it") -> None:
        super().__init__(f"{what} is cut off or damaged, {detail}")


class CappedFile(io.FileIO):
    """A file of which no single read gets more than a directory may have, whatever length the file claims.

    limit: bytes of a read; raised once the directory is read.
    """

    limit = DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes. Raises Unfit for more than the limit."""
        to_the_end = size is None or size < 0
        data = super().read(self.limit + 1 if to_the_end else min(size or 0, self.limit + 1))
        if len(data) > self.limit:
            raise Unfit(f"its directory is larger than {self.limit / 2**20:.0f} MiB")
        return data


def require_tree(content: Any, children: Callable[[Any], Iterable[Any]]) -> None:
    """Raise Unfit for a content that is nested too deep, holds itself, or repeats its parts without end.

    children: returns the values in a container; nothing for anything else.
    """
    sizes: dict[int, tuple[int, int]] = {}

    def measure(value: Any, depth: int) -> tuple[int, int]:
        """Return the number of values and the number of levels."""
        known = sizes.get(id(value))
        if known is None:
            inner = [measure(child, depth + 1) for child in children(value)] if depth <= LEVELS else [(0, 0)]
            known = 1 + sum(count for count, _ in inner), 1 + max((levels for _, levels in inner), default=0)
            if inner:
                sizes[id(value)] = known
        if depth + known[1] > LEVELS + 1:
            raise Unfit(f"its containers hold themselves, or are more than {LEVELS} deep")
        if known[0] > VALUES:
            raise Unfit(f"its containers repeat one another: they stand for more than {VALUES:,} values")
        return known

    measure(content, 0)
