"""ImageNet-C (Hendrycks and Dietterich, 2019) as published: JPEGs of 224 px, in a folder per severity and class.

`robharness export-corruptions` writes the same layout, with PNGs, which lose nothing, and a manifest beside them.
"""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource, UserError
from robharness_datasets.imagenet import PER_CLASS, SUBSET, check_classes, check_complete, wnids
from robharness_datasets.listing import pictures_below
from robharness_datasets.pictures import read_rgb

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from robharness import Batch, ExampleRNG

SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)
MANIFEST = "robharness.json"
"""What `robharness export-corruptions` leaves above the corruptions; its folder may hold a part of the images."""
READERS = 8
"""Threads that decode at most; PIL lets go of Python's lock."""


class ImageNetC:
    """One corruption, in `<folder>/<severity>/<wnid>/<file>`; finds an image by its id in datasets/imagenet.

    get: the command that gets the images.
    """

    def __init__(self, folder: Path, get: str) -> None:
        self._folder, self._get = folder, get

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """The published images of `batch.ids`, uint8 (N, 224, 224, 3), as they are: never resized again.

        Raises MissingResource for an image that is not there, Unreadable for a broken one, and UserError for one of another
        size than the published, or a canvas of another.
        """
        import numpy as np
        import torch

        side = tuple(batch.canvas.shape[1:3])
        if side != (SIDE, SIDE):
            raise UserError(
                f"ImageNet-C has {SIDE} x {SIDE} px, and the canvas {side}. Write into the suite: canvas: {SIDE}"
            )
        files = [self._file(severity, id) for id in batch.ids]
        with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as threads:
            return torch.from_numpy(np.stack(list(threads.map(self._read, files))))

    def _file(self, severity: int, id: str) -> Path:
        published = self._folder / str(severity) / id
        rendered = published.with_suffix(".png")
        return rendered if not published.exists() and rendered.exists() else published

    def _read(self, file: Path) -> np.ndarray:
        if not file.is_file():
            raise MissingResource("an image of ImageNet-C", where=str(file), get=self._get)
        picture = read_rgb(file)
        if picture.shape != (SIDE, SIDE, 3):
            height, width, _ = picture.shape
            raise UserError(
                f"{file} has {height} x {width} px and not the published {SIDE} x {SIDE}. To get it again: {self._get}"
            )
        return picture


def open_imagenet_c(name: str, archive: str, params: None, root: Path) -> ImageNetC:
    """The corruption `name` of `<root>/imagenet-c/`, in a folder `<archive>/<name>` or `<name>`.

    archive: the published one that it is in, "noise" of noise.tar. Raises MissingResource where images are missing, unless
    a file SUBSET in `imagenet-c` or in a folder between it and the classes says that this is on purpose, or
    `export-corruptions` made them, and UserError where folders are none of the classes.
    """
    top = root / "imagenet-c"
    places = [top / archive / name, top / name]
    get = (
        f"curl -LO https://zenodo.org/records/2235448/files/{archive}.tar && "
        f"mkdir -p {shlex.quote(str(top))} && tar -xf {archive}.tar -C {shlex.quote(str(top))}"
    )
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise MissingResource(f"ImageNet-C's {name}", where=" and ".join(map(str, places)), get=get)
    for severity in SEVERITIES:
        place = folder / str(severity)
        marks = [above / SUBSET for above in (place, folder, folder.parent, top)]
        is_part = any(mark.exists() for mark in [*marks, folder.parent / MANIFEST])
        found = pictures_below(place) if place.is_dir() else {}
        check_classes(place, found)
        if not is_part:
            what = f"the images of ImageNet-C's {name} of severity {severity}"
            check_complete(what, place, found, PER_CLASS * len(wnids()), PER_CLASS, get, top / SUBSET)
    return ImageNetC(folder, get)
