"""Trained weights and features in a store: staged, committed, recorded as failed, locked.

See `robharness.planning.artefacts`.

An artefact is made in `<hash>.training`, which is renamed when all files are in it. What a killed process leaves there
is where the next training resumes. A lock keeps two processes from training one artefact. Trade-off: on file systems
without locks, which some clusters have, and in object stores a note says so and the user has to take care.

Those of an object store are made in a folder of this machine, and uploaded before the rename; see
`robharness.store.remote_artefacts`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from robharness.errors import why_no_folder
from robharness.findings import finding
from robharness.locations import Location, local_folder
from robharness.planning.artefacts import (
    FOLDER,
    PROVENANCE,
    TRAINING_SPEC,
    Artefact,
    content_of,
    damage,
    is_in_place,
    listing,
    read,
    sha256_of,
)
from robharness.planning.cells import Plan
from robharness.planning.weights import file_digest
from robharness.store.files import FileSystem
from robharness.store.folder import StoreFolder
from robharness.store.lock import LockFile, describe_holder

if TYPE_CHECKING:
    from robharness.store.remote_artefacts import RemoteArtefacts


class ArtefactStore:
    """The artefacts of a store.

    root: their folder on this machine.
    local_files: the file system of that folder.
    """

    def __init__(self, store: StoreFolder) -> None:
        self._store = store
        self.root = local_folder(store.root) / FOLDER
        self._remote = None if isinstance(store.root, Path) else self._open_remote(self.root)
        self._local = StoreFolder(local_folder(store.root)) if self._remote else store
        self.local_files = store.files if isinstance(store.files, FileSystem) else FileSystem()

    @contextmanager
    def lock(self, artefact: Artefact, on_wait: Callable[[str], None]) -> Iterator[LockFile]:
        """Hold the lock of an artefact, after waiting for the process that holds it.

        on_wait: called once with a description of the holder, e.g. "process 12 on gpu1", if this process has to wait.
        """
        with self._local.translate_os_errors():
            artefact.lock.parent.mkdir(parents=True, exist_ok=True)
            lock = LockFile.acquire(artefact.lock, self.local_files, lambda holder: on_wait(describe_holder(holder)))
        if self._remote is not None:
            message = f"the object store {self._store} has no locks: train on one machine at a time"
            self._store.add_finding(finding("no-locks", message))
        elif not lock.is_supported:
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
        self._local.write_json(artefact.unfinished / TRAINING_SPEC, artefact.training_spec)
        return is_resumed

    def commit(self, artefact: Artefact, provenance: Mapping[str, Any]) -> str:
        """Put the staged artefact in its place, and remove the record of earlier failures. Return its sha256."""
        sha256 = file_digest(artefact.unfinished / content_of(artefact.unfinished))
        self._local.write_json(artefact.unfinished / PROVENANCE, {"sha256": sha256, **provenance})
        self._put_in_place(artefact)
        with self._local.translate_os_errors():
            self.local_files.unlink(artefact.failed)
        return sha256_of(artefact.folder)

    def is_complete(self, artefact: Artefact) -> bool:
        """Return whether the artefact is in its place, after the rename if its process died just before it."""
        if artefact.folder.exists() or (self._remote is not None and self._remote.fetch([artefact.hash])):
            return True
        if damage(artefact.unfinished):
            return False
        self._put_in_place(artefact)
        return True

    def fail(self, artefact: Artefact, facts: Mapping[str, Any]) -> None:
        """Record why an artefact could not be made, with the keys `error` and `blame`."""
        self._local.write_json(artefact.failed, facts)
        if self._remote is not None:
            self._remote.fail(artefact.hash, facts)

    def damage(self, artefact: Artefact) -> str:
        """Describe the damage of an artefact that is in its place; empty if it is intact."""
        return damage(artefact.folder)

    def folders(self) -> list[Path]:
        """The folders of all artefacts that are in their place, and what is no folder there.

        Raises Unreadable if they cannot be listed.
        """
        if self._remote is not None:
            hashes = self._remote.hashes()
            self._remote.fetch(name for name in hashes if not (self.root / name).exists())
            return [self.root / name for name in hashes]
        return [path for name in self._local.names(self.root) if is_in_place(path := self.root / name)]

    def place(self, name: str) -> Location:
        """The place of the artefact of this hash."""
        return self._store.root / FOLDER / name

    def why_no_place(self, name: str) -> str:
        """Return why the artefact of this hash can have no place, as the end of a sentence; empty if it can."""
        return why_no_folder(self.root / name)

    def sha256(self, name: str) -> str | None:
        """Return the sha256 of the artefact of this hash; None if it is not in its place."""
        if self._remote is not None:
            return self._remote.sha256(name) or None
        return sha256_of(self.root / name) if (self.root / name).exists() else None

    def copy(self, folder: Path) -> str:
        """Copy the folder of another store's artefact, and return the sha256 of the one that is stored then."""
        if self._remote is not None:
            return self._remote.publish(folder, folder.name)
        with self._store.translate_os_errors():
            self.local_files.copy_folder(folder, self.root / folder.name)
        return sha256_of(folder)

    def remove_command(self, folder: Path) -> str:
        """Return the command that removes an artefact.

        folder: one of `folders`.
        """
        return self._store.remove_command(self.place(folder.name))

    def listing(self) -> list[dict[str, Any]]:
        """List the artefacts of an object store, as `robharness.planning.artefacts.listing` lists those of a folder."""
        with TemporaryDirectory(prefix="robharness-") as folder:
            self._open_remote(Path(folder, FOLDER)).sketch()
            return listing(Path(folder))

    def fetch_for(self, plan: Plan) -> bool:
        """Copy what a plan waits for from an object store to this machine. Return whether something was copied."""
        artefacts = {artefact.hash for model in plan.untrained for artefact in model.waits_for}
        return self._remote is not None and self._remote.fetch(sorted(artefacts))

    def withdraw_copies(self) -> None:
        """Make copies unfinished whose artefacts an object store does not have any more."""
        if self._remote is not None:
            self._remote.withdraw_copies()

    def _open_remote(self, folder: Path) -> RemoteArtefacts:
        from robharness.store.remote_artefacts import RemoteArtefacts

        return RemoteArtefacts(self._store, folder)

    def _put_in_place(self, artefact: Artefact) -> None:
        if self._remote is not None:
            stored = self._remote.publish(artefact.unfinished, artefact.hash)
            if stored != sha256_of(artefact.unfinished):
                shutil.rmtree(artefact.unfinished)
                self._remote.fetch([artefact.hash])
                return
        with self._local.translate_os_errors():
            self.local_files.put_in_place(artefact.unfinished, artefact.folder)


def planned_with_artefacts(make_plan: Callable[[], Plan], store: Location) -> Plan:
    """Return a plan, after what it needs of an object store was copied to this machine.

    make_plan: plans with the copies that are there.
    """
    if isinstance(store, Path):
        return make_plan()
    artefacts = ArtefactStore(StoreFolder(store))
    artefacts.withdraw_copies()
    planned = make_plan()
    while artefacts.fetch_for(planned):
        planned = make_plan()
    return planned
