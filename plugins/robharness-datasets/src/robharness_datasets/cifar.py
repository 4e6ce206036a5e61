"""CIFAR-10 and CIFAR-100 as published: pickles of Python 2, of which nothing but arrays, texts and numbers is made."""

from __future__ import annotations

import hashlib
import pickle
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from robharness import MissingResource, UserError
from robharness_datasets.imagenet import SUBSET

if TYPE_CHECKING:
    import numpy as np

SIDE = 32


@dataclass(frozen=True, kw_only=True)
class Published:
    """folder: of the unpacked archive. labels: their key in a file. files: split -> file -> its md5.

    The md5 of the files are those that torchvision checks them with.
    """

    folder: str
    labels: str
    classes: int
    files: Mapping[str, Mapping[str, str]]

    def get(self, root: Path) -> str:
        archive = f"{self.folder.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
        return (
            f"curl -O https://www.cs.toronto.edu/~kriz/{archive} && "
            f"mkdir -p {shlex.quote(str(root))} && tar -xzf {archive} -C {shlex.quote(str(root))}"
        )


PUBLISHED = {
    "cifar-10": Published(
        folder="cifar-10-batches-py",
        labels="labels",
        classes=10,
        files={
            "train": {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
        },
    ),
    "cifar-100": Published(
        folder="cifar-100-python",
        labels="fine_labels",
        classes=100,
        files={
            "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        },
    ),
}


class Cifar:
    """One split in memory; `read` gives uint8 (32, 32, 3). ids: "cifar-10-test-00000" and on, in the files' order.

    rows: uint8 (N, 3072), the red, green and blue plane of each picture. labels: N of them.
    """

    def __init__(self, prefix: str, rows: np.ndarray, labels: Sequence[int]) -> None:
        self.ids: Sequence[str] = [f"{prefix}{place:05}" for place in range(len(labels))]
        self.labels = labels
        self._planes = rows.reshape(-1, 3, SIDE, SIDE)

    def read(self, index: int) -> np.ndarray:
        picture: np.ndarray = self._planes[index].transpose(1, 2, 0).copy()
        return picture


def open_cifar(name: str, root: Path, split: str) -> Cifar:
    """The split "train" or "test" of "cifar-10" or "cifar-100", in `<root>/cifar-10-batches-py` or `cifar-100-python`.

    Raises MissingResource where a file is missing, and UserError where one is not the published one, unless a file SUBSET in
    the folder says that this is on purpose.
    """
    import numpy as np

    published = PUBLISHED[name]
    folder, get = root / published.folder, published.get(root)
    is_part = (folder / SUBSET).exists()
    rows, labels = [], []
    for file, md5 in published.files[split].items():
        if not (folder / file).is_file():
            raise MissingResource(f"the {split} split of {name.upper()}", where=str(folder / file), get=get)
        if not is_part:
            _check(folder / file, md5, get)
        batch = _batch(folder / file, published, get)
        rows.append(batch[0])
        labels += batch[1]
    return Cifar(f"{name}-{split}-", np.concatenate(rows), labels)


def _check(file: Path, md5: str, get: str) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{file} is not the published file, or not all of it (its md5 is {found}, not {md5}). To get it again: "
            f"{get}; or, where this is on purpose, type: touch {shlex.quote(str(file.parent / SUBSET))}"
        )


def _batch(file: Path, published: Published, get: str) -> tuple[np.ndarray, list[int]]:
    """The rows, uint8 (N, 3072), and the labels of a file. Raises UserError for anything else."""
    import numpy as np

    try:
        with file.open("rb") as content:
            batch = _Unpickler(content, encoding="latin1").load()
        rows, labels = np.asarray(batch["data"]), [int(label) for label in batch[published.labels]]
        if rows.dtype != np.uint8 or rows.shape != (len(labels), 3 * SIDE * SIDE):
            raise ValueError(f"{rows.dtype} {rows.shape} with {len(labels)} labels")
        if not set(labels) <= set(range(published.classes)):
            raise ValueError(f"labels from {min(labels)} to {max(labels)}")
    except Exception as error:  # a pickle that is cut off may raise anything
        raise UserError(f"{file} is no file of CIFAR ({type(error).__name__}: {error}). To get it: {get}") from error
    return rows, labels


class _Unpickler(pickle.Unpickler):
    """Arrays, and what pickle makes without importing anything; never code."""

    def __init__(self, content: IO[bytes], *, encoding: str) -> None:
        super().__init__(content, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        import codecs

        import numpy as np

        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("_codecs", "encode"): codecs.encode,  # of bytes, in pickles that Python 3 writes for Python 2
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data do not need")
        return allowed[module, name]
