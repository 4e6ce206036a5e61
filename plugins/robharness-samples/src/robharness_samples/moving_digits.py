"""Digits that move: small videos of known classes, written as mp4 files when they are first wanted.

A class is a colour and a direction, so that order of channels and order of frames both matter, and the digit does not.
The files are H.264 without loss, so that frames are the same whatever wrote and whatever reads them.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import MissingResource, UserError
from robharness_samples.digits import open_digits
from robharness_samples.videos import Videos, need

if TYPE_CHECKING:
    import numpy as np

REVISION = 1
"""Of the drawings: raised when pixels change, so that files written before are left alone."""
SPLITS = ("train", "test")
PER_CLASS = 12
"""Videos of each class in each split."""
SIDE = 64
FEWEST, MOST = 24, 40
"""Frames of a video."""
DIGIT = 24
"""Pixels of a digit, 3 for each of scikit-learn's."""
COLOURS = {"red": (1.0, 0.2, 0.2), "blue": (0.2, 0.2, 1.0)}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Down and right, in pixels."""
ACTIONS = tuple((colour, direction) for colour in COLOURS for direction in DIRECTIONS)


def open_moving_digits(root: Path, split: str) -> Videos:
    """96 videos of 24 to 40 frames of 64 x 64 px, of 8 classes, in `<root>/moving-digits/`; ids such as "red-left/00".

    The digits are those of the same split of `samples/digits`. Writes the files of both splits, all or none, where they
    are not there; two seconds and 2 MB. Raises MissingResource where packages or files are missing, UserError where nothing can
    be written.
    """
    need("robharness_datasets", "decord", "av")
    folder = root / "moving-digits" / f"{REVISION}"
    if not folder.is_dir():
        _write(folder)
    names = [(f"{'-'.join(action)}/{number:02}", label) for label, action in enumerate(ACTIONS)
             for number in range(PER_CLASS)]  # fmt: skip
    files = [_file(folder, split, id) for id, _ in names]
    absent = [file for file in files if not file.is_file()]
    if absent:
        get = f"rm -r {shlex.quote(str(folder))}, and they are written again"
        raise MissingResource(f"{len(absent)} of {len(files)} videos of moving digits", where=str(absent[0]), get=get)
    return Videos([id for id, _ in names], [label for _, label in names], files)


def draw(digits: Sequence[np.ndarray], split: str, label: int, number: int) -> np.ndarray:
    """The frames of one video, uint8 (T, 64, 64, 3), RGB. digits: uint8 (8, 8, 1), to choose from."""
    import numpy as np

    colour, direction = ACTIONS[label]
    rng = np.random.default_rng((SPLITS.index(split), label, number))
    digit = digits[int(rng.integers(len(digits)))].repeat(DIGIT // 8, 0).repeat(DIGIT // 8, 1)
    count = int(rng.integers(FEWEST, MOST + 1))
    room = SIDE - DIGIT
    travel = int(rng.integers(room // 2, room + 1))
    along = int(rng.integers(room - travel + 1)) + np.rint(np.linspace(0, travel, count)).astype(int)
    across = np.full(count, rng.integers(room + 1))
    down, right = DIRECTIONS[direction]
    if down + right < 0:
        along = along[::-1]
    tops, lefts = (along, across) if down else (across, along)
    light = rng.uniform(0.7, 1) * np.array(COLOURS[colour])
    top_grey, bottom_grey = rng.uniform(20, 90, 2).tolist()
    shade = np.linspace(top_grey, bottom_grey, SIDE)
    frames = np.broadcast_to(shade[None, :, None, None], (count, SIDE, SIDE, 3)).copy()
    for frame, top, left in zip(frames, tops, lefts, strict=True):
        place = frame[top : top + DIGIT, left : left + DIGIT]
        place += (light * 255 - place) * (digit / 255)
    drawn: np.ndarray = np.rint(frames).astype(np.uint8)
    return drawn


def _write(folder: Path) -> None:
    """Beside its place, and then there in one step; if another process was faster, its files serve."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as beside:
            written = Path(beside) / "all"
            for split in SPLITS:
                table = open_digits(folder, split)
                digits = [table.read(index) for index in range(len(table.ids))]
                for label, action in enumerate(ACTIONS):
                    for number in range(PER_CLASS):
                        file = _file(written, split, f"{'-'.join(action)}/{number:02}")
                        file.parent.mkdir(parents=True, exist_ok=True)
                        _encode(file, draw(digits, split, label, number))
            if not folder.is_dir():
                _into_place(written, folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}). To have data elsewhere: robharness run --data-root DIR"
        ) from error


def _into_place(written: Path, folder: Path) -> None:
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
