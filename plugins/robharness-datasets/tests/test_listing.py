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
    assert images_below(folder) == ALL
    assert sorted(listed) == ["cat", "dog", "eel", "images"]
    listed.clear()
    assert images_below(folder) == ALL
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
    assert images_below(folder) == ALL | {"cat": names}
    assert sorted(listed) == ["cat", "images"]


def test_a_change_is_detected_although_mtime_was_reset(folder):
    images_below(folder)
    before = (folder / "cat").stat()
    (folder / "cat" / "3.png").touch()
    os.utime(folder / "cat", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "cat").stat().st_mtime_ns == before.st_mtime_ns
    assert images_below(folder)["cat"] == ["1.JPEG", "2.png", "3.png"]


def test_added_removed_and_replaced_classes_are_detected(folder):
    images_below(folder)
    shutil.rmtree(folder / "eel")
    (folder / "ant").mkdir()
    (folder / "dog").rename(folder / "spare")
    (folder / "cat").rename(folder / "dog")
    (folder / "dog" / "2.png").unlink()
    assert images_below(folder) == {"ant": [], "dog": ["1.JPEG"], "spare": ["1.JPEG", "2.png"]}


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
    assert images_below(folder) == ALL
    listed.clear()
    assert images_below(folder) == ALL
    assert listed == ["images"]


def test_without_a_cache_folder_every_call_lists_all_folders(folder, cache):
    cache.write_text("a file where a folder would be")
    assert images_below(folder) == ALL
    assert images_below(folder) == ALL


def test_hidden_and_other_files_and_folders_are_ignored(folder):
    (folder / ".thumbnails").mkdir()
    (folder / "README.txt").touch()
    (folder / "loose.png").touch()
    (folder / "cat" / "._1.JPEG").touch()
    (folder / "cat" / "notes.txt").touch()
    (folder / "cat" / "deep.png").mkdir()
    assert images_below(folder) == ALL


def test_names_that_are_not_utf8_are_cached(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "cat" / name).touch()
    time.sleep(0.02)
    assert images_below(folder)["cat"] == ["1.JPEG", "2.png", name]
    assert images_below(folder)["cat"] == ["1.JPEG", "2.png", name]
