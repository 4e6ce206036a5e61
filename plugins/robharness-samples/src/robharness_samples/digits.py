"""The handwritten digits of scikit-learn.

The same writers are in both splits, since scikit-learn does not say who wrote what.
"""

from __future__ import annotations

from pathlib import Path

from robharness_samples.table import Table

N_TEST = 360


def open_digits(root: Path, split: str) -> Table:
    """Grey digits, uint8 (8, 8, 1), of one split, "train" or "test". ids: "digit-0000" and on.

    Their values 0 ... 16 become round(v * 255 / 16), halves to even: 0, 16, 32, 48, 64, 80, 96, 112, 128, ..., 255.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    table = load_digits()
    return Table("digit", np.rint(table.images * (255 / 16)).astype(np.uint8), table.target, split, N_TEST)
