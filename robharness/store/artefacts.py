"""Trained weights and features in a store: staged, committed, recorded as failed, locked.

See `robharness.planning.artefacts`.

An artefact is made in `<hash>.training`, which is renamed when all files are in it. What a killed process leaves there
is where the next training resumes. A lock keeps two processes from training one artefact. Trade-off: on file systems
without locks, which some clusters have, a note says so and the user has to take care.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robharness.findings import finding
from robharness.planning.artefacts import (
    FOLDER,
    PROVENANCE,
    TRAINING_SPEC,
    Artefact,
    content_of,
    damage,
    is_in_place,
    read,
)
from robharness.planning.weights import file_digest
from robharness.store.lock import LockFile
from robharness.store.store import Store


class ArtefactStore:
    """The artefacts of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.root = store.root / FOLDER

    @contextmanager
    def lock(self, artefact: Artefact, on_wait: Callable[[str], None]) -> Iterator[LockFile]:
        """Hold the lock of an artefact, after waiting for the process that holds it.

        on_wait: called once with a description of the holder, e.g. "process 12 on gpu1", if this process has to wait.
        """
        with self._store.translate_os_errors():
            artefact.lock.parent.mkdir(parents=True, exist_ok=True)
            lock = LockFile.acquire(artefact.lock, self._store.files, lambda holder: on_wait(_describe_holder(holder)))
        if not lock.is_supported:
            message = f"the file system of {self._store} has no locks: train with one process at a time"
            self._store.add_finding(finding("no-locks", message))
        try:
            yield lock
        finally:
            lock.release()

    def holder(self, artefact: Artefact) -> dict[str, Any]:
        """The process, machine and job that hold the lock of an artefact; empty if it is not locked."""
        return read(artefact.lock)

    def stage(self, artefact: Artefact) -> bool:
        """Make the staging folder with the training spec. Return whether an interrupted training left one."""
        is_resumed = artefact.unfinished.exists()
        self._store.write_json(artefact.unfinished / TRAINING_SPEC, artefact.training_spec)
        return is_resumed

    def commit(self, artefact: Artefact, provenance: Mapping[str, Any]) -> str:
        """Put the staged artefact in its place, and remove the record of earlier failures. Return its sha256."""
        sha256 = file_digest(artefact.unfinished / content_of(artefact.unfinished))
        self._store.write_json(artefact.unfinished / PROVENANCE, {"sha256": sha256, **provenance})
        self._put_in_place(artefact)
        with self._store.translate_os_errors():
            self._store.files.unlink(artefact.failed)
        return sha256

    def is_complete(self, artefact: Artefact) -> bool:
        """Return whether the artefact is in its place, after the rename if its process died just before it."""
        if artefact.folder.exists():
            return True
        if damage(artefact.unfinished):
            return False
        self._put_in_place(artefact)
        return True

    def fail(self, artefact: Artefact, facts: Mapping[str, Any]) -> None:
        """Record why an artefact could not be made, with the keys `error` and `blame`."""
        self._store.write_json(artefact.failed, facts)

    def damage(self, artefact: Artefact) -> str:
        """Describe the damage of an artefact that is in its place; empty if it is intact."""
        return damage(artefact.folder)

    def folders(self) -> list[Path]:
        """The folders of all artefacts that are in their place, and what is no folder there.

        Raises Unreadable if they cannot be listed.
        """
        return [path for name in self._store.names(self.root) if is_in_place(path := self.root / name)]

    def copy(self, folder: Path) -> None:
        """Copy the folder of another store's artefact."""
        with self._store.translate_os_errors():
            self._store.files.copy_folder(folder, self.root / folder.name)

    def _put_in_place(self, artefact: Artefact) -> None:
        with self._store.translate_os_errors():
            self._store.files.put_in_place(artefact.unfinished, artefact.folder)


def _describe_holder(holder: Mapping[str, Any]) -> str:
    known = {"process", "machine"} <= holder.keys()
    return f"process {holder['process']} on {holder['machine']}" if known else "another process"
