"""A lock file, which records who holds it.

The lock is the operating system's, which releases the lock of a dead process: there are no stale locks.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from robharness.planning.artefacts import read
from robharness.store.files import FileSystem

POLL_SECONDS = 0.5
"""Seconds between two tries to take a lock that another process holds."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class LockFile:
    """A lock file that this process holds.

    is_supported: whether the file system has locks; without, the file only records who made it.
    """

    def __init__(self, path: Path, files: FileSystem, file: IO[str], *, is_supported: bool) -> None:
        self._path, self._files, self._file = path, files, file
        self.is_supported = is_supported
        self.record("not yet")

    @classmethod
    def acquire(cls, path: Path, files: FileSystem, on_wait: Callable[[Mapping[str, Any]], None]) -> LockFile:
        """Take the lock, after waiting for the process that holds it to release it or to die.

        on_wait: called once, with the record of the holder, if this process has to wait.
        Raises OSError if the file cannot be opened.
        """
        is_waiting = False
        while True:
            file = path.open("a+", encoding="utf-8")
            try:
                is_locked = files.lock(file.fileno())
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return cls(path, files, file, is_supported=False)
                file.close()
                raise
            if is_locked and _is_at(file, path):
                return cls(path, files, file, is_supported=True)
            file.close()
            if is_locked:  # its holder removed the file between the two calls
                continue
            if not is_waiting:
                on_wait(read(path))
                is_waiting = True
            time.sleep(POLL_SECONDS)

    def record(self, job: str) -> None:
        """Write into the file for which job the lock is held; other processes read the record without the lock."""
        self._file.seek(0)
        self._file.truncate()
        json.dump({"process": os.getpid(), "machine": socket.gethostname(), "job": job}, self._file)
        self._file.flush()

    def release(self) -> None:
        """Remove the file and give the lock back."""
        with suppress(OSError):
            self._files.unlink(self._path)  # first, so that a process that waits for this file opens a new one
        with suppress(OSError):
            self._files.unlock(self._file.fileno())  # also for child processes that share the open file
        self._file.close()


def describe_holder(holder: Mapping[str, Any]) -> str:
    """Return the process that a record names as text, e.g. "process 12 on gpu1"."""
    known = {"process", "machine"} <= holder.keys()
    return f"process {holder['process']} on {holder['machine']}" if known else "another process"


def _is_at(file: IO[str], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
