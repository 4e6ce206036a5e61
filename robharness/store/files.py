"""The files of a store: all that a store needs of a file system, and that of this machine.

A file or a folder appears whole or not at all, whatever kills the process. In a folder of this machine, a write goes to
a temporary file, fsync, rename, fsync of the folder. Trade-off: two fsyncs per file, milliseconds against a minute of
computation. `robharness.store.objects` has the files of object stores.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol, Self
from uuid import uuid4

from robharness.errors import exists, for_shell, nearest_existing, why_no_folder
from robharness.locations import Location, ObjectPath
from robharness.reading import LinkToNothing, read_regular

_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class StoreFiles(Protocol):
    """The files of a store, in a folder or in an object store.

    A file is whole or absent to every reader, and a listing has every file whose write has returned. Errors are
    OSError: FileNotFoundError if there is no such file, RemoteError if an object store cannot be used.

    parallel: the number of calls at once that pay off; 1 if waiting for one is short.
    lacks_fsync: whether a power cut may damage what was written last.
    """

    parallel: int
    lacks_fsync: bool

    def time(self) -> float:
        """Return the time of the clock in seconds since 1970."""

    def read(self, path: PurePath, most: int | None = None) -> bytes:
        """Return the content of a file. Raises NotAFile if it is none.

        most: the largest number of bytes; any number if None.
        """

    def read_part(self, path: PurePath, checksum: str) -> bytes:
        """Return the content of a file that never changes, perhaps from a copy.

        checksum: CRC-32 of its bytes, 8 hexadecimal digits, which a copy must have.
        """

    def write(self, path: PurePath, content: bytes) -> None:
        """Write a whole file, or replace it."""

    def create(self, path: PurePath, content: bytes) -> None:
        """Write a file whose name determines its content, so that one that is there already is the same."""

    def make_room(self, path: PurePath) -> None:
        """Set a folder aside where a file is to be written."""

    def set_aside(self, path: PurePath, place: PurePath) -> None:
        """Give a damaged file another name."""

    def unlink(self, path: PurePath) -> None:
        """Remove a file, if there is one."""

    def remove(self, paths: Iterable[PurePath]) -> None:
        """Remove several files."""

    def remove_temporary(self, folder: PurePath, age: float) -> None:
        """Remove temporary files that killed processes left in a folder.

        age: in seconds; younger ones remain.
        """

    def names(self, folder: PurePath) -> list[str]:
        """Return the names of files and folders in a folder, in order; none if there is no such folder."""

    def is_file(self, path: PurePath) -> bool: ...

    def is_folder(self, path: PurePath) -> bool: ...

    def why_no_folder(self, path: PurePath) -> str:
        """Return why a path can be no folder, as the end of a sentence; empty if it can."""

    def is_writable(self, root: PurePath) -> bool:
        """Return whether something may be written into an existing store."""

    def listed(self, root: PurePath) -> Self:
        """Return these files with one listing of all names below a root, which knows its own later writes alone.

        A file that is gone makes it list its folder again. In a folder of this machine, where listing is fast, names
        stay those of the moment.
        """

    def show_command(self, place: PurePath) -> str:
        """Return the command that shows the files at a place."""

    def remove_command(self, place: PurePath) -> str:
        """Return the command that removes all files at a place."""


def open_files(root: Location, *, is_read_only: bool = False) -> StoreFiles:
    """Return the files of a store. Raises UserError if a library that they need is not installed.

    is_read_only: whether every change is refused, for reports from a store alone.
    """
    if isinstance(root, ObjectPath):
        from robharness.store.objects import ObjectFiles

        return ObjectFiles(root, is_read_only=is_read_only)
    return ReadOnly() if is_read_only else FileSystem()


class RemoteError(OSError):
    """An object store that cannot be used, or that refuses a request.

    hint: the command to type.
    """

    def __init__(self, code: int, reason: str, hint: str) -> None:
        super().__init__(code, reason)
        self.hint = hint


class FileSystem:
    """The operating system's calls on files, and the atomic writes that are made of them: the files of a folder.

    `time` to `lock` are one call each. Tests give a store a subclass in which such a call fails or is counted.
    lacks_fsync: whether an fsync failed since the file system has none; checksums find what a power cut may damage.
    """

    parallel = 1

    def __init__(self) -> None:
        self.lacks_fsync = False

    # --- single calls ------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time of the clock in seconds since 1970, as for the modification times of files."""
        return time.time()

    def read(self, path: PurePath, most: int | None = None) -> bytes:
        """Return the content of a file. Raises OSError, NotAFile for a folder, a pipe, a device or a link to nothing.

        most: the largest number of bytes; any number if None.
        """
        try:
            return read_regular(Path(path), most)
        except FileNotFoundError:
            if os.path.islink(path):
                raise LinkToNothing(Path(path)) from None
            raise

    def open(self, path: Path) -> BinaryIO:
        """Open a new file for writing."""
        return path.open("wb")

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, source: PurePath, target: PurePath) -> None:
        os.replace(source, target)

    def unlink(self, path: PurePath) -> None:
        Path(path).unlink(missing_ok=True)

    def lock(self, descriptor: int) -> bool:
        """Lock an open file for this process and return True, or return False if another process holds the lock.

        The operating system releases the lock when the process ends. Raises OSError if the file system has no locks.
        """
        from filelock import lock_descriptor

        return lock_descriptor(descriptor, blocking=False)

    def unlock(self, descriptor: int) -> None:
        from filelock import unlock_descriptor

        unlock_descriptor(descriptor)

    # --- the files of a store ----------------------------------------------------------------------------------

    def read_part(self, path: PurePath, checksum: str) -> bytes:
        return self.read(path)

    def create(self, path: PurePath, content: bytes) -> None:
        self.write(path, content)

    def make_room(self, path: PurePath) -> None:
        if self.is_folder(path) and not os.path.islink(path):
            self.rename(path, path.with_name(f"{path.name}.{uuid4().hex[:8]}.damaged"))

    def set_aside(self, path: PurePath, place: PurePath) -> None:
        self.rename(path, place)

    def remove(self, paths: Iterable[PurePath]) -> None:
        for path in paths:
            self.unlink(path)

    def remove_temporary(self, folder: PurePath, age: float) -> None:
        for path in Path(folder).glob(".*.tmp"):
            if self.time() - path.stat().st_mtime > age:
                self.unlink(path)

    def names(self, folder: PurePath) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            if exists(nearest_existing(Path(folder))):
                return []
            raise

    def is_file(self, path: PurePath) -> bool:
        return Path(path).is_file()

    def is_folder(self, path: PurePath) -> bool:
        return Path(path).is_dir()

    def why_no_folder(self, path: PurePath) -> str:
        return why_no_folder(Path(path))

    def is_writable(self, root: PurePath) -> bool:
        return os.access(root, os.W_OK)

    def listed(self, root: PurePath) -> Self:
        return self

    def show_command(self, place: PurePath) -> str:
        return f"ls -la {for_shell(place)}"

    def remove_command(self, place: PurePath) -> str:
        return f"rm -r {for_shell(place)}"

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

    def write(self, path: PurePath, content: bytes, *, durable: bool = True) -> None:
        """Write a whole file, or replace it.

        durable: see `replacing`.
        """
        with self.replacing(Path(path), durable=durable) as file:
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

    def rename(self, source: PurePath, target: PurePath) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(source))

    def unlink(self, path: PurePath) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
