"""ImageNet-C (Hendrycks and Dietterich, 2019) as published: JPEGs of 224 px, one folder per severity and class.

`robharness export-corruptions` writes the same layout with lossless PNGs and a manifest.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import Archive, MissingResource, UnreadableExample, UserError
from robharness_datasets.cifar import command_of
from robharness_datasets.imagenet import PER_CLASS, SUBSET, check_classes, check_complete, wnids
from robharness_datasets.listing import images_below

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from robharness import Batch, ExampleRNG

SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)
MANIFEST = "robharness.json"
"""File that `robharness export-corruptions` writes above the corruptions; a folder with it may be a subset."""
MAX_THREADS = 8
"""Maximum number of decoding threads; PIL releases the GIL while it decodes."""


ARCHIVES = {
    name: Archive(
        url=f"https://zenodo.org/records/2235448/files/{name}.tar", md5=md5, size=size, unpacked=size, into="imagenet-c"
    )
    for name, size, md5 in (
        ("noise", 22_565_673_785, "e80562d7f6c3f8834afb1ecf27252745"),
        ("blur", 7_112_704_951, "2d8e81fdd8e07fef67b9334fa635e45c"),
        ("weather", 12_797_438_995, "33ffea4db4d93fe4a428c40a6ce0c25d"),
        ("digital", 7_757_510_705, "89157860d7b10d5797849337ca2e5c03"),
        ("extra", 15_789_490_144, "d492dfba5fc162d8ec2c3cd8ee672984"),
    )
}
"""The published archives, of JPEGs, which no compression makes smaller. Source of size and md5: zenodo.org."""


class ImageNetC:
    """One published corruption; the ids of datasets/imagenet name its images.

    folder: contains `<severity>/<wnid>/<file>`.
    get: the command that downloads the images.
    """

    def __init__(self, folder: Path, get: str) -> None:
        self._folder, self._get = folder, get

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """Return the published images of `batch.ids`, uint8 (N, 224, 224, 3), without resizing.

        Raises MissingResource if an image is missing, and UnreadableExample if it is broken.
        Raises UserError if an image or the canvas is not 224 x 224 px.
        """
        import numpy as np
        import torch

        side = tuple(batch.canvas.shape[1:3])
        if side != (SIDE, SIDE):
            raise UserError(
                f"ImageNet-C has {SIDE} x {SIDE} px, but the canvas has {side[0]} x {side[1]} px. "
                f"Try: set `canvas: {SIDE}` in the suite"
            )
        files = [self._file(severity, id) for id in batch.ids]
        with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
            return torch.from_numpy(np.stack(list(threads.map(self._read, files))))

    def _file(self, severity: int, id: str) -> Path:
        published = self._folder / str(severity) / id
        rendered = published.with_suffix(".png")
        return rendered if not published.exists() and rendered.exists() else published

    def _read(self, file: Path) -> np.ndarray:
        from robharness import read_image

        if not file.is_file():
            raise MissingResource("an image of ImageNet-C", where=str(file), get=self._get)
        try:
            image = read_image(file)
        except UnreadableExample as error:
            raise UnreadableExample(f"{file}: {error}") from error
        if image.shape != (SIDE, SIDE, 3):
            height, width, _ = image.shape
            raise UserError(f"{file} has {height} x {width} px, not the published {SIDE} x {SIDE}. Try: {self._get}")
        return image


def open_imagenet_c(name: str, archive: str, params: None, root: Path) -> ImageNetC:
    """Open one corruption from `<root>/imagenet-c/<archive>/<name>` or `<root>/imagenet-c/<name>`.

    name: corruption, e.g. "fog".
    archive: stem of the published archive that contains the corruption, e.g. "noise" for noise.tar.
    params: None; the corruption has no parameters.
    root: the data root.
    Raises MissingResource if images are missing, UserError if a folder is not named after one of ImageNet's classes.
    Missing images are accepted if `export-corruptions` wrote the folder, or if a file named SUBSET declares an intended
    subset. SUBSET may be in `imagenet-c` or in any folder between it and the classes.
    """
    top = root / "imagenet-c"
    candidates = [top / archive / name, top / name]
    source = ARCHIVES[archive]
    get = command_of(source, root)
    folder = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if folder is None:
        where = " and ".join(map(str, candidates))
        raise MissingResource(f"ImageNet-C's {name}", where=where, source=source, place=root)
    for severity in SEVERITIES:
        images = folder / str(severity)
        subset_files = [parent / SUBSET for parent in (images, folder, folder.parent, top)]
        is_subset = any(file.exists() for file in [*subset_files, folder.parent / MANIFEST])
        found = images_below(images).images if images.is_dir() else {}
        check_classes(images, found)
        if not is_subset:
            what = f"the images of ImageNet-C's {name} of severity {severity}"
            total = PER_CLASS * len(wnids())
            check_complete(what, images, found, total, PER_CLASS, top / SUBSET, source=source, place=root)
    return ImageNetC(folder, get)
