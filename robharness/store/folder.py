"""The folder of a store: its name in messages, its findings, the records of runs, and writes and their errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from robharness.errors import StoreError, exists, for_shell, nearest_existing
from robharness.findings import Finding, finding
from robharness.planning.files import LARGEST_RECORD, json_object, read_record
from robharness.reading import NotAFile, read_regular
from robharness.store.files import FileSystem

_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
"""Errors of writing that `ls` explains, as it does those of rights, and not the room on the disk."""


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
    """The folder of a store, which is made when the first file is written.

    root: its absolute path, since a plugin may change the working directory. Its text is the path as given.
    files: the file system.
    findings: about the store itself: damaged files, no fsync, no locks.
    """

    def __init__(self, root: str | Path, files: FileSystem | None = None) -> None:
        self.root, self._given = Path(root).absolute(), str(root)
        self.files = files or FileSystem()
        self.findings: list[Finding] = []

    def __str__(self) -> str:
        return self._given

    def shown(self, path: Path) -> Path:
        """Return a path for messages: below the folder as it was given, if the path lies in the store."""
        return Path(self._given) / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    @property
    def notes(self) -> list[str]:
        """The findings as sentences."""
        return [str(found) for found in self.findings]

    def add_finding(self, found: Finding) -> None:
        """Add a finding about the store, once."""
        if found not in self.findings:
            self.findings.append(found)

    def add_damage(self, path: Path, reason: object, effect: str) -> None:
        """Add a finding about a damaged record.

        effect: what the damage means for a run, as the end of the sentence.
        """
        self.add_finding(finding("record-damaged", f"{self.shown(path)} is damaged ({reason}); {effect}"))

    # --- runs --------------------------------------------------------------------------------------------------

    def new_run(self) -> Path:
        """Return a path for the record of a run. It is unique even if clocks are wrong."""
        moment = datetime.fromtimestamp(self.files.time(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.root / "runs" / f"{moment}-{os.getpid()}-{uuid4().hex[:8]}.json"

    def run_files(self) -> list[Path]:
        """The files of the records of runs, the latest last."""
        return [self.root / "runs" / name for name in self.names(self.root / "runs") if name.endswith(".json")]

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, the latest last. Records that cannot be read are left out."""
        found = []
        for path in self.run_files():
            with contextlib.suppress(OSError, ValueError):
                found.append(run_record(read_regular(path, LARGEST_RECORD)))
        return found

    # --- reading -----------------------------------------------------------------------------------------------

    def names(self, folder: Path) -> list[str]:
        """The names of the files in a folder, in order; none if there is no such folder.

        Raises Unreadable if it cannot be listed.
        """
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            is_absent, nearest = isinstance(error, FileNotFoundError), nearest_existing(folder)
            if is_absent and exists(nearest):
                return []
            shown = self.shown(nearest)
            reason = f"{shown} is a link to nothing" if is_absent else error.strerror
            raise Unreadable(f"the store {self} cannot be read: {reason}. Try: ls -ld {for_shell(shown)}") from None

    def record(self, path: Path) -> dict[str, Any] | None:
        """Read a file with one JSON object. Returns None if there is no such file.

        Raises ValueError, with the reason, if it is damaged: other content, or no file at all. Raises Unreadable if it
        cannot be read.
        """
        try:
            return read_record(path)
        except FileNotFoundError:
            if path.is_symlink():
                raise ValueError("it is a link to nothing") from None
            return None
        except NotAFile as error:
            raise ValueError(error.strerror) from None
        except OSError as error:
            if error.errno in (0, errno.ELOOP):
                raise ValueError(error.strerror) from None
            raise self.unreadable(path, error) from None

    def unreadable(self, path: Path, error: OSError) -> Unreadable:
        """Return the error for a file that cannot be read."""
        folder = self.shown(nearest_existing(path.parent))
        return Unreadable(f"{self.shown(path)} cannot be read: {error.strerror}. Try: ls -l {for_shell(folder)}")

    # --- writing -----------------------------------------------------------------------------------------------

    def write_json(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write or replace a file with one JSON object, e.g. the record of a run at a path from `new_run`."""
        self.write(path, json.dumps(dict(facts), indent=1, default=str).encode())

    def write(self, path: Path, content: bytes) -> None:
        """Write or replace a file. A folder of this name is set aside. Raises StoreError."""
        with self.translate_os_errors():
            if path.is_dir() and not path.is_symlink():
                self.files.rename(path, path.with_name(f"{path.name}.{uuid4().hex[:8]}.damaged"))
            self.files.write(path, content)

    @contextlib.contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        """Raise StoreError for an OSError of the block, which writes. Note it if the file system has no fsync."""
        try:
            yield
        except OSError as error:
            folder, name = nearest_existing(self.root), error.filename2 or error.filename  # the target of a rename
            place = nearest_existing(Path(os.fsdecode(name))) if isinstance(name, str | bytes) else folder
            command = f"df -h {for_shell(self.shown(folder))}"
            if error.errno in _NO_RIGHTS:
                command = f"ls -ld {for_shell(self.shown(folder))}"
            elif error.errno in _IN_THE_WAY or not exists(place):  # a link to nothing
                command = f"ls -ld {for_shell(self.shown(place))}"
            raise StoreError(
                f"the store {self} cannot be written: {error.strerror or error}. What is stored is intact. "
                f"Try: {command}"
            ) from error
        finally:
            if self.files.lacks_fsync:
                message = (
                    f"the file system of the store {self} has no fsync: a power cut may damage the latest "
                    "outcomes; the next run of the suite finds and computes these again"
                )
                self.add_finding(finding("no-fsync", message))
