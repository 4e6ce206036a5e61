"""Video files, of which decord decodes the frames that are asked for; broken ones say so.

A decoder makes the best of what it gets: of a file that was cut off it shows the beginning, and instead of frames that
it cannot decode their neighbours. Both count as broken here. Trade-off: damage that it hides within a frame does not
show.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness import MissingResource, UnreadableExample

if TYPE_CHECKING:
    import numpy as np

LOST = 0.1
"""The share of a video's frames that may be absent or repeated before it counts as broken: some writers store nothing
for a frame that equals the one before it."""


class VideoFile:
    """The frames of a file, decoded when they are asked for; for one thread, since it keeps its place in the file.

    Raises UnreadableExample, here and when frames are asked for, where the file is broken.
    """

    def __init__(self, file: Path) -> None:
        import decord

        _check_whole(file)
        decord.logging.set_level(decord.logging.QUIET)  # what it would say goes to stderr, between ours
        try:
            self._reader: Any = decord.VideoReader(str(file), num_threads=1, fault_tol=LOST)
        except (RuntimeError, AssertionError, decord.DECORDError):
            raise UnreadableExample("it is no video, or its beginning is broken") from None
        announced = _announced(file)
        if len(self) < (1 - LOST) * announced:
            raise UnreadableExample(f"it has {len(self)} of the {announced} frames that it announces")

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, frames: Sequence[int]) -> np.ndarray:
        """These frames, uint8 (n, H, W, 3), RGB."""
        import decord
        import numpy as np

        try:
            found = self._one_after_the_other(set(frames))
        except decord.DECORDLimitReachedError:
            raise UnreadableExample(f"more than {LOST:.0%} of its frames cannot be decoded") from None
        except (decord.DECORDError, StopIteration):
            raise UnreadableExample("the frames that are wanted cannot be decoded") from None
        return np.stack([found[frame] for frame in frames])

    def _one_after_the_other(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """From the first frame on: decord seeks by times of presentation, which AVI has not, so that it would come out
        some frames early in videos with B-frames, as XviD makes them. Its skipping of frames seeks, too.
        """
        self._reader.seek(0)
        found = {}
        for number in range(max(wanted) + 1):
            frame = self._reader.next()
            if number in wanted:
                found[number] = frame.asnumpy()
        return found


def need_decoder(extra: str) -> None:
    """Raise Missing where decord is not installed. extra: what brings it, e.g. "robharness-datasets[video]"."""
    if importlib.util.find_spec("decord") is None:
        raise MissingResource(
            "the decoder of videos", where="no installed package decord", get=f"pip install '{extra}'"
        )


def _check_whole(file: Path) -> None:
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            header = content.read(12)
    except OSError as error:
        raise UnreadableExample(f"it cannot be opened ({error.strerror})") from None
    if not size:
        raise UnreadableExample("it is empty")
    if header[:4] == b"RIFF" and len(header) == 12:
        whole = 8 + struct.unpack("<I", header[4:8])[0]
        if size < whole:
            raise UnreadableExample(f"it is cut off after {size:,} of {whole:,} bytes")


def _announced(file: Path) -> int:
    """How many frames an AVI says that it has; 0 for other containers, which are not readable once they are cut off."""
    with file.open("rb") as content:
        header = content.read(56)
    is_avi = len(header) == 56 and header[8:16] == b"AVI LIST" and header[20:28] == b"hdrlavih"
    return int(struct.unpack("<I", header[48:52])[0]) if is_avi else 0
