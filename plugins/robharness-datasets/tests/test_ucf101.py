"""UCF101 in its publisher's layout: official lists and AVI files of MPEG-4, written by PyAV."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from robharness import MissingResource, UnreadableExample, UserError
from robharness_datasets.ucf101 import COUNTS, SPEC
from robharness_datasets.videos import VideoFile

# Lines of classInd.txt where alphabetical order without case differs from byte order.
OFFICIAL = {35: "Hammering", 36: "HammerThrow", 47: "JumpingJack", 48: "JumpRope"}
ACTIONS = [OFFICIAL.get(n, f"{'A' if n < 35 else 'I' if n < 47 else 'K'}ction{n:03}") for n in range(1, 102)]
assert sorted(ACTIONS, key=str.lower) == ACTIONS != sorted(ACTIONS)
VIDEOS = [
    f"{action}/v_{action}_g01_c0{clip}.avi" for action in ("Action001", "Hammering", "JumpRope") for clip in (1, 2)
]
LABELS = [0, 0, 34, 34, 47, 47]
N_FRAMES = 45


def frames_of(seed, n=N_FRAMES):
    """Frames uint8 (n, 48, 64, 3): a moving coloured pattern, and a square whose brightness counts frames."""
    draw = np.random.default_rng(seed)
    pattern = np.kron(draw.integers(0, 256, (20 + n, 20, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    frames = np.stack([pattern[step : step + 48, :64] for step in range(n)])
    frames[:, :16, :16] = (np.arange(n) * 255 // n)[:, None, None, None]
    return frames


def write(file, frames):
    """Write a video in UCF101's format: MPEG-4 in AVI, with B-frames."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = 12, 2
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decoded(file):
    """Return all frames, decoded by PyAV in order."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    lists = root / "ucf101" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    classes = "".join(f"{number} {action}\r\n" for number, action in enumerate(ACTIONS, 1))
    (lists / "classInd.txt").write_bytes(classes.encode())
    (lists / "testlist01.txt").write_bytes("".join(f"{video}\r\n" for video in VIDEOS).encode())
    lines = [f"{video} {label + 1}\r\n" for video, label in zip(VIDEOS, LABELS, strict=True)]
    (lists / "trainlist02.txt").write_bytes("".join(reversed(lines)).encode())
    for seed, video in enumerate(VIDEOS):
        write(root / "ucf101" / "UCF-101" / video, frames_of(seed))
    (root / "ucf101" / "SUBSET").touch()
    return root


@pytest.fixture
def copy(published, tmp_path):
    """A copy that a test may break."""
    subprocess.run(["cp", "-r", str(published), str(tmp_path / "data")], check=True)
    return tmp_path / "data"


def with_changed_file(root, index, change):
    file = root / "ucf101" / "UCF-101" / VIDEOS[index]
    file.write_bytes(change(file.read_bytes()))
    return SPEC.open(root, "test1")


def test_official_lists_give_ids_labels_and_their_order(published):
    test, train = SPEC.open(published, "test1"), SPEC.open(published, "train2")
    assert (list(test.ids), list(test.labels)) == (VIDEOS, LABELS)
    assert (list(train.ids), list(train.labels)) == (VIDEOS[::-1], LABELS[::-1])
    assert SPEC.splits == ("test1", "test2", "test3", "train1", "train2", "train3")
    assert SPEC.kind == "video" and SPEC.labels == "ucf-101"


def test_frames_at_any_indices_are_pyavs_in_rgb(published):
    data = SPEC.open(published, "test1")
    for index, id in enumerate(data.ids):
        expected = decoded(published / "ucf101" / "UCF-101" / id)
        video = data.read(index)
        assert len(video) == len(expected) == N_FRAMES
        for frames in ([0, 1, 2], [44], [30, 2, 17, 2], list(range(8, 40, 2)), list(range(N_FRAMES))):
            found = video[frames]
            assert (found.dtype, found.shape) == (np.uint8, (len(frames), 48, 64, 3))
            np.testing.assert_array_equal(found, expected[frames])
        error = np.abs(expected.astype(int) - frames_of(index)).mean()
        swapped = np.abs(expected[..., ::-1].astype(int) - frames_of(index)).mean()
        assert error < 0.5 * swapped, "red and blue are swapped"


def test_any_order_and_any_thread_give_the_same(published):
    data = SPEC.open(published, "test1")
    wanted = [3, 7, 20, 41]
    expected = {index: data.read(index)[wanted].tobytes() for index in range(len(VIDEOS))}
    order = random.Random(0).choices(range(len(VIDEOS)), k=60)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: data.read(index)[wanted].tobytes(), order))
    assert found == [expected[index] for index in order]
    again = SPEC.open(published, "test1")
    assert [again.read(index)[wanted].tobytes() for index in reversed(range(6))] == list(expected.values())[::-1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: b"", "the file is empty"),
        (lambda content: content[: len(content) // 2], r"truncated: [\d,]+ of [\d,]+ bytes"),
        (lambda content: content[:200], "truncated"),
        (lambda content: content[:6], "not a video"),
        (lambda content: b"<html>404 Not Found</html>" * 100, "not a video"),
        (lambda content: bytes(len(content)), "not a video"),
        (lambda content: content[: len(content) // 2].ljust(len(content), b"\0"), r"\d+ of the 45 frames"),
    ],
    ids=["empty", "half", "beginning", "six bytes", "a page", "zeros", "zeros from the middle"],
)
def test_broken_videos_are_unreadable_and_others_are_read(copy, change, reason):
    data = with_changed_file(copy, 2, change)
    assert list(data.ids) == VIDEOS
    with pytest.raises(UnreadableExample, match=reason):
        data.read(2)[[0, 20, 44]]
    assert data.read(3)[[0, 44]].shape == (2, 48, 64, 3)


@pytest.mark.parametrize(
    ("start", "reason"),
    [(b"", "cannot be decoded"), (b"\0\0\1\xb6", "more than 10% of the video's frames cannot be decoded")],
    ids=["zeros", "frames of zeros"],
)
def test_undecodable_frames_are_not_replaced(copy, start, reason, capfd):
    """Without the check, decord repeats the last good frame if the broken frames have a valid start code."""
    file = copy / "ucf101" / "UCF-101" / VIDEOS[0]
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_keyframe]
    content = bytearray(file.read_bytes())
    for packet in packets[10:]:
        content[packet.pos : packet.pos + packet.size] = start.ljust(packet.size, b"\0")
    file.write_bytes(content)
    video = SPEC.open(copy, "test1").read(0)
    assert len(video) == N_FRAMES
    with pytest.raises(UnreadableExample, match=reason):
        video[[0, 20, 30]]
    assert capfd.readouterr().err == "", "the decoder's messages reach stderr"


def test_a_video_deleted_after_opening_is_unreadable(copy):
    data = SPEC.open(copy, "test1")
    (copy / "ucf101" / "UCF-101" / VIDEOS[1]).unlink()
    with pytest.raises(UnreadableExample, match="No such file"):
        data.read(1)


def test_a_subset_is_the_listed_videos_that_exist(copy):
    (copy / "ucf101" / "UCF-101" / VIDEOS[1]).unlink()
    (copy / "ucf101" / "UCF-101" / "Hammering" / "notes.txt").touch()
    assert list(SPEC.open(copy, "test1").ids) == [VIDEOS[0], *VIDEOS[2:]]


def with_official_count(root, split="testlist01"):
    """Make the list as long as the official one, with names of missing videos of the same actions."""
    (root / "ucf101" / "SUBSET").unlink()
    more = [f"Hammering/v_Hammering_g{number:04}_c01.avi" for number in range(COUNTS["test1"] - len(VIDEOS))]
    (root / "ucf101" / "ucfTrainTestlist" / f"{split}.txt").write_text("\n".join([*VIDEOS, *more]), encoding="ascii")
    return more


def test_missing_videos_are_counted_before_anything_runs(copy):
    more = with_official_count(copy)
    with pytest.raises(
        MissingResource, match=rf"^3,777 of the 3,783 videos .*such as {more[0]}.*an empty file .*SUBSET .*unrar x "
    ):
        SPEC.open(copy, "test1")
    for video in more:
        (copy / "ucf101" / "UCF-101" / video).touch()
    data = SPEC.open(copy, "test1")
    assert len(data.ids) == 3783
    with pytest.raises(UnreadableExample, match="empty"):
        data.read(3782)


def test_missing_lists_and_videos_are_named_with_the_commands(tmp_path, copy):
    with pytest.raises(
        MissingResource, match=r"official lists of UCF101.*classInd\.txt.*curl .*TrainTestSplits.*unzip"
    ):
        SPEC.open(tmp_path / "nowhere", "test1")
    (copy / "ucf101" / "UCF-101").rename(copy / "elsewhere")
    with pytest.raises(MissingResource, match=r"6 of the 6 videos.*UCF101\.rar") as caught:
        SPEC.open(copy, "test1")
    assert "SUBSET" not in str(caught.value), "an empty folder is no subset"


def test_lists_other_than_the_official_ones_are_refused(copy):
    lists = copy / "ucf101" / "ucfTrainTestlist"
    (copy / "ucf101" / "SUBSET").unlink()
    with pytest.raises(UserError, match=r"testlist01\.txt names 6 videos, the official list 3,783.*unzip"):
        SPEC.open(copy, "test1")
    with pytest.raises(MissingResource, match=r"testlist03\.txt"):
        SPEC.open(copy, "test3")
    (lists / "trainlist02.txt").write_text(f"{VIDEOS[2]} 36\n", encoding="ascii")
    with pytest.raises(UserError, match=r"trainlist02\.txt:1: 'Hammering/.* 36' does not match classInd"):
        SPEC.open(copy, "train2")
    by_bytes = "".join(f"{number} {action}\n" for number, action in enumerate(sorted(ACTIONS), 1))
    (lists / "classInd.txt").write_text(by_bytes, encoding="ascii")
    with pytest.raises(UserError, match=r"classInd\.txt does not number 101 actions"):
        SPEC.open(copy, "test1")


def test_a_missing_decoder_is_named_with_the_install_command(published, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    with pytest.raises(MissingResource, match=r"pip install 'robharness-datasets\[video\]'$"):
        SPEC.open(published, "test1")


def test_declaring_and_opening_import_nothing_heavy(published):
    script = f"""
import sys
from pathlib import Path
from robharness_datasets.ucf101 import SPEC
data = SPEC.open(Path({str(published)!r}), "test1")
heavy = {{"torch", "numpy", "decord", "PIL"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_length_of_a_video_file_is_its_number_of_frames(tmp_path):
    write(tmp_path / "one.avi", frames_of(3, n=2))
    assert len(VideoFile(Path(tmp_path / "one.avi"))) == 2
