"""Put what another store has into this one: a copy of files, each of them checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from robharness.errors import StoreError
from robharness.planning import artefacts
from robharness.planning.identity import key_of
from robharness.store.spans import uncovered
from robharness.store.store import Part, Rows, Store


@dataclass
class Merged:
    """What came of it. copied: parts; cells: that they belong to; there: parts whose examples were there already;
    artefacts: weights that a suite trained, copied.

    differing: outcomes that both stores have and that are not the same, of `common`; this store's stay.
    problems: what was not copied, a sentence each.
    """

    copied: int = 0
    cells: int = 0
    there: int = 0
    common: int = 0
    differing: int = 0
    artefacts: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, cell: Merged) -> None:
        for name in ("copied", "cells", "there", "common", "differing"):
            setattr(self, name, getattr(self, name) + getattr(cell, name))


def merge(into: Store, source: Store) -> Merged:
    """Copy the parts, failures and run records that `into` lacks. Merging again, after a kill as well, goes on.

    A cell is refused where its description does not belong to its key or its model was another network; a damaged
    part is set aside in the source. Raises StoreError where there is no store, or where nothing can be written.
    """
    if not any((source.root / folder).is_dir() for folder in ("cells", artefacts.FOLDER)):
        raise StoreError(f"{source} is no store: it has no folder 'cells'. See: ls {source}")
    merged = Merged()
    for folder in sorted((source.root / artefacts.FOLDER).glob("*/")):
        try:
            merged.artefacts += _merge_artefact(into, folder)
        except _Refused as error:
            merged.problems.append(f"{folder}: {error}")
    for key in source.cell_keys():
        try:
            cell = source.again(key, lambda key=key: _merge_cell(into, source, key))  # type: ignore[misc]
            merged.add(cell)
        except _Refused as error:
            merged.problems.append(f"{source.folder(key)}: {error}")
    merged.problems += [*source.notes, *into.notes]
    for path in sorted(source.root.glob("runs/*.json")):
        into.copy_file(path, into.root / "runs" / path.name)
    return merged


class _Refused(Exception):
    pass


def _merge_artefact(into: Store, folder: Path) -> bool:
    """Copy an artefact that is whole, unless it is there; say whether it was copied. Unfinished ones stay."""
    place = into.root / artefacts.FOLDER / folder.name
    if folder.name.startswith(".") or folder.name.endswith(artefacts.UNFINISHED):
        return False
    if trouble := artefacts.damage(folder):
        raise _Refused(f"{trouble}; to leave the artefact out: rm -r it")
    if key_of(artefacts.read(folder / artefacts.RECIPE)) != folder.name:
        raise _Refused(f"{artefacts.RECIPE} does not belong to its name; to leave the artefact out: rm -r it")
    if place.exists():
        if artefacts.sha256_of(place) != artefacts.sha256_of(folder):
            raise _Refused(f"{place} has other weights of the same recipe, and stays; cells of both stay apart")
        return False
    into.copy_folder(folder, place)
    return True


def _merge_cell(into: Store, source: Store, key: str) -> Merged:
    theirs, ours = source.description(key), into.description(key)
    if theirs is None:
        raise _Refused("cell.json cannot be read; to mend it: run its suite again on that store")
    if key_of(theirs["identity"]) != key or (ours is not None and ours["identity"] != theirs["identity"]):
        raise _Refused("cell.json does not belong to its key; to leave the cell out: rm -r it")
    found = source.read(key, _END)
    present = into.read(key, _END)
    networks = {way.get("model_state") for rows in (found, present) for way in rows.provenance}
    if len(networks) > 1:
        raise _Refused(
            f"its model is another network than the one in {into}, from the same weights and options; "
            "compute one of the two again with --fresh"
        )
    common, differing = _compare(present, found)
    into.copy_file(source.folder(key) / "cell.json", into.folder(key) / "cell.json")
    copied = [part for part in source.parts(key) if _is_new(into, key, part) and into.copy_part(source, key, part)]
    for failure in source.failures(key):
        if into.missing(key, failure.stop, failure.start):
            into.write_failure(key, failure)
    there = len(source.parts(key)) - len(copied)
    return Merged(copied=len(copied), cells=int(bool(copied)), there=there, common=common, differing=differing)


_END = 2**62


def _is_new(into: Store, key: str, part: Part) -> bool:
    return bool(uncovered(into.spans(key), (part.start, part.stop)))


def _compare(ours: Rows, theirs: Rows) -> tuple[int, int]:
    """How many examples both have, and for how many of them anything differs."""
    import numpy as np

    common, rows, others = np.intersect1d(ours.positions, theirs.positions, assume_unique=True, return_indices=True)
    differs = np.zeros(len(common), bool)
    for name in (set(ours.names) & set(theirs.names)) if len(common) else ():
        a, b = ours.table[name].to_numpy()[rows], theirs.table[name].to_numpy()[others]
        if any(isinstance(value, np.ndarray) for value in (*a[:1], *b[:1])):  # vectors
            same = np.array([np.array_equal(one, other) for one, other in zip(a, b, strict=True)], bool)
        else:
            same = np.asarray(a == b, bool)
        if a.dtype.kind == b.dtype.kind == "f":
            same |= np.isnan(a) & np.isnan(b)
        differs |= ~same
    return len(common), int(differs.sum())
