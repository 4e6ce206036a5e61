"""Images without labels: all image files of a folder and of the folders below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robharness import MissingResource, for_shell
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import images_of_tree


@dataclass(frozen=True, kw_only=True)
class ImagesParams:
    """Options of the data set.

    folder: the folder of the images, which may lie in folders below it, too.
    """

    folder: Path = field(metadata={"runtime": True})  # the ids, which are the paths below it, are identity


def split_of(params: ImagesParams) -> Mapping[str, Any]:
    """Return the only split of a folder, which has the folder's name."""
    name = params.folder.name
    return {"splits": (name if name.isprintable() and name.strip() else "all",)}


def open_images(params: ImagesParams, data_root: Path, split: str) -> ImageFiles:
    """Open the images in the order of their paths, without labels.

    Raises MissingResource if there are no images, UserError if the folder cannot be listed.
    """
    folder = params.folder
    found = images_of_tree(folder) if folder.is_dir() else None
    if found is None or not found.images[""]:
        get = f"store images there, or correct `folder:` in the suite; then check: ls {for_shell(folder)}"
        raise MissingResource("images in a folder", where=str(folder), get=get)
    return ImageFiles(folder, [(path, 0) for path in found.images[""]], found.remarks)
