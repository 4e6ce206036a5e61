"""Video files of every width: their frames are those that were encoded, and those of another decoder."""

from __future__ import annotations

import subprocess
import sys

import av
import numpy as np
import pytest

from robharness import UnreadableExample
from robharness_datasets.videos import VideoFile

WIDTHS = range(2, 130)


def padded(pixels):
    """Return the widths that divide a row, padded to a multiple of so many pixels, into more than 3 channels."""
    rows = {width: 3 * pixels * -(-width // pixels) for width in WIDTHS}
    return {width for width, row in rows.items() if row % width == 0 and row // width > 3}


PADDED = padded(32) | padded(64)


def clip(width, height, count=3):
    """Return frames, uint8 (count, height, width, 3), in which every pixel tells its place."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.stack([x + 90 * number, y * 7, x * 3 + y], -1) for number in range(count)]
    return np.stack(frames).astype(np.uint8)


def write(path, frames, codec, pixels, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decoded_by_av(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("width", sorted({*range(2, 41), *PADDED, 64, 80, 96, 112, 171, 224, 320}))
def test_frames_of_every_width_are_those_that_were_encoded(tmp_path, width):
    for height in (1, 6, 17):
        frames = clip(width, height)
        write(tmp_path / "v.mkv", frames, "ffv1", "bgr0")  # lossless
        video = VideoFile(tmp_path / "v.mkv")
        assert len(video) == 3
        np.testing.assert_array_equal(video[[2, 0, 1]], frames[[2, 0, 1]])


@pytest.mark.parametrize("width", [8, 10, 12, 16, 18, 24, 32, 48, 72, 112])
def test_frames_in_yuv_are_those_of_another_decoder(tmp_path, width):
    write(tmp_path / "v.mp4", clip(width, 16), "libx264", "yuv420p", qp="0")
    np.testing.assert_array_equal(VideoFile(tmp_path / "v.mp4")[[0, 1, 2]], decoded_by_av(tmp_path / "v.mp4"))


def test_the_decoder_pads_rows(tmp_path):
    """The repair is for what decord does; if this fails, a new decord gives whole frames by itself.

    Rows are padded to 32 pixels, or to 64 where the processor has wider registers.
    """
    write(tmp_path / "v.mkv", clip(16, 4, 1), "ffv1", "bgr0")
    VideoFile(tmp_path / "v.mkv")  # imports decord in the way that leaves torch's products alone
    import decord

    found = set()
    for width in WIDTHS:
        write(tmp_path / "v.mkv", clip(width, 4, 1), "ffv1", "bgr0")
        if decord.VideoReader(str(tmp_path / "v.mkv")).next().shape[-1] != 3:
            found.add(width)
    assert found in (padded(32), padded(64))


PRODUCT = """
import sys
from pathlib import Path
from robharness_datasets.videos import VideoFile
VideoFile(Path(sys.argv[1]))
import torch
print(*torch.nn.Linear(512, 8)(torch.zeros(2, 512)).shape, "libnvblas" in Path("/proc/self/maps").read_text())
print("nvidia" in sys.modules)
"""


def test_torch_multiplies_after_a_video_was_read(tmp_path):
    write(tmp_path / "v.mkv", clip(16, 16, 3), "ffv1", "bgr0")
    done = subprocess.run([sys.executable, "-c", PRODUCT, tmp_path / "v.mkv"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["2", "8", "False", "False"]), done.stderr


def test_a_video_that_is_a_text_is_unreadable(tmp_path):
    (tmp_path / "v.mp4").write_text("no video")
    with pytest.raises(UnreadableExample, match="not a video"):
        VideoFile(tmp_path / "v.mp4")
