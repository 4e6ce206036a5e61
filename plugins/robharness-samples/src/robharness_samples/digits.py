"""The handwritten digits of scikit-learn.

The same writers may be in both splits, since scikit-learn does not record who wrote which digit.
"""

from __future__ import annotations

from pathlib import Path

from robharness_samples.table import ImageTable

N_TEST = 360


def open_digits(root: Path, split: str) -> ImageTable:
    """Open one split: greyscale digits, uint8 (8, 8, 1), with ids "digit-0000", "digit-0001", ...

    The published values v = 0 ... 16 become round(v * 255 / 16), halves to even: 0, 16, 32, 48, 64, ..., 255.

    root: unused.
    split: "train" or "test".
    """
    import numpy as np
    from sklearn.datasets import load_digits

    table = load_digits()
    return ImageTable("digit", np.rint(table.images * (255 / 16)).astype(np.uint8), table.target, split, N_TEST)
