"""CIFAR-10 and CIFAR-100 as published, in Python 2 pickles; only arrays, strings and numbers are unpickled."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from robharness import Archive, MissingResource, UserError
from robharness_datasets.imagenet import SUBSET, declares_subset

if TYPE_CHECKING:
    import numpy as np

SIDE = 32
LARGEST_FILE = 200_000_000
"""Bytes; the largest published file, CIFAR-100's training split, has 155 million."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published files of one data set.

    folder: name of the unpacked archive's folder.
    labels: key of the labels in a file.
    classes: number of classes.
    archive: the archive of all files. Source of the md5: torchvision; of the size: the publisher's server.
    files: split -> file name -> md5. Source of the md5: torchvision.
    """

    folder: str
    labels: str
    classes: int
    archive: Archive
    files: Mapping[str, Mapping[str, str]]


_URL = "https://www.cs.toronto.edu/~kriz"
_UNPACKED = 190_000_000
"""Bytes of the unpacked files: 60,000 images of 3,072 bytes, with labels and file names."""

PUBLISHED = {
    "cifar-10": Published(
        folder="cifar-10-batches-py",
        labels="labels",
        classes=10,
        archive=Archive(
            url=f"{_URL}/cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            size=170_498_071,
            unpacked=_UNPACKED,
        ),
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
        archive=Archive(
            url=f"{_URL}/cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size=169_001_437,
            unpacked=_UNPACKED,
        ),
        files={
            "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        },
    ),
}


class Cifar:
    """One split in memory; `read` returns uint8 (32, 32, 3).

    The ids "cifar-10-test-00000", "cifar-10-test-00001", ... number the examples in the order of the files.

    prefix: what precedes the number in an id.
    rows: uint8 (N, 3072), the red, green and blue plane of each image.
    labels: N integers.
    """

    def __init__(self, prefix: str, rows: np.ndarray, labels: Sequence[int]) -> None:
        self.ids: Sequence[str] = [f"{prefix}{row:05}" for row in range(len(labels))]
        self.labels = labels
        self._planes = rows.reshape(-1, 3, SIDE, SIDE)

    def read(self, index: int) -> np.ndarray:
        image: np.ndarray = self._planes[index].transpose(1, 2, 0).copy()
        return image


def open_cifar(name: str, root: Path, split: str) -> Cifar:
    """Open one split of CIFAR, from `<root>/cifar-10-batches-py` or `<root>/cifar-100-python`.

    name: "cifar-10" or "cifar-100".
    root: the data root.
    split: "train" or "test".
    A file named SUBSET in the folder declares an intended subset and turns the md5 check off.
    Raises MissingResource if a file is missing, UserError if a file is not the published one.
    """
    import numpy as np

    published = PUBLISHED[name]
    folder, get = root / published.folder, command_of(published.archive, root)
    is_subset = (folder / SUBSET).exists()
    rows, labels = [], []
    for file, md5 in published.files[split].items():
        if not (folder / file).is_file():
            what = f"the {split} split of {name.upper()}"
            raise MissingResource(what, where=str(folder / file), source=published.archive, place=root)
        if (size := (folder / file).stat().st_size) > LARGEST_FILE:
            raise UserError(f"{folder / file} has {size:,} bytes, and the published files have less. Try: {get}")
        if not is_subset:
            _check_md5(folder / file, md5, get)
        batch_rows, batch_labels = _read_batch(folder / file, published, get)
        rows.append(batch_rows)
        labels += batch_labels
    return Cifar(f"{name}-{split}-", np.concatenate(rows), labels)


def command_of(archive: Archive, root: Path) -> str:
    """Return the shell command that downloads an archive and unpacks it below the data root."""
    return archive.hint(root).removeprefix("To get it: ")


def _check_md5(file: Path, md5: str, get: str) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(
            f"{file} is not the published file, or is incomplete (its md5 is {found}, not {md5}; "
            f"{declares_subset(file.parent / SUBSET)}). Try: {get}"
        )


def _read_batch(file: Path, published: Published, get: str) -> tuple[np.ndarray, list[int]]:
    """Read the rows, uint8 (N, 3072), and the labels of a file. Raises UserError if the file has other content."""
    import numpy as np

    try:
        with file.open("rb") as content:
            batch = _Unpickler(content, encoding="latin1").load()
        rows, classes = np.asarray(batch["data"]), np.asarray(batch[published.labels])
        if classes.dtype.kind not in "iu" or classes.ndim != 1:
            raise ValueError(f"labels of type {classes.dtype}, not whole numbers")
        labels: list[int] = classes.tolist()
        if rows.dtype != np.uint8 or rows.shape != (len(labels), 3 * SIDE * SIDE):
            raise ValueError(f"{rows.dtype} {rows.shape} with {len(labels)} labels")
        if not set(labels) <= set(range(published.classes)):
            raise ValueError(f"labels from {min(labels)} to {max(labels)}")
    except Exception as error:  # a truncated pickle may raise any exception
        raise UserError(f"{file} is not a CIFAR file ({type(error).__name__}: {error}). Try: {get}") from error
    return rows, labels


class _Unpickler(pickle._Unpickler):
    """Unpickler for NumPy arrays and built-in types, which runs no code from the file.

    It is the one in Python, whose memo has the size of its entries: in C's, one number takes any amount of memory.
    """

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
            ("_codecs", "encode"): codecs.encode,  # encodes bytes in pickles that Python 3 writes for Python 2
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data files do not need")
        return allowed[module, name]
