"""Moving digits: small generated videos of known classes, written as mp4 files when the data set is first opened.

A class is a colour and a direction. A model must therefore use the order of channels and of frames; the digit does not
matter. The files are lossless H.264, so that every encoder and decoder gives the same frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource, UserError, for_shell
from robharness_samples.digits import open_digits
from robharness_samples.videos import Videos, require_packages

if TYPE_CHECKING:
    import numpy as np

REVISION = 1
"""Revision of the generated videos and name of their folder. Raise it when pixels change."""
SPLITS = ("train", "test")
PER_CLASS = 12
"""Number of videos per class and split."""
SIDE = 64
"""Height and width of a frame in pixels."""
MIN_FRAMES, MAX_FRAMES = 24, 40
"""Range of the number of frames, both ends included."""
DIGIT_SIDE = 24
"""Height and width of a digit in pixels: scikit-learn's 8 x 8 digits, enlarged 3 times."""
COLOURS = {"red": (1.0, 0.2, 0.2), "blue": (0.2, 0.2, 1.0)}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Direction -> step (down, right), in pixels."""
ACTIONS = tuple((colour, direction) for colour in COLOURS for direction in DIRECTIONS)


def open_moving_digits(root: Path, split: str) -> Videos:
    """Open one split: 96 videos of 24 to 40 frames of 64 x 64 px, of 8 classes, with ids such as "red-left/00".

    The digits are those of the same split of `samples/digits`. If the folder `<root>/moving-digits/` is absent, the
    files of both splits are written, all or none; this takes two seconds and 2 MB.

    root: the data root.
    split: "train" or "test".
    Raises MissingResource if a package or a video file is missing, UserError if the folder cannot be written.
    """
    require_packages("robharness_datasets", "decord", "av")
    folder = root / "moving-digits" / f"{REVISION}"
    if not folder.is_dir():
        _write_videos(folder)
    names = [(f"{'-'.join(action)}/{number:02}", label) for label, action in enumerate(ACTIONS)
             for number in range(PER_CLASS)]  # fmt: skip
    files = [_file(folder, split, id) for id, _ in names]
    absent = [file for file in files if not file.is_file()]
    if absent:
        get = f"rm -r {for_shell(folder)}  # the next run writes all videos again"
        raise MissingResource(f"{len(absent)} of {len(files)} videos of moving digits", where=str(absent[0]), get=get)
    return Videos([id for id, _ in names], [label for _, label in names], files)


def draw(digits: Sequence[np.ndarray], split: str, label: int, number: int) -> np.ndarray:
    """Draw the frames of one video, uint8 (T, 64, 64, 3), RGB.

    digits: images uint8 (8, 8, 1), one of which is drawn at random.
    split, label, number: identify the video and seed its random numbers.
    """
    import numpy as np

    colour, direction = ACTIONS[label]
    rng = np.random.default_rng((SPLITS.index(split), label, number))
    digit = digits[int(rng.integers(len(digits)))].repeat(DIGIT_SIDE // 8, 0).repeat(DIGIT_SIDE // 8, 1)
    count = int(rng.integers(MIN_FRAMES, MAX_FRAMES + 1))
    margin = SIDE - DIGIT_SIDE
    travel = int(rng.integers(margin // 2, margin + 1))
    along = int(rng.integers(margin - travel + 1)) + np.rint(np.linspace(0, travel, count)).astype(int)
    across = np.full(count, rng.integers(margin + 1))
    down, right = DIRECTIONS[direction]
    if down + right < 0:
        along = along[::-1]
    tops, lefts = (along, across) if down else (across, along)
    foreground = rng.uniform(0.7, 1) * np.array(COLOURS[colour])
    top_grey, bottom_grey = rng.uniform(20, 90, 2).tolist()
    background = np.linspace(top_grey, bottom_grey, SIDE)
    frames = np.broadcast_to(background[None, :, None, None], (count, SIDE, SIDE, 3)).copy()
    for frame, top, left in zip(frames, tops, lefts, strict=True):
        region = frame[top : top + DIGIT_SIDE, left : left + DIGIT_SIDE]
        region += (foreground * 255 - region) * (digit / 255)
    drawn: np.ndarray = np.rint(frames).astype(np.uint8)
    return drawn


def _write_videos(folder: Path) -> None:
    """Write the videos of both splits to a temporary folder and rename it, so that `folder` is never incomplete.

    If another process renames its folder first, that folder is kept.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
            written = Path(temporary) / "all"
            for split in SPLITS:
                table = open_digits(folder, split)
                digits = [table.read(index) for index in range(len(table.ids))]
                for label, action in enumerate(ACTIONS):
                    for number in range(PER_CLASS):
                        file = _file(written, split, f"{'-'.join(action)}/{number:02}")
                        file.parent.mkdir(parents=True, exist_ok=True)
                        _encode(file, draw(digits, split, label, number))
            if not folder.is_dir():
                _rename_unless_exists(written, folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}). Try: robharness run --data-root DIR"
        ) from error


def _rename_unless_exists(written: Path, folder: Path) -> None:
    try:
        written.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _encode(file: Path, frames: np.ndarray) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.thread_count = "rgb24", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _file(folder: Path, split: str, id: str) -> Path:
    return folder / split / f"{id}.mp4"
