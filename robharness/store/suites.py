"""Records of suites in a store, by which the store alone is enough for a report.

    suites/<name>-<digest>.json    the outline of a plan

A run writes the record of its suite. The digest is of all that determines cells, labels and tables, so that a changed
suite gets a record of its own, and the shards of a run write the same file. Trade-off: the record repeats what the
suite says, and it is checked when it is read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from robharness.errors import StoreError, UserError, did_you_mean, exists, for_shell
from robharness.findings import finding
from robharness.locations import Location
from robharness.planning.commands import fresh_command
from robharness.planning.outline import PlanOutline
from robharness.planning.outline_files import (
    DIGEST_LENGTH,
    LARGEST_OUTLINE,
    OutlineFile,
    as_record,
    parse,
    stem_of,
)
from robharness.store.agreement import SeenExamples
from robharness.store.expected import ExpectedOutcomes
from robharness.store.failures import Failure
from robharness.store.folder import StoreFolder
from robharness.store.results import CellResult, Results, load_cells
from robharness.store.store import Store
from robharness.text import printable

FOLDER = "suites"
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(@[^/]*)?")
_STEM = re.compile(rf"(.+)-([0-9a-f]{{{DIGEST_LENGTH}}})")


@dataclass(frozen=True, kw_only=True)
class StoredSuite:
    """A suite of which a store has a record.

    store: the folder of the store, as it was given.
    path: of its file, for messages.
    name, digest: from the name of its file.
    file: its content; None if it cannot be read.
    reason: why it cannot be read; empty if it can.
    """

    store: Location
    path: Location
    name: str
    digest: str
    file: OutlineFile | None
    reason: str = ""

    @property
    def problem(self) -> str:
        """The sentence that says why its file cannot be read, and what to do; empty if it can."""
        return (
            f"{self.path} cannot be read: {self.reason}. To write it again, run its suite on this store"
            if self.reason
            else ""
        )

    @property
    def address(self) -> str:
        """The name and the digest, by which commands find this one of several suites of one name."""
        return f"{self.name}@{self.digest}"

    @property
    def outline(self) -> PlanOutline:
        """The plan in plain data. Raises StoreError for a record that cannot be read."""
        if self.file is None:
            raise StoreError(self.problem)
        return self.file.outline(self.store)

    @property
    def cells(self) -> int:
        """The number of its cells, those that wait for a training included. Raises StoreError."""
        suite = self.outline.suite
        return len(suite.cells) + len(suite.pending_cells)

    @property
    def complete_cells(self) -> int:
        """The number of cells whose outcomes are all stored, by the names of their files. Raises StoreError."""
        store, outline = Store(self.store, is_read_only=True).listed(), self.outline
        return sum(not store.missing(entry.key, outline.n) for entry in outline.suite.cells)

    def results(self, limit: int | None = None, *, confidences: bool = False) -> Results:
        """Load its stored outcomes, complete or not, and change nothing in the store.

        The data are not needed: all cells must have the same ids and labels at the same positions. Cells that differ
        from most are left out and named.

        limit: the number of examples, a prefix of the fixed order; those of the last run if None.
        confidences: see `robharness.store.results.load`.
        Raises StoreError for a record that cannot be read, and for a newer schema.
        """
        store, outline = Store(self.store, is_read_only=True).listed(), self.outline
        outline, seen = outline.limited(limit) if limit else outline, SeenExamples()
        checked = {cell.key: ExpectedOutcomes(cell, seen) for cell in outline.cells}
        described = dict(zip(checked, store.map(store.description, checked), strict=True))
        identities = {key: found["identity"] for key, found in described.items() if found is not None}
        for other in stored_suites(store):
            if other.problem and other.name == self.name:
                store.add_finding(finding("record-damaged", other.problem))
        results = load_cells(outline, store, checked, identities, confidences=confidences)
        wrong = seen.disagreeing(list(checked))

        def agreeing(each: CellResult) -> CellResult:
            return _without_outcomes(outline, each, self.store) if each.cell.key in wrong else each

        return results.with_cells(agreeing)


def _without_outcomes(outline: PlanOutline, result: CellResult, store: Location) -> CellResult:
    again = fresh_command(outline, result.cell.name)
    return result.discarded(
        Failure(
            start=0,
            stop=outline.n,
            blame=str(store),
            error=f"its ids or labels are not those of the suite's other cells. To compute it again: {again}",
        )
    )


def record_suite(store: Store, outline: PlanOutline, *, is_computed: bool) -> None:
    """Write the record of a suite, or replace it.

    is_computed: whether outcomes are to be computed; otherwise an equal record remains as it is, with its time.
    Raises StoreError if it cannot be written.
    """
    record = as_record(outline, datetime.fromtimestamp(store.files.time(), UTC))
    path = store.root / FOLDER / f"{stem_of(record)}.json"
    try:
        before = store.record(path)
    except (StoreError, ValueError):  # it is written anew
        before = None
    if is_computed or before is None or record | {"time": before.get("time")} != before:
        store.write_json(path, record)


def read_suite(store: StoreFolder, path: Location) -> StoredSuite:
    """Read the record of a suite, or say why it cannot be read.

    path: of a file in the folder of the records.
    """
    match, file, reason = _STEM.fullmatch(path.stem), None, ""
    try:
        file = parse(store.files.read(path, LARGEST_OUTLINE), path.stem)
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        reason = str(error.strerror)
    name, digest = (match[1], match[2]) if match else (path.stem, "")
    return StoredSuite(store=store.given, path=store.shown(path), name=name, digest=digest, file=file, reason=reason)


def suite_files(store: StoreFolder) -> list[Location]:
    """The files of the records of suites. Raises Unreadable if they cannot be listed."""
    folder = store.root / FOLDER
    return [folder / name for name in store.names(folder) if name.endswith(".json") and not name.startswith(".")]


def stored_suites(store: StoreFolder) -> list[StoredSuite]:
    """List the suites of which a store has records, the one that was run last first, and damaged records at the end.

    Raises Unreadable if they cannot be listed.
    """
    found = store.map(lambda path: read_suite(store, path), suite_files(store))
    oldest = datetime(1, 1, 1, tzinfo=UTC)
    return sorted(found, key=lambda each: each.file.moment if each.file else oldest, reverse=True)


def find_suite(store: StoreFolder, address: str) -> StoredSuite | None:
    """Return the stored suite of this name that was run last, or that of this name and digest.

    address: "NAME" or "NAME@DIGEST"; the first digits of a digest are enough.
    Returns None if there is no such record. Raises UserError for a digest of several, StoreError for a damaged record.
    """
    name, _, digest = address.partition("@")
    found = [each for each in stored_suites(store) if each.name == name and each.digest.startswith(digest)]
    readable = [each for each in found if not each.problem]
    if digest and len(readable) > 1:
        addresses = ", ".join(each.address for each in readable)
        raise UserError(f"'{printable(address)}' is one of several suites of {store}: {addresses}. Try: more digits")
    if found and not readable:
        raise StoreError(found[0].problem)
    return readable[0] if readable else None


def named_suite(suite: object, store: StoreFolder) -> StoredSuite | None:
    """Return the stored suite that an argument names; None for the path of a file, and for anything else.

    suite: "NAME" or "NAME@DIGEST". A file of this name takes precedence.
    Raises UserError if it can only be a name, and the store has no record of it.
    """
    text = os.fspath(suite) if isinstance(suite, str | os.PathLike) else ""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text) or (exists(Path(text)) and not Path(text).is_dir()):
        return None
    found = find_suite(store, text)
    if found is None and not text.endswith((".yaml", ".yml")):
        raise _no_such_suite(store, text)
    return found


def no_suites(store: StoreFolder) -> str:
    """Say why a store has no record of a suite, and what to do: it is empty, or an earlier version wrote it."""
    cells = len(Store(store.root).listed().cell_keys())
    if not cells:
        return f"no suites in {store}: nothing has run there. Try: robharness run --help"
    paths = [run["suite"] for run in store.runs() if isinstance(run.get("suite"), str)]
    path = next((each for each in reversed(paths) if each.endswith((".yaml", ".yml"))), None)
    command = (
        "robharness run --help" if path is None else f"robharness run {for_shell(path)} --store {for_shell(str(store))}"
    )
    return (
        f"no suites in {store}: it has {cells} cells and no record of their suites, as stores of earlier versions. A "
        f"run of the suite writes one, and computes nothing again. Try: {command}"
    )


def _no_such_suite(store: StoreFolder, address: str) -> UserError:
    """Return the error for a name of which the store has no record."""
    known = list(dict.fromkeys(each.name for each in stored_suites(store)))
    listing = f"Try: robharness report --store {for_shell(str(store))}"
    if not known:
        return UserError(f"'{printable(address)}' is no file, and {store} holds no suite of this name. {listing}")
    nearest = did_you_mean(address.partition("@")[0], known)
    nearest = nearest or f"; it holds {', '.join(map(printable, known[:5]))}."
    return UserError(f"'{printable(address)}' is no file, and {store} holds no suite of this name{nearest} {listing}")
