"""Cached listings: folders are listed once, and again after a change; a damaged cache is replaced."""

from __future__ import annotations

import gzip
import os
import shutil
import time

import pytest

from robharness_datasets import listing
from robharness_datasets.listing import images_below


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three classes with two images each, whose last change is old enough for caching."""
    monkeypatch.setattr(listing, "SETTLED_NS", 0)
    for name in ("cat", "dog", "eel"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for one in ("2.png", "1.JPEG"):
            (tmp_path / "images" / name / one).touch()
    time.sleep(0.02)  # more than a tick of the file system's clock
    return tmp_path / "images"


@pytest.fixture
def listed(monkeypatch):
    """The names of the folders listed after this fixture is created."""
    names, scandir = [], os.scandir

    def spy(path):
        names.append(os.path.basename(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    return names


ALL = {"cat": ["1.JPEG", "2.png"], "dog": ["1.JPEG", "2.png"], "eel": ["1.JPEG", "2.png"]}


def test_a_second_call_lists_no_class_again(folder, listed):
    assert images_below(folder).images == ALL
    assert sorted(listed) == ["cat", "dog", "eel", "images"]
    listed.clear()
    assert images_below(folder).images == ALL
    assert listed == ["images"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda cat: (cat / "3.png").touch(), ["1.JPEG", "2.png", "3.png"]),
        (lambda cat: (cat / "1.JPEG").unlink(), ["2.png"]),
        (lambda cat: (cat / "1.JPEG").rename(cat / "0.jpg"), ["0.jpg", "2.png"]),
    ],
    ids=["added", "removed", "renamed"],
)
def test_a_changed_class_is_listed_again_and_no_other(folder, listed, change, names):
    images_below(folder)
    change(folder / "cat")
    listed.clear()
    assert images_below(folder).images == ALL | {"cat": names}
    assert sorted(listed) == ["cat", "images"]


def test_a_change_is_detected_although_mtime_was_reset(folder):
    images_below(folder)
    before = (folder / "cat").stat()
    (folder / "cat" / "3.png").touch()
    os.utime(folder / "cat", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "cat").stat().st_mtime_ns == before.st_mtime_ns
    assert images_below(folder).images["cat"] == ["1.JPEG", "2.png", "3.png"]


def test_added_removed_and_replaced_classes_are_detected(folder):
    images_below(folder)
    shutil.rmtree(folder / "eel")
    (folder / "ant").mkdir()
    (folder / "dog").rename(folder / "spare")
    (folder / "cat").rename(folder / "dog")
    (folder / "dog" / "2.png").unlink()
    assert images_below(folder).images == {"ant": [], "dog": ["1.JPEG"], "spare": ["1.JPEG", "2.png"]}


def test_a_recently_changed_folder_is_not_cached(folder, listed, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED_NS", 3_600_000_000_000)
    images_below(folder)
    listed.clear()
    images_below(folder)
    assert sorted(listed) == ["cat", "dog", "eel", "images"]


DAMAGES = {
    "empty": lambda content: b"",
    "foreign": lambda content: b"no gzip",
    "cut off": lambda content: content[:-9],
    "garbled": lambda content: content[:12] + bytes(255 - byte for byte in content[12:]),
    "of another kind": lambda content: gzip.compress(b'{"cat": 1}'),
    "a list": lambda content: gzip.compress(b"[]"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_cache_is_replaced(folder, listed, cache, damage):
    images_below(folder)
    [kept] = cache.rglob("*.json.gz")
    kept.write_bytes(DAMAGES[damage](kept.read_bytes()))
    assert images_below(folder).images == ALL
    listed.clear()
    assert images_below(folder).images == ALL
    assert listed == ["images"]


def test_without_a_cache_folder_every_call_lists_all_folders(folder, cache):
    cache.write_text("a file where a folder would be")
    assert images_below(folder).images == ALL
    assert images_below(folder).images == ALL


def test_hidden_and_other_files_and_folders_are_ignored(folder):
    (folder / ".thumbnails").mkdir()
    (folder / "README.txt").touch()
    (folder / "loose.png").touch()
    (folder / "cat" / "._1.JPEG").touch()
    (folder / "cat" / "notes.txt").touch()
    (folder / "cat" / ".hidden").mkdir()
    (folder / "cat" / ".hidden" / "1.png").touch()
    (folder / "cat" / "empty.png").mkdir()
    assert images_below(folder).images == ALL


def test_names_that_are_not_utf8_are_cached(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "cat" / name).touch()
    time.sleep(0.02)
    assert images_below(folder).images["cat"] == ["1.JPEG", "2.png", name]
    assert images_below(folder).images["cat"] == ["1.JPEG", "2.png", name]


def test_a_change_in_a_deeper_folder_is_detected_and_no_other_folder_is_listed_again(folder, listed):
    (folder / "cat" / "deep" / "deeper").mkdir(parents=True)
    (folder / "cat" / "deep" / "deeper" / "3.png").touch()
    time.sleep(0.02)
    assert images_below(folder).images == ALL | {"cat": ["1.JPEG", "2.png", "deep/deeper/3.png"]}
    (folder / "cat" / "deep" / "deeper" / "4.png").touch()
    listed.clear()
    assert images_below(folder).images == ALL | {"cat": ["1.JPEG", "2.png", "deep/deeper/3.png", "deep/deeper/4.png"]}
    assert sorted(listed) == ["deeper", "images"]


def test_files_that_are_left_out_are_counted_also_from_the_cache(folder):
    for name in ("notes.txt", "a.heic", "B.HEIC", "Makefile"):
        (folder / "cat" / name).touch()
    (folder / "loose.png").touch()
    time.sleep(0.02)
    for _ in range(2):
        loose, others = images_below(folder).remarks
        assert loose == "1 image beside the class folders, in no class, is left out"
        assert others.startswith(
            "4 files in class folders are left out, since no image has the suffix (.heic 2, .txt 1, none 1)"
        )


def test_links_are_followed_and_loops_of_links_end(folder):
    (folder / "cat" / "deep").mkdir()
    (folder / "cat" / "deep" / "3.png").touch()
    (folder / "cat" / "deep" / "up").symlink_to("..")
    (folder / "cat" / "self").symlink_to(".")
    (folder / "dog" / "cats").symlink_to(folder / "cat")
    (folder / "eel" / "no.png").symlink_to("nowhere")
    (folder / "eel" / "round.png").symlink_to("round.png")
    found = images_below(folder)
    assert found.images == {
        "cat": ["1.JPEG", "2.png", "deep/3.png"],
        "dog": ["1.JPEG", "2.png", "cats/1.JPEG", "cats/2.png", "cats/deep/3.png"],
        "eel": ["1.JPEG", "2.png", "no.png", "round.png"],
    }
    assert found.remarks == ("4 links to folders above them are not followed",)


def test_without_a_home_folder_nothing_is_cached(folder, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~")  # pathlib raises RuntimeError, as for a user without a home folder
    assert images_below(folder).images == ALL
