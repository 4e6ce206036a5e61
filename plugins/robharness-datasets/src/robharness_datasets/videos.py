"""Video files, decoded by decord frame by frame; broken files are detected.

The decoder hides damage: it returns the beginning of a truncated file, and replaces undecodable frames by their
neighbours. Both count as broken here. Trade-off: damage within a frame, which the decoder conceals, is not detected.
"""

from __future__ import annotations

import importlib.util
import stat
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robharness import MissingResource, UnreadableExample

if TYPE_CHECKING:
    import numpy as np

MAX_LOST = 0.1
"""Fraction of a video's frames that may be absent or repeated before the video counts as broken. Not 0, since some
encoders store nothing for a frame that equals the previous one."""


class VideoFile:
    """The frames of a video file, decoded on access.

    An instance is for one thread, since the decoder has a position in the file.
    Raises UnreadableExample if the file is broken, in the constructor or when frames are decoded.
    """

    def __init__(self, file: Path) -> None:
        decord = _decord()
        _check_size(file)
        decord.logging.set_level(decord.logging.QUIET)  # its messages would mix with ours on stderr
        try:
            self._reader: Any = decord.VideoReader(str(file), num_threads=1, fault_tol=MAX_LOST)
        except (RuntimeError, AssertionError, decord.DECORDError):
            raise UnreadableExample("the file is not a video, or its beginning is broken") from None
        expected = _frames_in_header(file)
        if len(self) < (1 - MAX_LOST) * expected:
            raise UnreadableExample(f"the file has {len(self)} of the {expected} frames that its header states")

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, frames: Sequence[int]) -> np.ndarray:
        """Decode the frames at these indices, uint8 (n, H, W, 3), RGB."""
        import numpy as np

        decord = _decord()
        try:
            found = self._decode_in_order(set(frames))
        except decord.DECORDLimitReachedError:
            raise UnreadableExample(f"more than {MAX_LOST:.0%} of the video's frames cannot be decoded") from None
        except (decord.DECORDError, StopIteration):
            raise UnreadableExample("the requested frames cannot be decoded") from None
        if len(sizes := {frame.shape for frame in found.values()}) > 1:
            raise UnreadableExample(f"its frames differ in size: {', '.join(map(str, sorted(sizes)))}")
        return np.stack([found[frame] for frame in frames])

    def _decode_in_order(self, wanted: set[int]) -> dict[int, np.ndarray]:
        """Decode all frames from the first to the last wanted one, without seeking.

        decord seeks by presentation timestamps, which AVI lacks. In videos with B-frames, e.g. from XviD, seeking would
        return frames that are a few indices too early. decord's skipping of frames seeks as well.
        """
        self._reader.seek(0)
        found = {}
        for number in range(max(wanted) + 1):
            frame = self._reader.next()
            if number in wanted:
                found[number] = _pixels(frame.asnumpy())
        return found


def _decord() -> Any:
    """Import decord without the libraries of CUDA, which its wheels for the CPU don't need.

    decord2 3.4 loads all libraries of installed NVIDIA packages for the whole process. Among them, libnvblas takes over
    torch's products of float32 matrices, and ends the process at the first one. A module without folders hides the
    packages.
    """
    if "decord" not in sys.modules:
        packages, sys.modules["nvidia"] = sys.modules.get("nvidia"), ModuleType("nvidia")
        sys.modules["nvidia"].__spec__ = ModuleSpec("nvidia", None)
        try:
            with suppress(OSError):  # a wheel for CUDA, which does need them
                import decord
        finally:
            del sys.modules["nvidia"]
            if packages is not None:
                sys.modules["nvidia"] = packages
    import decord

    return decord


def _pixels(rows: np.ndarray) -> np.ndarray:
    """Return a decoded frame as uint8 RGB, (H, W, 3).

    rows: the frame as decord returns it. Its rows are padded to a multiple of 32 or 64 pixels. If the padded row is a
        multiple of the width, e.g. for widths of 8, 16, 24, 48 and 72 px, decord counts the padding as channels:
        (H, W, C) with 3 W bytes of pixels and (C - 3) W bytes of padding in each row.
    Raises UnreadableExample for any other layout.
    """
    height, width, channels = rows.shape
    if channels < 3 or rows.dtype != "uint8":
        raise UnreadableExample(
            f"the decoder gives {rows.dtype} {rows.shape} for frames of {width} px width; encode it at another size"
        )
    return rows if channels == 3 else rows.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3).copy()


def require_decoder(extra: str) -> None:
    """Raise Missing if decord is not installed.

    extra: distribution and extra that install it, e.g. "robharness-datasets[video]".
    """
    if importlib.util.find_spec("decord") is None:
        raise MissingResource(
            "the video decoder decord", where="no installed package decord", get=f"pip install '{extra}'"
        )


def _check_size(file: Path) -> None:
    """Raise UnreadableExample if the file cannot be opened, is empty, or is a truncated RIFF file such as AVI."""
    try:
        facts = file.stat()
        if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):  # a pipe would wait for a writer
            raise UnreadableExample("it is not a regular file")
        size = facts.st_size
        with file.open("rb") as content:
            header = content.read(12)
    except OSError as error:
        raise UnreadableExample(f"the file cannot be opened ({error.strerror})") from None
    if not size:
        raise UnreadableExample("the file is empty")
    if header[:4] == b"RIFF" and len(header) == 12:
        whole = 8 + struct.unpack("<I", header[4:8])[0]
        if size < whole:
            raise UnreadableExample(f"the file is truncated: {size:,} of {whole:,} bytes")


def _frames_in_header(file: Path) -> int:
    """Return the number of frames in an AVI header, or 0 for other containers, which cannot be read if truncated."""
    with file.open("rb") as content:
        header = content.read(56)
    is_avi = len(header) == 56 and header[8:16] == b"AVI LIST" and header[20:28] == b"hdrlavih"
    return int(struct.unpack("<I", header[48:52])[0]) if is_avi else 0
