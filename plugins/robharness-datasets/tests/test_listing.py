"""Folders are listed once, and again as soon as they have changed; nothing that is kept is believed blindly."""

from __future__ import annotations

import gzip
import os
import shutil
import time

import pytest

from robharness_datasets import listing
from robharness_datasets.listing import pictures_below


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three classes with two pictures each, which changed long enough ago to be kept."""
    monkeypatch.setattr(listing, "SETTLED_NS", 0)
    for name in ("cat", "dog", "eel"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for one in ("2.png", "1.JPEG"):
            (tmp_path / "pictures" / name / one).touch()
    time.sleep(0.02)  # more than a tick of the file system's clock
    return tmp_path / "pictures"


@pytest.fixture
def listed(monkeypatch):
    """The names of the folders that are listed from here on."""
    names, scandir = [], os.scandir

    def spy(path):
        names.append(os.path.basename(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    return names


ALL = {"cat": ["1.JPEG", "2.png"], "dog": ["1.JPEG", "2.png"], "eel": ["1.JPEG", "2.png"]}


def test_a_second_look_lists_no_class_again(folder, listed):
    assert pictures_below(folder) == ALL
    assert sorted(listed) == ["cat", "dog", "eel", "pictures"]
    listed.clear()
    assert pictures_below(folder) == ALL
    assert listed == ["pictures"]


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
    pictures_below(folder)
    change(folder / "cat")
    listed.clear()
    assert pictures_below(folder) == ALL | {"cat": names}
    assert sorted(listed) == ["cat", "pictures"]


def test_a_change_whose_time_was_set_back_is_noticed(folder):
    pictures_below(folder)
    before = (folder / "cat").stat()
    (folder / "cat" / "3.png").touch()
    os.utime(folder / "cat", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "cat").stat().st_mtime_ns == before.st_mtime_ns
    assert pictures_below(folder)["cat"] == ["1.JPEG", "2.png", "3.png"]


def test_classes_that_come_go_or_are_replaced_are_noticed(folder):
    pictures_below(folder)
    shutil.rmtree(folder / "eel")
    (folder / "ant").mkdir()
    (folder / "dog").rename(folder / "spare")
    (folder / "cat").rename(folder / "dog")
    (folder / "dog" / "2.png").unlink()
    assert pictures_below(folder) == {"ant": [], "dog": ["1.JPEG"], "spare": ["1.JPEG", "2.png"]}


def test_a_folder_that_changed_just_now_is_not_kept(folder, listed, monkeypatch):
    monkeypatch.setattr(listing, "SETTLED_NS", 3_600_000_000_000)
    pictures_below(folder)
    listed.clear()
    pictures_below(folder)
    assert sorted(listed) == ["cat", "dog", "eel", "pictures"]


DAMAGES = {
    "empty": lambda content: b"",
    "foreign": lambda content: b"no gzip",
    "cut off": lambda content: content[:-9],
    "garbled": lambda content: content[:12] + bytes(255 - byte for byte in content[12:]),
    "of another kind": lambda content: gzip.compress(b'{"cat": 1}'),
    "a list": lambda content: gzip.compress(b"[]"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_what_is_kept_and_broken_is_made_again(folder, listed, cache, damage):
    pictures_below(folder)
    [kept] = cache.rglob("*.json.gz")
    kept.write_bytes(DAMAGES[damage](kept.read_bytes()))
    assert pictures_below(folder) == ALL
    listed.clear()
    assert pictures_below(folder) == ALL
    assert listed == ["pictures"]


def test_without_a_place_to_keep_it_everything_is_listed(folder, cache):
    cache.write_text("a file where a folder would be")
    assert pictures_below(folder) == ALL
    assert pictures_below(folder) == ALL


def test_hidden_files_folders_and_other_things_are_left_out(folder):
    (folder / ".thumbnails").mkdir()
    (folder / "README.txt").touch()
    (folder / "loose.png").touch()
    (folder / "cat" / "._1.JPEG").touch()
    (folder / "cat" / "notes.txt").touch()
    (folder / "cat" / "deep.png").mkdir()
    assert pictures_below(folder) == ALL


def test_names_of_any_bytes_are_kept(folder):
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "cat" / name).touch()
    time.sleep(0.02)
    assert pictures_below(folder)["cat"] == ["1.JPEG", "2.png", name]
    assert pictures_below(folder)["cat"] == ["1.JPEG", "2.png", name]
