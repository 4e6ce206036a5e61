"""Results on disk: immutable parts of cells, written atomically, so that running again resumes.

    cells/<aa>/<key>/cell.json                         the description of the cell
    cells/<aa>/<key>/00000-00256.1c291ca3.parquet      outcomes of the examples at positions 0 to 255
    cells/<aa>/<key>/00000-00256.failed.json           why these outcomes are missing
    runs/<time>-<process>-<random>.json                a record of each run

Coverage follows from the file names; there is no index that could be wrong. The name of a part carries the CRC-32 of
its bytes, so that every reader notices what a disk or a copy did to it later. Such a part is set aside and counts as
missing. Trade-off: a part is read whole even for one of its columns, at gigabytes a second; a report asks for all that
it needs at once.
"""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from robharness.errors import StoreError
from robharness.findings import finding
from robharness.locations import Location
from robharness.planning.cells import Cell
from robharness.planning.identity import key_of
from robharness.reading import NotAFile
from robharness.store.failures import Failure
from robharness.store.files import StoreFiles
from robharness.store.folder import StoreFolder
from robharness.store.listing import FAILED, PART, list_cells
from robharness.store.parts import (
    Check,
    Counts,
    DamagedPart,
    Part,
    PartContent,
    Provenances,
    Rows,
    concatenated,
    covering,
    decode,
    encode,
)
from robharness.store.passes import PassTotals, total
from robharness.store.spans import Span, span_positions, uncovered

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA, LARGEST_SCHEMA = 2, 1000
"""The schema of a description, and a number above that of every version. Schema 1 had no confidences."""
RACES = 5
"""The number of times that a read is tried again after parts disappeared because another run joined them."""
STALE_SECONDS = 3600
"""Age at which a temporary file no longer belongs to a running process; writing one takes milliseconds."""
T = TypeVar("T")


