"""The place of a store: its name in messages, its findings, the records of runs, and writes and their errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

from robharness.errors import StoreError, exists, for_shell, nearest_existing
from robharness.findings import Finding, finding
from robharness.locations import Location, absolute, location
from robharness.planning.files import LARGEST_RECORD, json_object
from robharness.reading import NotAFile
from robharness.store.files import RemoteError, StoreFiles, open_files

_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
"""Errors of writing that `ls` explains, as it does those of rights, and not the room on the disk."""


T = TypeVar("T")
R = TypeVar("R")


def run_record(content: bytes) -> dict[str, Any]:
    """Return the record of a run that a file holds. Raises ValueError, with the reason, if it holds none."""
    record = json_object(content)
    speeds = record.get("speed", {})
    if not _is_count(record.get("workers", 1)) or not isinstance(speeds, dict):
        raise ValueError("it has no number of workers, or no speeds")
    for speed in speeds.values():
        if not isinstance(speed, dict) or not all(_is_count(speed.get(name, 0)) for name in _SPEED):
            raise ValueError("its speeds are no numbers")
    return record


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < 2**63


_SPEED = ("rows", "forward", "backward", "seconds", "waited")


class Unreadable(StoreError):
    """A file or a folder of a store that cannot be read, although it may be intact."""


class StoreFolder:
    """The place of a store: a folder, which is made when the first file is written, or a prefix of an object store.

    given: its path, as it was given.
    root: its absolute path, since a plugin may change the working directory.
    files: its file system.
    findings: about the store itself: damaged files, no fsync, no locks.
    """

    def __init__(self, root: str | Location, files: StoreFiles | None = None, *, is_read_only: bool = False) -> None:
        """Open a store.

        files: in place of those of the root.
        is_read_only: whether every change is refused, for reports from a store alone.
        Raises UserError if the library of an object store is not installed.
        """
        self.given = location(root)
        self._text = str(root) if isinstance(self.given, Path) else str(self.given)
        self.root = absolute(self.given)
        self.files: StoreFiles = files or open_files(self.root, is_read_only=is_read_only)
        self.findings: list[Finding] = []

    def __str__(self) -> str:
        return self._text

    def listed(self) -> Self:
        """Return the same store with one listing of all its files, for reading much of it; see `StoreFiles.listed`.

        Raises Unreadable if an object store cannot be listed.
        """
        same = copy(self)
        try:
            same.files = self.files.listed(self.root)
        except RemoteError as error:
            raise self.unreadable(self.root, error) from None
        return same

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Apply a function that waits for the store to each item, several at once if that pays off."""
        if self.files.parallel == 1:
            return list(map(function, items))
        with ThreadPoolExecutor(self.files.parallel) as threads:
            return list(threads.map(function, items))

    def shown(self, path: Location) -> Location:
        """Return a path for messages: below the folder as it was given, if the path lies in the store."""
        return self.given / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    @property
    def notes(self) -> list[str]:
        """The findings as sentences."""
        return [str(found) for found in self.findings]

    def add_finding(self, found: Finding) -> None:
        """Add a finding about the store, once."""
        if found not in self.findings:
            self.findings.append(found)

    def add_damage(self, path: Location, reason: object, effect: str) -> None:
        """Add a finding about a damaged record.

        effect: what the damage means for a run, as the end of the sentence.
        """
        self.add_finding(finding("record-damaged", f"{self.shown(path)} is damaged ({reason}); {effect}"))

    # --- runs --------------------------------------------------------------------------------------------------

    def new_run(self) -> Location:
        """Return a path for the record of a run. It is unique even if clocks are wrong."""
        moment = datetime.fromtimestamp(self.files.time(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.root / "runs" / f"{moment}-{os.getpid()}-{uuid4().hex[:8]}.json"

    def run_files(self) -> list[Location]:
        """The files of the records of runs, the latest last."""
        return [self.root / "runs" / name for name in self.names(self.root / "runs") if name.endswith(".json")]

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, the latest last. Records that cannot be read are left out."""
        return [record for record in self.map(self._run, self.run_files()) if record is not None]

    def _run(self, path: Location) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            return run_record(self.files.read(path, LARGEST_RECORD))
        return None

    # --- reading -----------------------------------------------------------------------------------------------

    def names(self, folder: Location) -> list[str]:
        """The names of the files in a folder, in order; none if there is no such folder.

        Raises Unreadable if it cannot be listed.
        """
        try:
            return self.files.names(folder)
        except RemoteError as error:
            reason, command = error.strerror, error.hint
        except OSError as error:
            shown = self.shown(nearest_existing(Path(folder)))
            is_absent = isinstance(error, FileNotFoundError)
            reason = f"{shown} is a link to nothing" if is_absent else error.strerror
            command = f"ls -ld {for_shell(shown)}"
        raise Unreadable(f"the store {self} cannot be read: {reason}. Try: {command}")

    def record(self, path: Location) -> dict[str, Any] | None:
        """Read a file with one JSON object. Returns None if there is no such file.

        Raises ValueError, with the reason, if it is damaged: other content, or no file at all. Raises Unreadable if it
        cannot be read.
        """
        try:
            return json_object(self.files.read(path, LARGEST_RECORD))
        except FileNotFoundError:
            return None
        except NotAFile as error:
            raise ValueError(error.strerror) from None
        except OSError as error:
            if error.errno in (0, errno.ELOOP):
                raise ValueError(error.strerror) from None
            raise self.unreadable(path, error) from None

    def unreadable(self, path: Location, error: OSError) -> Unreadable:
        """Return the error for a file that cannot be read."""
        if isinstance(error, RemoteError):
            command = error.hint
        elif isinstance(path, Path):
            command = f"ls -l {for_shell(self.shown(nearest_existing(path.parent)))}"
        else:
            command = self.files.show_command(self.shown(path.parent))
        return Unreadable(f"{self.shown(path)} cannot be read: {error.strerror}. Try: {command}")

    def remove_command(self, place: Location) -> str:
        """Return the command that removes a place of the store, with all that is in it."""
        return self.files.remove_command(self.shown(place))

    # --- writing -----------------------------------------------------------------------------------------------

    def write_json(self, path: Location, facts: Mapping[str, Any]) -> None:
        """Write or replace a file with one JSON object, e.g. the record of a run at a path from `new_run`."""
        self.write(path, json.dumps(dict(facts), indent=1, default=str).encode())

    def write(self, path: Location, content: bytes) -> None:
        """Write or replace a file. A folder of this name is set aside. Raises StoreError."""
        with self.translate_os_errors():
            self.files.make_room(path)
            self.files.write(path, content)

    def create(self, path: Location, content: bytes) -> None:
        """Write a file whose name determines its content, such as a part. Raises StoreError."""
        with self.translate_os_errors():
            self.files.make_room(path)
            self.files.create(path, content)

    @contextlib.contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        """Raise StoreError for an OSError of the block, which writes. Note it if the file system has no fsync."""
        try:
            yield
        except RemoteError as error:
            raise self._unwritable(error, error.hint) from error
        except OSError as error:
            folder, name = (
                nearest_existing(Path(self.root)),
                error.filename2 or error.filename,
            )  # the target of a rename
            place = nearest_existing(Path(os.fsdecode(name))) if isinstance(name, str | bytes) else folder
            command = f"df -h {for_shell(self.shown(folder))}"
            if error.errno in _NO_RIGHTS:
                command = f"ls -ld {for_shell(self.shown(folder))}"
            elif error.errno in _IN_THE_WAY or not exists(place):  # a link to nothing
                command = f"ls -ld {for_shell(self.shown(place))}"
            raise self._unwritable(error, command) from error
        finally:
            if self.files.lacks_fsync:
                message = (
                    f"the file system of the store {self} has no fsync: a power cut may damage the latest "
                    "outcomes; the next run of the suite finds and computes these again"
                )
                self.add_finding(finding("no-fsync", message))

    def _unwritable(self, error: OSError, command: str) -> StoreError:
        reason = error.strerror or error
        return StoreError(f"the store {self} cannot be written: {reason}. What is stored is intact. Try: {command}")
