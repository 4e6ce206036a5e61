"""Merge of stores: verified copies of the parts, failures, artefacts and records that one store lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from robharness.errors import StoreError, UserError, for_shell, nearest_existing
from robharness.locations import Location
from robharness.planning import artefacts
from robharness.planning.identity import key_of
from robharness.store.artefacts import ArtefactStore
from robharness.store.folder import Unreadable, run_record
from robharness.store.listing import ListedCell, list_cells
from robharness.store.parts import ADDED, Part, Rows
from robharness.store.spans import uncovered
from robharness.store.store import Store
from robharness.store.suites import read_suite, suite_files

T = TypeVar("T")


@dataclass
class Merged:
    """The counts of a merge.

    copied: parts that were copied.
    cells: cells that these parts belong to.
    present: parts that were not copied, since this store has all of their examples.
    common: outcomes that both stores have.
    differing: those of the common outcomes that are not equal; this store's remain.
    artefacts: trained weights that were copied.
    suites: records of suites that were copied.
    problems: one sentence for each cell, part or artefact that was not copied.
    """

    copied: int = 0
    cells: int = 0
    present: int = 0
    common: int = 0
    differing: int = 0
    artefacts: int = 0
    suites: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, cell: Merged) -> None:
        for name in ("copied", "cells", "present", "common", "differing"):
            setattr(self, name, getattr(self, name) + getattr(cell, name))
        self.problems += cell.problems

    def listed(self, entries: Callable[[], Iterable[T]]) -> list[T]:
        """Return the entries of a folder; none, with a problem, if it cannot be listed."""
        try:
            return list(entries())
        except Unreadable as error:
            self.problems.append(str(error))
            return []


def merge(into: Store, source: Store) -> Merged:
    """Copy the parts, failures, artefacts and records that `into` lacks. Merging again resumes, also after a kill.

    A cell is refused if its description is missing, damaged or of another key, or if its model was another network. A
    damaged part is set aside in `source`.
    Raises StoreError if `source` is no store, or if `into` cannot be written.
    """
    into, source = into.listed(), source.listed()
    if not any(source.files.is_folder(source.root / name) for name in ("cells", artefacts.FOLDER)):
        command = source.files.show_command(source.given)
        raise StoreError(f"{source} is no store: it has no folder 'cells'. Try: {command}")
    merged, trained = Merged(), ArtefactStore(source)
    for folder in merged.listed(trained.folders):
        try:
            merged.artefacts += _merge_artefact(ArtefactStore(into), trained, folder)
        except _Refused as error:
            merged.problems.append(f"{trained.place(folder.name)}: {error}")
    slower = into if into.files.parallel > source.files.parallel else source
    for cell in slower.map(partial(_merge_listed, into, source), merged.listed(lambda: list_cells(source))):
        merged.add(cell)
    for path in merged.listed(lambda: suite_files(source)):
        try:
            merged.suites += _merge_suite(into, source, path)
        except _Refused as error:
            merged.problems.append(str(error))
    merged.problems += [*source.notes, *into.notes]
    for path in merged.listed(source.run_files):
        try:
            _merge_run(into, source, path)
        except _Refused as error:
            merged.problems.append(f"{source.shown(path)}: {error}")
    return merged


class _Refused(Exception):
    """The reason why a cell, an artefact or the record of a run is not copied."""


def _merge_run(into: Store, source: Store, path: Location) -> None:
    place = into.root / "runs" / path.name
    if into.files.is_file(place):
        return
    try:
        content = source.files.read(path)
        run_record(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        leave_out = f"To leave it out: {source.remove_command(path)}"
        raise _Refused(f"it is no record of a run ({reason}). {leave_out}") from None
    into.write(place, content)


def _merge_suite(into: Store, source: Store, path: Location) -> bool:
    """Copy the record of a suite unless `into` has that of a later run. Return whether it was copied."""
    place = into.root / path.relative_to(source.root)
    theirs, ours = read_suite(source, path), read_suite(into, place)
    if theirs.file is None:
        leave_out = f"To leave it out: {source.remove_command(path)}"
        raise _Refused(f"{source.shown(path)}: {theirs.reason}. {leave_out}")
    if ours.file is not None and ours.file.moment >= theirs.file.moment:
        return False
    into.write(place, source.files.read(path))
    return True


def _merge_artefact(into: ArtefactStore, source: ArtefactStore, folder: Path) -> bool:
    """Copy an intact artefact unless `into` has it. Return whether it was copied.

    folder: one of the source's `folders`.
    """
    leave_out = f"To leave the artefact out: {source.remove_command(folder)}"
    try:
        damage = artefacts.damage(folder) or _strange_file(folder)
    except UserError as error:
        raise _Refused(str(error)) from None
    if damage:
        raise _Refused(f"{damage}. {leave_out}")
    if key_of(artefacts.read(folder / artefacts.TRAINING_SPEC)) != folder.name:
        raise _Refused(f"{artefacts.TRAINING_SPEC} does not belong to its name. {leave_out}")
    if found := into.why_no_place(folder.name):
        place = into.root / folder.name
        raise _Refused(f"{place} can be no folder: {found}. Try: ls -ld {for_shell(nearest_existing(place))}")
    present = into.sha256(folder.name)
    stored = into.copy(folder) if present is None else present
    if stored != artefacts.sha256_of(folder):
        raise _Refused(
            f"{into.place(folder.name)} has other weights of the same training; it is not replaced, and the cells stay "
            f"separate"
        )
    return present is None


def _strange_file(folder: Path) -> str:
    """Describe what cannot be copied below a folder, such as a named pipe; empty if there is nothing."""
    for path in folder.rglob("*"):
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            return f"its {path.relative_to(folder)} is no file"
    return ""


def _merge_listed(into: Store, source: Store, listed: ListedCell) -> Merged:
    """Copy what `into` lacks of a cell, or return the problem."""
    shown = source.shown(listed.folder)
    if listed.problem:
        leave_out = f"To leave it out: {source.remove_command(listed.folder)}"
        return Merged(problems=[f"{shown}: {listed.problem}. {leave_out}"])
    try:
        return source.retry_reads(listed.key, partial(_merge_cell, into, source, listed.key))
    except (_Refused, Unreadable) as error:
        return Merged(problems=[f"{shown}: {error}"])


def _merge_cell(into: Store, source: Store, key: str) -> Merged:
    theirs, ours = source.description(key), into.description(key)
    leave_out = f"To leave the cell out: {source.remove_command(source.folder(key))}"
    if theirs is None:
        raise _Refused("cell.json cannot be read. To write it again, run its suite on that store")
    if key_of(theirs["identity"]) != key:
        raise _Refused(f"cell.json does not belong to its key. {leave_out}")
    if ours is not None and key_of(ours["identity"]) != key:
        raise _Refused(f"cell.json does not belong to its key in {into}. To write it again, run its suite on {into}")
    their_rows, our_rows = source.read(key, _END), into.read(key, _END)
    networks = {provenance.get("model_state") for rows in (their_rows, our_rows) for provenance in rows.provenance}
    if len(networks) > 1:
        raise _Refused(
            f"its model is another network than the one in {into}, built from the same weights and options; "
            f"compute it again in one of the stores. {leave_out}"
        )
    common, differing = _compare(our_rows, their_rows)
    if ours is None or ours["schema"] < theirs["schema"]:
        file = source.folder(key) / "cell.json"
        try:
            into.write(into.folder(key) / file.name, source.files.read(file))
        except OSError as error:
            raise source.unreadable(file, error) from None
    copied = [part for part in source.parts(key) if _is_new(into, key, part) and into.copy_part(source, key, part)]
    for failure in source.failures(key):
        if into.missing(key, failure.stop, failure.start):
            into.write_failure(key, failure)
    present = len(source.parts(key)) - len(copied)
    return Merged(copied=len(copied), cells=int(bool(copied)), present=present, common=common, differing=differing)


_END = 2**62


def _is_new(into: Store, key: str, part: Part) -> bool:
    return bool(uncovered(into.spans(key), (part.start, part.stop)))


def _compare(ours: Rows, theirs: Rows) -> tuple[int, int]:
    """Count the examples that both have, and those of them for which any column differs."""
    import numpy as np

    common, rows, others = np.intersect1d(ours.positions, theirs.positions, assume_unique=True, return_indices=True)
    differs = np.zeros(len(common), bool)
    for name in (set(ours.names) & set(theirs.names)) if len(common) else ():
        a, b = ours.table[name].to_numpy()[rows], theirs.table[name].to_numpy()[others]
        if object in (a.dtype, b.dtype) and any(isinstance(value, np.ndarray) for value in (*a, *b)):  # vectors
            same = np.array([np.array_equal(one, other) for one, other in zip(a, b, strict=True)], bool)
        else:
            same = np.asarray(a == b, bool)
        if a.dtype.kind == b.dtype.kind == "f":
            is_absent = np.isnan(a), np.isnan(b)  # in a column that one of them lacks, also beside a number
            same |= is_absent[0] | is_absent[1] if name in ADDED else is_absent[0] & is_absent[1]
        differs |= ~same
    return len(common), int(differs.sum())