class Store(StoreFolder):
    """The cells in the folder of a store: their descriptions, outcomes and failures."""

    def __init__(self, root: str | Location, files: StoreFiles | None = None, *, is_read_only: bool = False) -> None:
        super().__init__(root, files, is_read_only=is_read_only)
        self._damaged: set[tuple[str, Part]] = set()  # parts that could not be renamed, e.g. in a read-only folder
        self._provenances: dict[tuple[str, Part], Provenances] = {}  # never stale: a part's name has its checksum

    # --- cells -------------------------------------------------------------------------------------------------

    def folder(self, key: str) -> Location:
        return self.root / "cells" / key[:2] / key

    def describe(self, cell: Cell) -> None:
        """Write the description of a cell, `cell.json`, unless an intact one of the present schema is there.

        Raises StoreError for a newer schema.
        """
        found = self.description(cell.key)
        if found is None or key_of(found["identity"]) != cell.key or found["schema"] < SCHEMA:
            description = {"schema": SCHEMA, "key": cell.key, "name": cell.name, "identity": cell.identity}
            self.write_json(self.folder(cell.key) / "cell.json", description)

    def description(self, key: str) -> dict[str, Any] | None:
        """Read `cell.json`. Returns None if it is missing or damaged.

        Raises StoreError for a newer schema, and if it cannot be read.
        """
        path = self.folder(key) / "cell.json"
        try:
            found = self.record(path) or {}
        except ValueError:
            return None
        if type(found.get("schema")) is not int or not 0 < found["schema"] < LARGEST_SCHEMA:
            return None
        if found["schema"] > SCHEMA:
            raise StoreError(
                f"{path} has schema {found['schema']}, but this version of robharness reads schema {SCHEMA}. "
                f"Try: pip install -U robharness"
            )
        is_whole = isinstance(found.get("identity"), dict) and isinstance(found.get("name"), str)
        return found if is_whole else None

    def note_damaged_description(self, key: str) -> None:
        """Add a finding if there is a `cell.json` that does not describe the cell. Raises as `description` does."""
        path = self.folder(key) / "cell.json"
        found = self.description(key)
        is_intact = found is not None and key_of(found["identity"]) == key
        if not is_intact and path.name in self.names(path.parent):
            self.add_damage(path, "it does not describe this cell", "the next run of the suite writes it again")

    def cell_keys(self) -> list[str]:
        """The keys of all cells of which something is stored. Raises Unreadable if a folder cannot be listed."""
        return [cell.key for cell in list_cells(self) if not cell.problem]

    # --- parts -------------------------------------------------------------------------------------------------

    def parts(self, key: str) -> list[Part]:
        """The stored parts of a cell, in order; they may overlap."""
        found = (Part(int(match[1]), int(match[2]), match[3]) for match in self._files(key, PART))
        return sorted(part for part in found if part.start < part.stop and (key, part) not in self._damaged)

    def spans(self, key: str) -> list[Span]:
        """The spans of the stored parts, in order; they may overlap."""
        return [(part.start, part.stop) for part in self.parts(key)]

    def missing(self, key: str, stop: int, start: int = 0) -> list[Span]:
        """The spans of positions start to stop - 1 that no part covers, in order."""
        return uncovered(self.spans(key), (start, stop))

    def write_part(
        self, key: str, start: int, columns: Mapping[str, Any], provenance: Mapping[str, Any],
        passes: PassTotals | None = None,
    ) -> None:  # fmt: skip
        """Write outcomes of the positions from `start` on.

        columns: arrays or lists of equal length, by name.
        provenance: how the outcomes were computed; it is stored in the part.
        passes: that an attack made for them; None if they are not known.
        """
        import pyarrow as pa

        table = pa.table(dict(columns))
        table = table.add_column(0, "position", pa.array(range(start, start + table.num_rows), pa.int64()))
        self._write_table(key, start, table, [dict(provenance)], passes)

    def join(self, key: str, stop: int, start: int = 0) -> None:
        """Join the parts of a cell that hold positions start to stop - 1 into one file, unless a position is missing.

        The file also holds the other positions of a part that crosses the border.
        """
        self.retry_reads(key, lambda: self._join(key, (start, stop)))

    def _join(self, key: str, span: Span) -> None:
        parts = [part for part in self.parts(key) if part.start < span[1] and span[0] < part.stop]
        if len(parts) < 2 or uncovered([(part.start, part.stop) for part in parts], span):
            return
        self.note_overlaps(key, parts)
        start, stop = min(part.start for part in parts), max(part.stop for part in parts)
        rows = self._read(key, stop, None, parts=parts)
        joined = self._write_table(key, start, rows.table, rows.provenance, rows.passes)
        self.files.remove([self.folder(key) / part.name for part in parts if part != joined])

    def read(self, key: str, n: int, columns: Sequence[str] | None = None, *, check: Check | None = None) -> Rows:
        """Read the outcomes of the covered positions below n, each once, in order.

        columns: names; all columns if None.
        check: of each part against the plan.
        """
        return self.retry_reads(key, lambda: self._read(key, n, columns, check))

    def _read(
        self,
        key: str,
        n: int,
        columns: Sequence[str] | None,
        check: Check | None = None,
        parts: Sequence[Part] | None = None,
    ) -> Rows:
        import pyarrow as pa

        tables, names, provenances = [], dict[str, None](), list[dict[str, Any]]()
        positions = [np.zeros(0, np.int64)]
        passes: PassTotals | None = None
        for part, first, last in covering(self.parts(key) if parts is None else parts, n):
            content = self._load(key, part, columns, check)
            tables.append(content.table.slice(first - part.start, last - first))
            positions.append(span_positions(first, last))
            names.update(dict.fromkeys(content.names))
            provenances += [each for each in content.provenances if each not in provenances]
            passes = total(passes, content.passes_of(last - first))
        try:
            table = concatenated(tables) if tables else pa.table({})
        except pa.ArrowException as error:
            folder = self.shown(self.folder(key))
            raise StoreError(
                f"the files of outcomes in {folder} do not fit together: {' '.join(str(error).split())}. To compute "
                f"the cell again, remove it and run its suite. Try: {self.remove_command(self.folder(key))}"
            ) from None
        joined = positions[-1] if len(positions) <= 2 else np.concatenate(positions)
        return Rows(table=table, names=tuple(names), positions=joined, provenance=provenances, passes=passes)

    def note_overlaps(self, key: str, parts: Sequence[Part] | None = None) -> None:
        """Add a finding if parts that overlap hold different predictions; those of the first of them count.

        parts: some of the cell's, in order; all if None.
        """
        overlapping, last = set[Part](), None
        for part in self.parts(key) if parts is None else parts:
            if last is not None and part.start < last.stop:
                overlapping |= {last, part}
            last = part if last is None or part.stop > last.stop else last
        seen: dict[int, int] = {}
        twice = differing = 0
        for part in sorted(overlapping):
            table = self._load(key, part, ["prediction"]).table
            values = table["prediction"].to_pylist() if table.num_columns else []
            for position, value in enumerate(values, part.start):
                twice += position in seen
                differing += seen.setdefault(position, value) != value
        if differing:
            message = (
                f"files of outcomes in {self.shown(self.folder(key))} overlap, and {differing} of the {twice} "
                f"predictions that they hold twice differ; those of the first file count"
            )
            self.add_finding(finding("outcomes-differ", message))

    def verify(self, key: str, n: int, check: Check | None = None) -> Counts:
        """Set damaged parts aside, so that they count as missing, and remove temporary files of killed processes.

        Reads the parts that begin below position n, and keeps their provenance for `provenance`.
        check: see `read`.
        Returns the counts of the positions below n.
        """
        stored = right = position = 0
        passes: PassTotals | None = None
        for part in (part for part in self.parts(key) if part.start < n):
            with contextlib.suppress(FileNotFoundError, DamagedPart):  # or another run joined it meanwhile
                content = self._load(key, part, ("correct",), check)
                first, last = max(part.start, position), min(part.stop, n)
                if first < last and content.table.num_columns:
                    correct = content.table["correct"].to_numpy()[first - part.start : last - part.start]
                    stored, right, position = stored + last - first, right + int(correct.sum()), last
                    passes = total(passes, content.passes_of(last - first))
        with contextlib.suppress(OSError):  # a read-only store has no temporary files
            self.files.remove_temporary(self.folder(key), STALE_SECONDS)
        return Counts(stored, right, passes)

    def provenance(self, key: str) -> list[dict[str, Any]]:
        """Each distinct provenance of the cell's outcomes, that of the first positions first.

        Reads each part once in the life of this object. Do not change the records, which are shared.
        """
        return self.retry_reads(key, lambda: self._provenance(key))

    def _provenance(self, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for part, _, _ in covering(self.parts(key), sys.maxsize):
            if (key, part) not in self._provenances:
                self._load(key, part, ())
            found += [each for each in self._provenances[key, part] if each not in found]
        return found

    def _load(self, key: str, part: Part, columns: Sequence[str] | None, check: Check | None = None) -> PartContent:
        """Read and decode a part. Raises DamagedPart after setting it aside, FileNotFoundError if it is gone."""
        return self._decode(key, part, self._bytes(key, part), columns, check)

    def _decode(
        self, key: str, part: Part, content: bytes, columns: Sequence[str] | None, check: Check | None = None
    ) -> PartContent:
        wanted = columns
        if check is not None and columns is not None:
            wanted = [*columns, *(name for name in check.columns if name not in columns)]
        try:
            decoded = decode(content, key, part, wanted)
            if check is not None:
                check(part, decoded)
        except DamagedPart as damage:
            self._set_aside(key, part, str(damage))
            raise
        self._provenances[key, part] = decoded.provenances
        if wanted is columns or columns is None:
            return decoded
        return replace(decoded, table=decoded.table.select([name for name in columns if name in decoded.names]))

    def _bytes(self, key: str, part: Part) -> bytes:
        path = self.folder(key) / part.name
        try:
            return self.files.read_part(path, part.checksum)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ESTALE:  # on network file systems: another machine removed the file
                raise FileNotFoundError(path) from None
            if error.errno in (errno.EIO, errno.ELOOP) or isinstance(error, NotAFile):  # the disk fails, or no file
                reason = "it is a link to nothing" if error.errno == errno.ELOOP else error.strerror or str(error)
                self._set_aside(key, part, reason)
                raise DamagedPart(reason) from None
            raise self.unreadable(path, error) from None

    def _set_aside(self, key: str, part: Part, reason: str) -> None:
        path = self.folder(key) / part.name
        try:
            self.files.set_aside(path, path.with_name(f"{path.name}.damaged"))
        except OSError:  # if it cannot be renamed, this object skips it
            self._damaged.add((key, part))
        damaged = f"{self.shown(path)} is damaged ({reason})"
        message = f"{damaged}; it is set aside, and the next run of the suite computes it again"
        self.add_finding(finding("part-damaged", message))

    def retry_reads(self, key: str, read: Callable[[], T]) -> T:
        """Call `read` until no part disappears meanwhile: another run may join parts, damaged ones are set aside."""
        races = 0
        while races < RACES:
            try:
                return read()
            except DamagedPart:
                pass
            except FileNotFoundError:
                races += 1
        folder = self.shown(self.folder(key))
        raise StoreError(
            f"parts of {folder} disappeared {RACES} times while they were read; perhaps another process "
            f"deletes files. Try: {self.files.show_command(folder)}"
        )

    def forget(self, key: str) -> None:
        """Remove a cell's outcomes, failures and description, so that the next run computes it again."""
        with self.translate_os_errors():
            for pattern in (PART, FAILED):
                self.files.remove([self.folder(key) / match.group() for match in self._files(key, pattern)])
            self.files.unlink(self.folder(key) / "cell.json")

    # --- failures and runs -------------------------------------------------------------------------------------

    def write_failure(self, key: str, failure: Failure) -> None:
        path = self.folder(key) / f"{failure.start:05d}-{failure.stop:05d}.failed.json"
        self.write_json(path, vars(failure))

    def failures(self, key: str) -> list[Failure]:
        """The recorded failures of spans that no part covers. Those that are damaged are left out, with a finding."""
        found = []
        for match in self._files(key, FAILED):
            path = self.folder(key) / match.group()
            try:
                record = self.record(path)
                if record is not None:
                    found.append(Failure.parse(record, (int(match[1]), int(match[2]))))
            except ValueError as damage:
                self.add_damage(path, damage, "the next run of the suite tries these examples again")
        missing = self.missing(key, max((failure.stop for failure in found), default=0))
        return sorted(
            (f for f in found if any(start < f.stop and f.start < stop for start, stop in missing)),
            key=lambda failure: failure.start,
        )

    def copy_part(self, other: Store, key: str, part: Part) -> bool:
        """Copy the outcomes of another store's part that are missing here; byte by byte if all of them are missing.

        Returns False, with a note in that store, if the part is damaged there.
        """
        missing = uncovered(self.spans(key), (part.start, part.stop))
        is_whole = missing == [(part.start, part.stop)]
        try:
            content = other._bytes(key, part)
            decoded = other._decode(key, part, content, () if is_whole else None)
        except DamagedPart:
            return False
        if is_whole:
            self._write_part(key, part, content, decoded.provenances)
            return True
        for start, stop in missing:
            table = decoded.table.slice(start - part.start, stop - start)
            self._write_table(key, start, table, decoded.provenances, decoded.passes_of(stop - start))
        return True

    def _files(self, key: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for name in self.names(self.folder(key)):
            if match := pattern.fullmatch(name):
                yield match

    def _write_table(
        self, key: str, start: int, table: pa.Table, provenances: Sequence[dict[str, Any]], passes: PassTotals | None
    ) -> Part:
        part, content, stored = encode(key, start, table, provenances, passes)
        self._write_part(key, part, content, stored)
        return part

    def _write_part(self, key: str, part: Part, content: bytes, provenances: Provenances) -> None:
        self.create(self.folder(key) / part.name, content)
        self._provenances[key, part] = provenances
        self._damaged.discard((key, part))
