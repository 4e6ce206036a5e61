"""Archives are unpacked whole, inside of their folder, and never over a file that is there."""

import io
import os
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from robharness.fetching.transfer import Refused
from robharness.fetching.unpack import unpack


def tar(path, *entries, mode="w"):
    """Write a tar of (name, content or the target of a link)."""
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size, info.mode = len(content), 0o6777
                archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, *entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.fixture
def place(tmp_path):
    """Unpack an archive into `data`, and give the files there with their content."""

    def call(archive):
        unpack(archive, tmp_path / "data", tmp_path / "staging")
        assert not (tmp_path / "staging").exists()
        return {str(path.relative_to(tmp_path / "data")): path.read_bytes()
                for path in (tmp_path / "data").rglob("*") if path.is_file()}  # fmt: skip

    return call


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar", "w:gz"), ("a.tar.xz", "w:xz")]
)
def test_tars_of_any_compression(place, tmp_path, name, mode):
    """ImageNet-C's files are named .tar, whatever is inside."""
    assert place(tar(tmp_path / name, ("a/one", b"1"), ("two", b"2"), mode=mode)) == {"a/one": b"1", "two": b"2"}
    assert not (tmp_path / "data" / "two").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)


def test_what_is_there_stays_and_the_rest_is_added(place, tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "one").write_bytes(b"mine")
    (tmp_path / "data" / "b").write_bytes(b"a file in place of a folder")
    found = place(zipped(tmp_path / "a.zip", ("a/one", b"1"), ("a/two", b"2"), ("b/three", b"3"), ("c/d/four", b"4")))
    assert found == {"a/one": b"mine", "a/two": b"2", "b": b"a file in place of a folder", "c/d/four": b"4"}


@pytest.mark.parametrize(
    "entries",
    [[("../out", b"x")], [("a/../../out", b"x")], [("link", "../.."), ("link/out", b"x")], [("link", "/etc")]],
    ids=["above", "through a folder", "through a link", "link outside"],
)
def test_a_tar_that_leaves_its_folder_is_refused(tmp_path, entries):
    with pytest.raises(Refused, match=r"^a\.tar cannot be unpacked: "):
        unpack(tar(tmp_path / "a.tar", *entries), tmp_path / "data", tmp_path / "staging")
    assert not (tmp_path / "out").exists() and not (tmp_path / "data").exists()
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "..\\out", "a/../../out"])
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(Refused, match="outside of its folder"):
        unpack(zipped(tmp_path / "a.zip", ("fine", b"1"), (name, b"x")), tmp_path / "data", tmp_path / "staging")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar", "a.zip"])
def test_damaged_and_empty_archives_are_refused_and_leave_nothing(tmp_path, name):
    kind = zipped if name.endswith("zip") else lambda path, *all: tar(path, *all, mode="w:gz" if "gz" in name else "w")
    path = kind(tmp_path / name, ("a/one", os.urandom(50_000)), ("a/two", os.urandom(50_000)))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"<html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(Refused, match=r"cannot be unpacked|is empty"):
            unpack(path, tmp_path / "data", tmp_path / "staging")
        assert not (tmp_path / "data").exists()
    with pytest.raises(Refused, match="is empty"):
        unpack(kind(path), tmp_path / "data", tmp_path / "staging")


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_folders_may_be_links_to_another_file_system(place, tmp_path, elsewhere):
    """Large data are often there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/set").symlink_to(elsewhere)
    (elsewhere / "old").write_bytes(b"stays")
    archive = tar(tmp_path / "a.tar", ("set/deep/x", b"1"), ("set/y", b"2"), ("set/old", b"new"), ("set/link", "y"))
    place(archive)
    names = {str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*")}
    assert names == {"deep", "deep/x", "y", "old", "link"}
    contents = [(elsewhere / name).read_bytes() for name in ("deep/x", "y", "old", "link")]
    assert contents == [b"1", b"2", b"stays", b"2"] and os.readlink(elsewhere / "link") == "y"
