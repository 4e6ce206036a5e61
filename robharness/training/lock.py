"""The lock that keeps two processes from training one artefact."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robharness.engine.environment import Job
from robharness.engine.listeners import TrainingListener
from robharness.planning.artefacts import read
from robharness.store.store import Store

POLL_SECONDS = 0.5
"""How often a process that waits for another one looks up."""
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def held(lock: Path, store: Store, listener: TrainingListener, label: str) -> Iterator[Callable[[Job], None]]:
    """Hold the lock, once whoever has it gives it back or dies. Gives a function that writes down who holds it."""
    import fcntl  # which is not everywhere, and nobody needs it to compute

    told = False
    while True:
        file = _open(lock, store)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in _TAKEN:
                if error.errno not in _NO_LOCKS:
                    raise
                store.notes.append(f"the file system of {store} has no locks: train with one process at a time")
                file = _open(lock, store)
                break
            if not told:
                who = read(lock)
                by = (
                    f"process {who['process']} on {who['machine']}"
                    if {"process", "machine"} <= who.keys()
                    else "another"
                )
                listener.message(f"{label}: {by} trains it; this one waits for that")
                told = True
            time.sleep(POLL_SECONDS)
            continue
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # it was given back, and taken away, between the two calls

    def holder(job: Job) -> None:
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "job": job.name}))
        file.flush()

    try:
        holder(Job(name="not yet"))
        yield holder
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


def _open(lock: Path, store: Store) -> Any:
    with store.translate_os_errors():
        return lock.open("a+")
