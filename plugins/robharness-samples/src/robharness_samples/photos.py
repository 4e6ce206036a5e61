"""The 20 ImageNet photos contained in foolbox; each file name states the class."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource

if TYPE_CHECKING:
    import numpy as np

_NAME = re.compile(r"imagenet_\d+_(?P<label>\d+)\.jpg")


class ImageNetPhotos:
    """Photos of different sizes; `read` returns uint8 (H, W, 3).

    An id is the stem of the file name, e.g. "imagenet_00_243" for the photo 0 of class 243.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = sorted(files)
        self.ids: Sequence[str] = [file.stem for file in self._files]
        self.labels: Sequence[int] = [_label(file) for file in self._files]

    def read(self, index: int) -> np.ndarray:
        from robharness import read_image

        return read_image(self._files[index])


def open_photos(root: Path, split: str) -> ImageNetPhotos:
    """Open the photos of the installed foolbox, which is not imported.

    root, split: unused.
    Raises MissingResource if foolbox or its photos are not installed.
    """
    foolbox = importlib.util.find_spec("foolbox")
    folders = [Path(path) / "data" for path in (foolbox and foolbox.submodule_search_locations) or []]
    files = [file for folder in folders for file in folder.glob("imagenet_*.jpg")]
    if not files:
        where = ", ".join(map(str, folders)) or "no installed package foolbox"
        raise MissingResource("the ImageNet photos of foolbox", where=where, get="pip install foolbox")
    return ImageNetPhotos(files)


def _label(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    if match is None:
        raise ValueError(f"{file}: the name is not of the form imagenet_NUMBER_CLASS.jpg. Try: pip install -U foolbox")
    return int(match["label"])
