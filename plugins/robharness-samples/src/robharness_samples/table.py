"""Grey pictures that a package carries as one table, split once and for all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class Table:
    """One split of a table of pictures, in memory; `read` gives uint8 (H, W, 1).

    pictures: uint8 (N, H, W). labels: N of them. The ids are "NAME-0000" and on, by the place in the table.
    The split depends on the ids alone: sorted by their SHA-256, the first n_test are "test", the others "train".
    """

    def __init__(self, name: str, pictures: np.ndarray, labels: np.ndarray, split: str, n_test: int) -> None:
        ids = [f"{name}-{place:04}" for place in range(len(labels))]
        shuffled = sorted(range(len(ids)), key=lambda place: hashlib.sha256(ids[place].encode()).digest())
        places = sorted({"test": shuffled[:n_test], "train": shuffled[n_test:]}[split])
        self.ids: Sequence[str] = [ids[place] for place in places]
        self.labels: Sequence[int] = [int(labels[place]) for place in places]
        self._pictures = pictures[places][..., None]

    def read(self, index: int) -> np.ndarray:
        picture: np.ndarray = self._pictures[index].copy()
        return picture
