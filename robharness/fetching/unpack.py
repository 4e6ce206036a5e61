"""Archives: unpacked beside their place and then moved, so that no file is there in part, and none outside."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath

from robharness.fetching.transfer import Refused

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""Errors that a damaged, encrypted or hostile archive raises."""


def unpack(archive: Path, folder: Path, staging: Path) -> None:
    """Unpack an archive into a folder; files that are there already stay as they are.

    staging: a path on the same file system, below which nothing else is; it is removed afterwards.
    Raises Refused for an archive that is damaged or has files outside of the folder, and OSError if the disk is full.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        if archive.suffix == ".zip":
            _unzip(archive, staging)
        else:
            _untar(archive, staging)
        if not any(staging.iterdir()):
            raise Refused(f"{archive.name} is empty")
        _move(staging, folder)
    except _BROKEN as error:
        raise Refused(f"{archive.name} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _untar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise Refused("unpacking needs Python 3.11.4 or later, whose tarfile refuses files outside of a folder")
    with tarfile.open(archive, "r:*") as tar:
        tar.extractall(folder, filter="data")


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"it has the file {name!r}, outside of its folder")
        content.extractall(folder)


def _move(source: Path, target: Path) -> None:
    """Move what is in a folder into another one: whole folders where there is none, else file by file."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _move(entry, place)
        elif not os.path.lexists(place):
            move(entry, place)


def move(path: Path, place: Path) -> None:
    """Move a file or a folder to a place in one step, also onto another file system, such as that of a link."""
    try:
        os.replace(path, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, beside, symlinks=True)
            else:
                shutil.copyfile(path, beside, follow_symlinks=False)
            os.replace(beside, place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            with suppress(OSError):
                beside.unlink()
