"""Image files as examples, decoded like in the publishers' code: by PIL, to RGB, at their own size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource, UnreadableExample, for_shell
from robharness_datasets.listing import id_of

if TYPE_CHECKING:
    import numpy as np


class ImageFiles:
    """Images of different sizes; `read` returns uint8 (H, W, 3).

    An id is the path below the folder, e.g. "n01440764/one.JPEG". Bytes of a name that are not UTF-8 are written as in
    Python, e.g. "caf\\\\xe9.png".

    folder: contains the image files.
    examples: (path below the folder, label) pairs.
    remarks: sentences for the plan.
    """

    def __init__(self, folder: Path, examples: Iterable[tuple[str, int]], remarks: Sequence[str] = ()) -> None:
        pairs = list(examples)
        self._folder, self._paths = folder, [path for path, _ in pairs]
        self.ids: Sequence[str] = _ids(self._paths)
        self.labels: Sequence[int] = [label for _, label in pairs]
        self.remarks = remarks

    def read(self, index: int) -> np.ndarray:
        """Decode an image.

        Raises UnreadableExample as `robharness.read_image` does, and MissingResource if the whole folder is gone, e.g.
        because its disk was unmounted.
        """
        from robharness import read_image

        try:
            return read_image(self._folder / self._paths[index])
        except UnreadableExample:
            if self._folder.is_dir():
                raise
            get = f"mount or restore the folder, then check: ls {for_shell(self._folder)}"
            raise MissingResource("the folder of the images", where=str(self._folder), get=get) from None


def _ids(paths: Sequence[str]) -> list[str]:
    """Return an id for each path: valid text that no other path has, and that depends on the paths alone."""
    ids = [id_of(path) for path in paths]
    taken = {path for path, id in zip(paths, ids, strict=True) if path == id}
    for row in sorted((row for row, path in enumerate(paths) if ids[row] != path), key=paths.__getitem__):
        while ids[row] in taken:  # a file has the escaped name of another
            ids[row] += "\\"
        taken.add(ids[row])
    return ids
