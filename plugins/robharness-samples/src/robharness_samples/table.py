"""Greyscale images that a package contains as one table, with a fixed train/test split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class ImageTable:
    """One split of a table of images, in memory; `read` returns uint8 (H, W, 1).

    The split depends on the ids alone: sorted by their SHA-256, the first n_test are "test", the others "train". The
    first n_validation of "train" are "validation", and the rest of "train" is "fit".

    name: prefix of the ids "NAME-0000", "NAME-0001", ..., which number the rows of the table.
    images: uint8 (N, H, W).
    labels: integers (N,).
    split: "train", "test", "fit" or "validation".
    n_test: number of examples in the test split.
    n_validation: number of training examples in the validation split.
    """

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, split: str, n_test: int, n_validation: int = 0
    ) -> None:
        ids = [f"{name}-{row:04}" for row in range(len(labels))]
        shuffled = sorted(range(len(ids)), key=lambda row: hashlib.sha256(ids[row].encode()).digest())
        test, train = shuffled[:n_test], shuffled[n_test:]
        validation, fit = train[:n_validation], train[n_validation:]
        rows = sorted({"train": train, "test": test, "fit": fit, "validation": validation}[split])
        self.ids: Sequence[str] = [ids[row] for row in rows]
        self.labels: Sequence[int] = labels[rows].tolist()
        self._images = images[rows][..., None]

    def read(self, index: int) -> np.ndarray:
        image: np.ndarray = self._images[index].copy()
        return image
