"""Natural pictures of 32 x 32 pixels: patches of ten large ones that scikit-image and scikit-learn carry.

A class is the picture that a patch is from, so classes are textures and colours, not objects. A picture is cut into
blocks of 60 x 60 pixels, each of which is in one split with all its patches, so that no test pixel is trained on.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource

if TYPE_CHECKING:
    import numpy as np

SIDE, BLOCK = 32, 60
PER_CLASS = {"train": 400, "test": 100}
ONE_IN = 5
"""Blocks of which one is for the test split."""
PICTURES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
"""By class, in the labels' order."""


class Patches:
    """One split, in memory; `read` gives uint8 (32, 32, 3). ids: "coffee/02-05/013", with the block's row and column.

    Which blocks are for the test depends on their ids alone; where a patch lies in its block, too.
    """

    def __init__(self, pictures: dict[str, np.ndarray], split: str) -> None:
        self.ids: list[str] = []
        self.labels: list[int] = []
        self._patches: list[np.ndarray] = []
        for label, (name, picture) in enumerate(pictures.items()):
            blocks = sorted(_blocks(name, picture, split))
            for number in range(PER_CLASS[split]):
                block, row, column = blocks[number % len(blocks)]
                id = f"{block}/{number // len(blocks):03}"
                down, right = (_digit(id, place) % (BLOCK - SIDE + 1) for place in (0, 1))
                top, left = row * BLOCK + down, column * BLOCK + right
                self.ids.append(id)
                self.labels.append(label)
                self._patches.append(picture[top : top + SIDE, left : left + SIDE])

    def read(self, index: int) -> np.ndarray:
        return self._patches[index].copy()


def open_patches(root: Path, split: str) -> Patches:
    """4,000 patches to train with, 1,000 to test. Reads files of packages that are not imported.

    Raises MissingResource where they are not installed.
    """
    import numpy as np
    from PIL import Image

    pictures = {}
    for name, (package, path) in PICTURES.items():
        file = _file(package, path)
        with Image.open(file) as image:
            pictures[name] = np.array(image.convert("RGB"))
    return Patches(pictures, split)


def _file(package: str, path: str) -> Path:
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or []:
        if (file := Path(folder) / path).is_file():
            return file
    raise MissingResource(
        "the pictures that scikit-image carries", where=f"no {path} in the package {package}",
        get="pip install scikit-image scikit-learn",
    )  # fmt: skip


def _blocks(name: str, picture: np.ndarray, split: str) -> Sequence[tuple[str, int, int]]:
    height, width = picture.shape[:2]
    blocks = [
        (f"{name}/{row:02}-{column:02}", row, column)
        for row in range(height // BLOCK)
        for column in range(width // BLOCK)
    ]
    return [block for block in blocks if (_digit(block[0], 0) % ONE_IN == 0) is (split == "test")]


def _digit(id: str, place: int) -> int:
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[8 * place : 8 * place + 8])
