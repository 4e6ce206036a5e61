"""Patches of 32 x 32 pixels from ten natural images that scikit-image and scikit-learn contain.

The class of a patch is its source image, so classes are textures and colours, not objects. An image is divided into
blocks of 60 x 60 pixels. All patches of a block are in one split, so that the splits share no pixel.
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
"""Side of a patch and of a block, in pixels."""
PER_CLASS = {"train": 400, "test": 100}
TEST_ONE_IN = 5
"""One in this many blocks is in the test split."""
IMAGES = {
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
"""Class -> package and path of its image. The order gives the labels."""


class Patches:
    """One split in memory; `read` returns uint8 (32, 32, 3).

    An id such as "coffee/02-05/013" names the image, the block's row and column, and the patch of that block.
    The split of a block and the position of a patch in its block depend on their ids alone.

    images: class -> image, uint8 (H, W, 3).
    split: "train" or "test".
    """

    def __init__(self, images: dict[str, np.ndarray], split: str) -> None:
        self.ids: list[str] = []
        self.labels: list[int] = []
        self._patches: list[np.ndarray] = []
        for label, (name, image) in enumerate(images.items()):
            blocks = sorted(_blocks(name, image, split))
            for number in range(PER_CLASS[split]):
                block, row, column = blocks[number % len(blocks)]
                id = f"{block}/{number // len(blocks):03}"
                down, right = (_hash_number(id, index) % (BLOCK - SIDE + 1) for index in (0, 1))
                top, left = row * BLOCK + down, column * BLOCK + right
                self.ids.append(id)
                self.labels.append(label)
                self._patches.append(image[top : top + SIDE, left : left + SIDE])

    def read(self, index: int) -> np.ndarray:
        return self._patches[index].copy()


def open_patches(root: Path, split: str) -> Patches:
    """Open one split: 4,000 training patches or 1,000 test patches.

    The images belong to installed packages, which are not imported.

    root: unused.
    split: "train" or "test".
    Raises MissingResource if a package or an image is not installed.
    """
    from robharness import read_image

    images = {name: read_image(_file(package, path)) for name, (package, path) in IMAGES.items()}
    return Patches(images, split)


def _file(package: str, path: str) -> Path:
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or []:
        if (file := Path(folder) / path).is_file():
            return file
    raise MissingResource(
        "the images of scikit-image and scikit-learn", where=f"no {path} in the package {package}",
        get="pip install scikit-image scikit-learn",
    )  # fmt: skip


def _blocks(name: str, image: np.ndarray, split: str) -> Sequence[tuple[str, int, int]]:
    """Return (id, row, column) of each block of the image that is in this split."""
    height, width = image.shape[:2]
    blocks = [
        (f"{name}/{row:02}-{column:02}", row, column)
        for row in range(height // BLOCK)
        for column in range(width // BLOCK)
    ]
    return [block for block in blocks if (_hash_number(block[0], 0) % TEST_ONE_IN == 0) is (split == "test")]


def _hash_number(id: str, index: int) -> int:
    """Return the 64-bit number at 8-byte group `index` of the id's SHA-256."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[8 * index : 8 * index + 8])
