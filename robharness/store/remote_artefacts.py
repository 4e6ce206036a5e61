"""Artefacts in an object store, and their copies in a folder of this machine, where trainers and networks need files.

    artefacts/<hash>/provenance.json        the record that makes an artefact complete: created last, and only once
    artefacts/<hash>/<sha256>/<file>        its other files, below the sha256 of its weights or features
    artefacts/<hash>.failed.json            why the last training failed

Two machines that train one artefact at once may get different weights. They write below different names, and the record
that was created first decides.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from robharness.errors import StoreError
from robharness.planning.artefacts import (
    FOLDER,
    METRICS,
    PROVENANCE,
    TRAINING_SPEC,
    UNFINISHED,
    damage,
    is_in_place,
    sha256_of,
)
from robharness.store.files import FileSystem, RemoteError
from robharness.store.folder import StoreFolder
from robharness.store.objects import ObjectFiles

_FAILED = ".failed.json"


class RemoteArtefacts:
    """The artefacts of a store in an object store.

    store: the store.
    folder: of this machine, for copies of them.
    """

    def __init__(self, store: StoreFolder, folder: Path) -> None:
        assert isinstance(store.files, ObjectFiles)
        self._store, self._files, self._folder, self._local_files = store, store.files, folder, FileSystem()
        self._root = store.root / FOLDER

    def hashes(self) -> list[str]:
        """Return the hashes of all complete artefacts. Raises Unreadable if they cannot be listed."""
        names = [name for name in self._store.names(self._root) if not name.endswith(_FAILED)]
        return [name for name, sha256 in zip(names, self._store.map(self.sha256, names), strict=True) if sha256]

    def sha256(self, name: str) -> str:
        """Return the sha256 of the complete artefact of this hash; empty if there is none.

        Raises StoreError if its record is damaged, Unreadable if it cannot be read.
        """
        path = self._root / name / PROVENANCE
        try:
            return str((self._store.record(path) or {}).get("sha256", ""))
        except ValueError as reason:
            raise self._damaged(name, f"its {PROVENANCE}: {reason}") from None

    def publish(self, folder: Path, name: str) -> str:
        """Upload an artefact. Return the sha256 of the stored one, which is another if another machine was faster.

        folder: of its files, which are complete.
        """
        ours, place = sha256_of(folder), self._root / name
        if not self.sha256(name):
            files = [path for path in folder.rglob("*") if path.is_file() and path != folder / PROVENANCE]
            with self._store.translate_os_errors():
                self._store.map(lambda path: self._files.upload(path, place / ours / path.relative_to(folder)), files)
                self._files.claim(place / PROVENANCE, (folder / PROVENANCE).read_bytes())
                self._files.unlink(self._root / f"{name}{_FAILED}")
        stored = self.sha256(name)
        if stored != ours:
            with self._store.translate_os_errors():
                self._files.remove([place / ours / each for each in self._files.sizes(place / ours)])
        return stored

    def fail(self, name: str, facts: Mapping[str, Any]) -> None:
        """Store the record of a failed training."""
        self._store.write_json(self._root / f"{name}{_FAILED}", facts)

    def fetch(self, names: Iterable[str]) -> bool:
        """Copy artefacts, and the records of failed trainings, to this machine. Return whether there was an artefact.

        names: hashes of artefacts that are not in the folder.
        Raises StoreError for damaged files.
        """
        has_fetched = False
        for name in names:
            failed = self._folder / f"{name}{_FAILED}"
            self._local_files.unlink(failed)
            if self.sha256(name):
                self._download(name, self._folder / name)
                has_fetched = True
            elif (record := self._store.record(self._root / failed.name)) is not None:
                StoreFolder(self._folder).write_json(failed, record)
        return has_fetched

    def withdraw_copies(self) -> None:
        """Make copies of artefacts that the store lacks unfinished: a training puts them into the store again."""
        if not self._folder.is_dir():
            return
        copies = [path for path in self._folder.iterdir() if is_in_place(path)]  # read first: what is here was stored
        stored = set(self._store.names(self._root)) if copies else set()
        for path in copies:
            if path.name not in stored:
                with suppress(OSError):  # the files of a training remain, and the copy is removed
                    self._local_files.rename(path, path.with_name(f"{path.name}{UNFINISHED}"))
                shutil.rmtree(path, ignore_errors=True)

    def sketch(self) -> None:
        """Make a folder for each artefact with its records, and with empty files of the size of the others."""
        self._store.map(self._sketch, self.hashes())

    def _sketch(self, name: str) -> None:
        source, place = self._root / name / self.sha256(name), self._folder / name
        try:
            for each, size in self._files.sizes(source).items():
                (place / each).parent.mkdir(parents=True, exist_ok=True)
                if each in (TRAINING_SPEC, METRICS):
                    self._files.download(source / each, place / each)
                else:
                    (place / each).touch()
                    os.truncate(place / each, size)
            self._files.download(self._root / name / PROVENANCE, place / PROVENANCE)
        except OSError as error:
            raise self._store.unreadable(source, error) from None

    def _download(self, name: str, place: Path) -> None:
        source, temporary = self._root / name / self.sha256(name), place.with_name(f".{name}.{uuid4().hex}.tmp")
        try:
            paths = {each: source / each for each in self._files.sizes(source)}
            paths[PROVENANCE] = self._root / name / PROVENANCE
            for each in paths:
                (temporary / each).parent.mkdir(parents=True, exist_ok=True)
            self._store.map(lambda each: self._files.download(paths[each], temporary / each), paths)
            if reason := damage(temporary):
                raise self._damaged(name, reason)
            try:
                self._local_files.put_in_place(temporary, place)
            except OSError:
                if not place.exists():  # else another process was faster
                    raise
        except (RemoteError, FileNotFoundError) as error:
            raise self._store.unreadable(source, error) from None
        except OSError as error:  # of this machine, e.g. if its disk is full
            with StoreFolder(self._folder).translate_os_errors():
                raise error from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _damaged(self, name: str, reason: str) -> StoreError:
        place = self._root / name
        command = self._store.remove_command(place)
        return StoreError(
            f"the artefact {place} is damaged: {reason}. To train it again, remove it and run the suite. Try: {command}"
        )
