"""The handwritten digits of scikit-learn, split once and for all.

The split depends on the ids alone: sorted by the SHA-256 of the id, the first 360 are "test", the other 1,437 "train".
The same writers are in both, since scikit-learn does not say who wrote what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

N_TEST = 360


class Digits:
    """Grey digits, uint8 (8, 8, 1). ids: "digit-0000" and on, by the place in scikit-learn's table.

    Its values 0 ... 16 become round(v * 255 / 16), halves to even: 0, 16, 32, 48, 64, 80, 96, 112, 128, ..., 255.
    """

    def __init__(self, split: str) -> None:
        import numpy as np
        from sklearn.datasets import load_digits

        table = load_digits()
        ids = [f"digit-{place:04}" for place in range(len(table.target))]
        shuffled = sorted(range(len(ids)), key=lambda place: hashlib.sha256(ids[place].encode()).digest())
        places = sorted({"test": shuffled[:N_TEST], "train": shuffled[N_TEST:]}[split])
        self.ids: Sequence[str] = [ids[place] for place in places]
        self.labels: Sequence[int] = [int(table.target[place]) for place in places]
        self._pictures = np.rint(table.images[places] * (255 / 16)).astype(np.uint8)[..., None]

    def read(self, index: int) -> np.ndarray:
        picture: np.ndarray = self._pictures[index].copy()
        return picture


def open_digits(root: Path, split: str) -> Digits:
    """The digits of one split, "train" or "test"."""
    return Digits(split)
