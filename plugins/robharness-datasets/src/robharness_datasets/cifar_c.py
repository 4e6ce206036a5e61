"""CIFAR-10-C and CIFAR-100-C as published: one array per corruption, with the test split at five severities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robharness import Archive, MissingResource, UserError
from robharness_datasets.cifar import SIDE, command_of, open_cifar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from robharness import Batch, ExampleRNG

SEVERITIES = (1, 2, 3, 4, 5)
ARCHIVES = {
    "cifar-10": Archive(
        url="https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        md5="56bf5dcef84df0e2308c6dcbcbbd8499",
        size=2_918_471_680,
    ),
    "cifar-100": Archive(
        url="https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        md5="11f0ed0f1191edbf9fa23466ae6021d3",
        size=2_918_473_216,
    ),
}
"""Data set -> archive with all its corruptions. Source of the md5 and the size: the records on zenodo.org."""


class CifarC:
    """One published corruption.

    clean: name of the clean data set.
    images: uint8 (5 * N, 32, 32, 3), the test split in its own order, once per severity.
    count: N, the number of test examples.
    """

    def __init__(self, clean: str, images: np.ndarray, count: int) -> None:
        self._clean, self._images, self._count = clean, images, count

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """Return the published images of `batch.ids`, uint8 (N, 32, 32, 3).

        Raises UserError if the canvas has another size, or if an example does not belong to the test split.
        """
        import torch

        side = tuple(batch.canvas.shape[1:3])
        if side != (SIDE, SIDE):
            raise UserError(
                f"{self._clean.upper()}-C has {SIDE} x {SIDE} px, but the canvas has {side[0]} x {side[1]} px. "
                f"Try: set `canvas: {SIDE}` in the suite"
            )
        rows = [(severity - 1) * self._count + self._row(id) for id in batch.ids]
        return torch.from_numpy(self._images[rows])  # indexing by a list copies

    def _row(self, id: str) -> int:
        """Return the example's index in the test split."""
        prefix = f"{self._clean}-test-"
        if not id.startswith(prefix):
            raise UserError(
                f"{self._clean.upper()}-C covers the test split of {self._clean.upper()}, which has no '{id}'. "
                f"Try: set `data: {{name: datasets/{self._clean}, split: test}}` in the suite"
            )
        return int(id.removeprefix(prefix))


def open_cifar_c(clean: str, corruption: str, params: None, root: Path) -> CifarC:
    """Open one corruption from `<root>/CIFAR-10-C/` or `<root>/CIFAR-100-C/`, memory-mapped.

    clean: "cifar-10" or "cifar-100".
    corruption: stem of the file name, e.g. "fog".
    params: None; the corruption has no parameters.
    root: the data root.
    Raises MissingResource if a file is missing, UserError if its shape or the labels do not match the test split.
    """
    import numpy as np

    title = f"{clean.upper()}-C"
    folder, archive = root / title, ARCHIVES[clean]
    get = command_of(archive, root)
    images, labels = (_open_array(folder / f"{name}.npy", title, archive, root) for name in (corruption, "labels"))
    expected = open_cifar(clean, root, "test").labels
    shape = (len(SEVERITIES) * len(expected), SIDE, SIDE, 3)
    if images.dtype != np.uint8 or images.shape != shape:
        raise UserError(
            f"{folder / corruption}.npy has {images.dtype} {images.shape}, not uint8 {shape}, the shape of five "
            f"severities of {len(expected):,} test images. Try: {get}"
        )
    if labels.shape != shape[:1] or labels.tolist() != len(SEVERITIES) * list(expected):
        raise UserError(f"{folder}/labels.npy is not the test split's labels, repeated five times. Try: {get}")
    return CifarC(clean, images, len(expected))


def _open_array(file: Path, title: str, archive: Archive, root: Path) -> np.ndarray:
    import numpy as np

    if not file.is_file():
        raise MissingResource(f"{file.stem} of {title}", where=str(file), source=archive, place=root)
    try:
        array: np.ndarray = np.lib.format.open_memmap(file, mode="r")  # reads no pickle and no archive
    except (OSError, EOFError, ValueError, OverflowError, TypeError) as error:
        get = command_of(archive, root)
        raise UserError(f"{file} is truncated or not a NumPy array ({error}). Try: {get}") from error
    return array
