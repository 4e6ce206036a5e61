"""Atomic writes: a file or a folder appears whole or not at all, whatever kills the process.

A write goes to a temporary file, fsync, rename, fsync of the folder. Trade-off: two fsyncs per file, milliseconds
against a minute of computation.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from robharness.reading import read_regular

_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class FileSystem:
    """The operating system's calls on files, and the atomic writes that are made of them.

    `time` to `lock` are one call each. Tests give a store a subclass in which such a call fails or is counted.
    lacks_fsync: whether an fsync failed since the file system has none; checksums find what a power cut may damage.
    """

    def __init__(self) -> None:
        self.lacks_fsync = False

    # --- single calls ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time of the clock in seconds since 1970, as for the modification times of files."""
        return time.time()

    def read(self, path: Path) -> bytes:
        """Return the content of a file. Raises OSError, NotAFile for a folder, a named pipe or a device."""
        return read_regular(path)

    def open(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open("wb")

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def lock(self, descriptor: int) -> bool:
        """Lock an open file for this process and return True, or return False if another process holds the lock.

        The operating system releases the lock when the process ends. Raises OSError if the file system has no locks.
        """
        from filelock import lock_descriptor

        return lock_descriptor(descriptor, blocking=False)

    def unlock(self, descriptor: int) -> None:
        from filelock import unlock_descriptor

        unlock_descriptor(descriptor)

    # --- atomic writes -----------------------------------------------------------------------------------------

    @contextmanager
    def replacing(self, path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
        """Open a temporary file that takes the place of `path` when the block ends, unless the block raises.

        durable: whether the file survives a power cut; without fsync, many small files are written faster. Such a file
            has one writer, and its temporary name is fixed, so that the next run replaces what a kill left behind.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp" if durable else f".{path.name}.tmp")
        try:
            with self.open(temporary) as file:
                yield file
                file.flush()
                if durable:
                    self._sync(file.fileno())
            self.rename(temporary, path)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report
                self.unlink(temporary)
            raise
        if durable:
            self._sync_path(path.parent)

    def write(self, path: Path, content: bytes, *, durable: bool = True) -> None:
        """Write a whole file, or replace it.

        durable: see `replacing`.
        """
        with self.replacing(path, durable=durable) as file:
            file.write(content)

    def put_in_place(self, folder: Path, place: Path) -> None:
        """Rename a folder that is complete, so that its files survive a power cut."""
        for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
            self._sync_path(path)
        self.rename(folder, place)
        self._sync_path(place.parent)

    def copy_folder(self, source: Path, place: Path) -> None:
        """Copy a folder. The copy appears when all of its files are written."""
        temporary = place.with_name(f".{place.name}.{uuid4().hex}.tmp")
        temporary.mkdir(parents=True)
        try:
            try:
                shutil.copytree(source, temporary, dirs_exist_ok=True)
            except shutil.Error as error:  # which holds the errors of all files
                path, _, reason = error.args[0][0]
                raise OSError(0, f"{path}: {reason}") from error
            self.put_in_place(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _sync_path(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _sync(self, descriptor: int) -> None:
        try:
            self.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise
            self.lacks_fsync = True


class ReadOnly(FileSystem):
    """A file system that refuses every change, for reports from a store alone."""

    def open(self, path: Path) -> BinaryIO:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def rename(self, source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(source))

    def unlink(self, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
