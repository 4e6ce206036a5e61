"""The folders of cells in a store, those that cannot be read among them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robharness.errors import StoreError, for_shell, nearest_existing
from robharness.locations import Location
from robharness.planning.identity import KEY_LENGTH
from robharness.store.folder import StoreFolder, Unreadable

PART = re.compile(r"([0-9]{5,18})-([0-9]{5,18})\.([0-9a-f]{8})\.parquet")
"""The name of a part: its positions, and the checksum of its bytes."""
FAILED = re.compile(r"([0-9]{5,18})-([0-9]{5,18})\.failed\.json")
"""The name of a recorded failure: its positions."""
_GROUP, _KEY = re.compile(r"[0-9a-f]{2}"), re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True, kw_only=True)
class ListedCell:
    """A folder that is a cell by its name or by its files.

    key: its name.
    problem: why it cannot be read as a cell; empty if it can.
    """

    folder: Location
    key: str
    problem: str = ""


def check_folders(store: StoreFolder) -> None:
    """Raise StoreError if what is to be a folder of cells or of records can be none, before anything is computed."""
    cells = store.root / "cells"
    groups = [cells / name for name in store.names(cells) if _GROUP.fullmatch(name)]
    for path in (cells, *groups, store.root / "runs", store.root / "suites"):
        if reason := store.files.why_no_folder(path):
            place = for_shell(store.shown(nearest_existing(Path(path))))
            raise StoreError(f"{store.shown(path)} can be no folder of results: {reason}. Try: ls -ld {place}")


def list_cells(store: StoreFolder) -> Iterator[ListedCell]:
    """Yield the folders of cells in which something is stored, in order, and all that cannot be listed.

    Raises Unreadable if the folder of all cells cannot be listed.
    """
    root = store.root / "cells"
    for group in store.names(root):
        if not _GROUP.fullmatch(group) and not store.files.is_folder(root / group):  # somebody's file
            continue
        try:
            names = store.names(root / group)
        except Unreadable as error:
            yield ListedCell(folder=root / group, key=group, problem=str(error))
            continue
        for name in names:
            if (found := _listed(store, root / group / name)) is not None:
                yield found


def _listed(store: StoreFolder, folder: Location) -> ListedCell | None:
    """Return the cell in a folder, or None if there is none."""
    key, is_key = folder.name, _KEY.fullmatch(folder.name) is not None
    try:
        stored = [name for name in store.names(folder) if PART.fullmatch(name) or FAILED.fullmatch(name)]
        has_description = store.files.is_file(folder / "cell.json")
    except Unreadable as error:
        return ListedCell(folder=folder, key=key, problem=str(error)) if is_key else None
    if not stored and not has_description:
        return None
    if not is_key or folder.parent.name != key[:2]:
        return ListedCell(folder=folder, key=key, problem="its name is no key, or it is in the folder of other keys")
    return ListedCell(folder=folder, key=key)
