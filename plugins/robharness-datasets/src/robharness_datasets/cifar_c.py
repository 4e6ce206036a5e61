"""CIFAR-10-C and CIFAR-100-C as published: an array per corruption, the test split in five severities."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource, UserError
from robharness_datasets.cifar import SIDE, open_cifar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from robharness import Batch, ExampleRNG

SEVERITIES = (1, 2, 3, 4, 5)
RECORDS = {"cifar-10": 2535967, "cifar-100": 3555552}
"""Data set -> the record of its corruptions on zenodo.org."""


class CifarC:
    """One corruption. pictures: uint8 (5 * N, 32, 32, 3), severity by severity. clean: the name of the data set.

    labels: the N of the test split, in its order.
    """

    def __init__(self, clean: str, pictures: np.ndarray, count: int) -> None:
        self._clean, self._pictures, self._count = clean, pictures, count

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """The published pictures of `batch.ids`, uint8 (N, 32, 32, 3).

        Raises UserError for a canvas of another size and for examples that are not of the test split.
        """
        import torch

        side = tuple(batch.canvas.shape[1:3])
        if side != (SIDE, SIDE):
            raise UserError(
                f"{self._clean.upper()}-C has {SIDE} x {SIDE} px, and the canvas {side}. "
                f"Write into the suite: canvas: {SIDE}"
            )
        places = [(severity - 1) * self._count + self._place(id) for id in batch.ids]
        return torch.from_numpy(self._pictures[places])  # a copy: indexed by a list

    def _place(self, id: str) -> int:
        prefix = f"{self._clean}-test-"
        if not id.startswith(prefix):
            raise UserError(
                f"{self._clean.upper()}-C has the test split of {self._clean.upper()}, and '{id}' is not of it. "
                f"Write into the suite: data: {{name: datasets/{self._clean}, split: test}}"
            )
        return int(id.removeprefix(prefix))


def open_cifar_c(clean: str, corruption: str, params: None, root: Path) -> CifarC:
    """The corruption of "cifar-10" or "cifar-100", in `<root>/CIFAR-10-C/` or `CIFAR-100-C/`; stays on disk.

    Raises MissingResource where a file is missing, and UserError where it does not fit the test split.
    """
    import numpy as np

    title = f"{clean.upper()}-C"
    folder = root / title
    get = (
        f"curl -LO https://zenodo.org/records/{RECORDS[clean]}/files/{title}.tar && "
        f"mkdir -p {shlex.quote(str(root))} && tar -xf {title}.tar -C {shlex.quote(str(root))}"
    )
    expected = open_cifar(clean, root, "test").labels
    pictures, labels = (_array(folder / f"{name}.npy", title, get) for name in (corruption, "labels"))
    shape = (len(SEVERITIES) * len(expected), SIDE, SIDE, 3)
    if pictures.dtype != np.uint8 or pictures.shape != shape:
        raise UserError(
            f"{folder / corruption}.npy has {pictures.dtype} {pictures.shape}, not uint8 {shape} as five severities of "
            f"{len(expected):,} test pictures have. To get it again: {get}"
        )
    if labels.tolist() != len(SEVERITIES) * list(expected):
        raise UserError(f"{folder}/labels.npy is not the test split's labels, five times. To get it again: {get}")
    return CifarC(clean, pictures, len(expected))


def _array(file: Path, title: str, get: str) -> np.ndarray:
    import numpy as np

    if not file.is_file():
        raise MissingResource(f"{file.stem} of {title}", where=str(file), get=get)
    try:
        array: np.ndarray = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{file} is cut off or no array ({error}). To get it again: {get}") from error
    return array
