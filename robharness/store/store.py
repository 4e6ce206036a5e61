"""Results on disk: immutable parts of cells, written atomically, so that running again is resuming.

    cells/<aa>/<key>/cell.json                         what the cell is
    cells/<aa>/<key>/00000-00256.1c291ca3.parquet      outcomes of the examples at positions 0 to 255
    cells/<aa>/<key>/00000-00256.failed.json           why they are not there
    runs/<time>-<process>-<random>.json                what each run did

A file appears by a temporary file, fsync, rename, fsync of the folder: whatever kills the process, a part is whole or
absent. Coverage is read off the file names; there is no index that could be wrong. The name of a part carries the
CRC-32 of its bytes, so that what a disk or a copy did to it later is seen by every reader: such a part is set aside
and counts as missing. Trade-offs: two fsyncs a part, milliseconds against a minute of work; a part is read whole even
for one of its columns, at gigabytes a second.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np

from robharness.errors import StoreError
from robharness.planning.cells import Cell
from robharness.store.failures import Failure
from robharness.store.spans import Span, span_positions, uncovered

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
RACES = 5
"""How often a reader looks again when parts vanish under it because another run joins them."""
STALE_SECONDS = 3600
"""Age at which a temporary file belongs to nobody any more; writing one takes milliseconds."""
T = TypeVar("T")

_PART = re.compile(r"(\d{5,})-(\d{5,})\.([0-9a-f]{8})\.parquet")
_FAILED = re.compile(r"(\d{5,})-(\d{5,})\.failed\.json")
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True, order=True)
class Part:
    """A file of outcomes of positions start to stop - 1. checksum: CRC-32 of its bytes, 8 hexadecimal digits."""

    start: int
    stop: int
    checksum: str

    @property
    def name(self) -> str:
        return f"{self.start:05d}-{self.stop:05d}.{self.checksum}.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What is read of a cell: a row per position. names: of all columns there are, `table` may have fewer.

    positions: (n,) int64, ascending. provenance: how the rows were made, every way once.
    """

    table: pa.Table
    names: tuple[str, ...]
    positions: np.ndarray
    provenance: list[dict[str, Any]]


class _Damaged(Exception):
    """A part that is not what was written; it has been set aside."""


class Store:
    """The folder of results. root: made when the first thing is written.

    notes: what readers of the results must know of the store itself, a sentence each: parts set aside, no fsync.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.notes: list[str] = []
        self._bad: set[tuple[str, Part]] = set()  # damaged, and perhaps in a folder where nothing can be renamed

    def __str__(self) -> str:
        return str(self.root)

    # --- cells -------------------------------------------------------------------------------------------------

    def folder(self, key: str) -> Path:
        return self.root / "cells" / key[:2] / key

    def describe(self, cell: Cell) -> None:
        """Write `cell.json`, which says what the cell is, if it is not there or damaged; as `description` otherwise."""
        if self.description(cell.key) is None:
            description = {"schema": SCHEMA, "key": cell.key, "name": cell.name, "identity": cell.identity}
            self._write(self.folder(cell.key) / "cell.json", json.dumps(description, indent=1).encode())

    def description(self, key: str) -> dict[str, Any] | None:
        """What `cell.json` says, or None where it is not there or damaged. Raises StoreError for a newer schema."""
        path = self.folder(key) / "cell.json"
        try:
            description = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}. See: ls -l {path.parent}") from None
        if not isinstance(description, dict) or not isinstance(description.get("schema"), int):
            return None
        if description["schema"] > SCHEMA:
            raise StoreError(
                f"{path} has schema {description['schema']}, this robharness knows {SCHEMA}. "
                f"Type: pip install -U robharness"
            )
        return description if isinstance(description.get("identity"), dict) else None

    def cell_keys(self) -> list[str]:
        """The keys of all cells that are there."""
        return sorted(path.parent.name for path in self.root.glob("cells/*/*/cell.json"))

    # --- parts -------------------------------------------------------------------------------------------------

    def parts(self, key: str) -> list[Part]:
        """The parts that are there, in order; they may overlap."""
        found = (Part(int(match[1]), int(match[2]), match[3]) for match in self._files(key, _PART))
        return sorted(part for part in found if (key, part) not in self._bad)

    def spans(self, key: str) -> list[Span]:
        """The spans of the parts that are there, in order; they may overlap."""
        return [(part.start, part.stop) for part in self.parts(key)]

    def missing(self, key: str, stop: int, start: int = 0) -> list[Span]:
        """The spans of positions start to stop - 1 that no part covers, in order."""
        return uncovered(self.spans(key), (start, stop))

    def write_part(self, key: str, start: int, columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write outcomes of the positions from `start` on. provenance: how they were made, kept with the part."""
        import pyarrow as pa

        table = pa.table(dict(columns))
        table = table.add_column(0, "position", pa.array(range(start, start + table.num_rows), pa.int64()))
        self._write_table(key, start, table, [dict(provenance)])

    def join(self, key: str, n: int) -> None:
        """Make one file of a complete cell's parts; does nothing while positions 0 to n - 1 have a gap."""
        self.again(key, lambda: self._join(key, n))

    def _join(self, key: str, n: int) -> None:
        parts = self.parts(key)
        if len(parts) < 2 or self.missing(key, n):
            return
        last = max(part.stop for part in parts)
        gaps = uncovered([(part.start, part.stop) for part in parts], (0, last))
        end = gaps[0][0] if gaps else last
        rows = self._read(key, end, None)
        joined = self._write_table(key, 0, rows.table, rows.provenance)
        for part in parts:
            if part.stop <= end and part != joined:
                (self.folder(key) / part.name).unlink(missing_ok=True)

    def read(self, key: str, n: int, columns: Sequence[str] | None = None) -> Rows:
        """Outcomes of the covered positions below n, each once, in order. columns: names; all there are if None."""
        return self.again(key, lambda: self._read(key, n, columns))

    def _read(self, key: str, n: int, columns: Sequence[str] | None) -> Rows:
        import pyarrow as pa

        tables, names, ways, position = [], dict[str, None](), list[dict[str, Any]](), 0
        positions = [np.zeros(0, np.int64)]
        for part in self.parts(key):
            first, last = max(part.start, position), min(part.stop, n)
            if first < last:
                table, part_names, part_ways = self._load(key, part, columns)
                tables.append(table.slice(first - part.start, last - first))
                positions.append(span_positions(first, last))
                names.update(dict.fromkeys(part_names))
                ways += [way for way in part_ways if way not in ways]
                position = last
        table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
        at = positions[-1] if len(positions) <= 2 else np.concatenate(positions)
        return Rows(table=table, names=tuple(names), positions=at, provenance=ways)

    def verify(self, key: str, n: int) -> None:
        """Set damaged parts of the cell aside, so that they are missing; and sweep up after killed writers."""
        for part in self.parts(key):
            if part.start < n:
                with contextlib.suppress(FileNotFoundError, _Damaged):  # set aside, or joined by another run meanwhile
                    self._bytes(key, part)
        with contextlib.suppress(OSError):  # a store that is read only has nothing to sweep
            for path in self.folder(key).glob(".*.tmp"):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink(missing_ok=True)

    def provenance(self, key: str) -> list[dict[str, Any]]:
        """How the parts of the cell were made: every way once, that of the first positions first."""
        return self.again(key, lambda: self._read(key, sys.maxsize, ()).provenance)

    def _load(
        self, key: str, part: Part, columns: Sequence[str] | None
    ) -> tuple[pa.Table, list[str], list[dict[str, Any]]]:
        """These columns of a part, the names of all of its columns, and how it was made."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = self._bytes(key, part)
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            table = file.read(columns=None if columns is None else list(columns), use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._set_aside(key, part, str(error)) from None
        if file.metadata.num_rows != part.stop - part.start:
            raise self._set_aside(key, part, f"it has {file.metadata.num_rows} rows")
        metadata = file.schema_arrow.metadata or {}
        ways = json.loads(metadata.get(b"robharness", b"[]"))
        return table.replace_schema_metadata(None), file.schema_arrow.names, ways

    def _bytes(self, key: str, part: Part) -> bytes:
        """The file of a part as it was written. Raises _Damaged for another one, FileNotFoundError for none."""
        path = self.folder(key) / part.name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ESTALE:  # as network file systems say of a file that another machine took away
                raise FileNotFoundError(path) from None
            if error.errno == errno.EIO:  # a disk that gives out
                raise self._set_aside(key, part, error.strerror or str(error)) from None
            raise StoreError(f"{path} cannot be read: {error.strerror}. See: ls -l {path.parent}") from None
        if f"{zlib.crc32(content):08x}" != part.checksum:
            raise self._set_aside(key, part, f"its {len(content)} bytes have another checksum than its name says")
        return content

    def _set_aside(self, key: str, part: Part, why: str) -> _Damaged:
        path = self.folder(key) / part.name
        try:
            path.replace(path.with_name(f"{path.name}.damaged"))
        except OSError:  # where nothing can be renamed it is passed over all the same
            self._bad.add((key, part))
        self.notes.append(f"{path} is damaged ({why}); it is set aside, and what it held is computed again by: "
                          "robharness run SUITE")  # fmt: skip
        return _Damaged()

    def again(self, key: str, look: Callable[[], T]) -> T:
        """What `look` finds, once nothing vanishes under it: another run may join parts, damaged ones are set aside."""
        races = 0
        while races < RACES:
            try:
                return look()
            except _Damaged:
                pass
            except FileNotFoundError:
                races += 1
        raise StoreError(f"the parts of {self.folder(key)} keep vanishing; is something cleaning {self.root}?")

    def forget(self, key: str) -> None:
        """Take a cell's outcomes and failures away, for `--fresh`."""
        with self.translate_os_errors():
            for pattern in (_PART, _FAILED):
                for match in self._files(key, pattern):
                    (self.folder(key) / match.group()).unlink(missing_ok=True)
            (self.folder(key) / "cell.json").unlink(missing_ok=True)

    # --- failures and runs -------------------------------------------------------------------------------------

    def write_failure(self, key: str, failure: Failure) -> None:
        path = self.folder(key) / f"{failure.start:05d}-{failure.stop:05d}.failed.json"
        self._write(path, json.dumps(vars(failure), indent=1).encode())

    def failures(self, key: str) -> list[Failure]:
        """The recorded failures of spans that no part has made good since."""
        found = []
        for match in self._files(key, _FAILED):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Failure(**json.loads((self.folder(key) / match.group()).read_text())))
        gaps = self.missing(key, max((failure.stop for failure in found), default=0))
        return sorted(
            (f for f in found if any(start < f.stop and f.start < stop for start, stop in gaps)),
            key=lambda failure: failure.start,
        )

    def new_run(self) -> Path:
        """A name for the record of a run; no two runs get the same one, whatever their clocks say."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.root / "runs" / f"{moment}-{os.getpid()}-{uuid4().hex[:8]}.json"

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, the latest last; what cannot be read is left out."""
        found = []
        for path in sorted(self.root.glob("runs/*.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return found

    # --- files -------------------------------------------------------------------------------------------------

    def _files(self, key: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        try:
            names: Sequence[str] = os.listdir(self.folder(key))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be read: {error.strerror}. Give another one: --store"
            ) from None
        for name in names:
            if match := pattern.fullmatch(name):
                yield match

    def _write_table(self, key: str, start: int, table: pa.Table, ways: list[dict[str, Any]]) -> Part:
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        table = table.replace_schema_metadata({"robharness": json.dumps(ways)})
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        part = Part(start, start + table.num_rows, f"{zlib.crc32(content):08x}")
        self._write(self.folder(key) / part.name, content)
        self._bad.discard((key, part))
        return part

    def write_json(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write a file of one JSON object, or write it anew: the record of a run, say, whose path is from `new_run`."""
        self._write(path, json.dumps(dict(facts), indent=1, default=str).encode())

    def make_folder(self, folder: Path) -> None:
        """Make a folder, and those above it, if it is not there."""
        with self.translate_os_errors():
            folder.mkdir(parents=True, exist_ok=True)

    def put_in_place(self, folder: Path, place: Path) -> None:
        """Rename a folder that is whole, also after a power cut."""
        with self.translate_os_errors():
            for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
                self._sync_path(path)
            folder.rename(place)
            self._sync_path(place.parent)

    def copy_file(self, source: Path, path: Path) -> None:
        """Copy a file of another store, if it is not here."""
        if not path.exists():
            try:
                content = source.read_bytes()
            except OSError as error:
                raise StoreError(f"{source} cannot be read: {error.strerror}. See: ls -l {source.parent}") from None
            self._write(path, content)

    def copy_folder(self, source: Path, folder: Path) -> None:
        """Copy a folder of another store, so that it appears whole or not at all."""
        temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        self.make_folder(temporary)
        try:
            with self.translate_os_errors():
                shutil.copytree(source, temporary, dirs_exist_ok=True)
            self.put_in_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def copy_part(self, other: Store, key: str, part: Part) -> bool:
        """Copy what is missing here of another store's part, byte by byte where that is all of it.

        False, with a note in that store, where it is damaged there.
        """
        gaps = uncovered(self.spans(key), (part.start, part.stop))
        try:
            if gaps == [(part.start, part.stop)]:
                self._write(self.folder(key) / part.name, other._bytes(key, part))
                self._bad.discard((key, part))
                return True
            table, _, ways = other._load(key, part, None)
        except _Damaged:
            return False
        for start, stop in gaps:
            self._write_table(key, start, table.slice(start - part.start, stop - start), ways)
        return True

    def _write(self, path: Path, content: bytes) -> None:
        """Make the file appear whole or not at all, also after a power cut."""
        with self.translate_os_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    self._sync(file.fileno())
                temporary.replace(path)
            finally:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    temporary.unlink(missing_ok=True)
            self._sync_path(path.parent)

    def _sync_path(self, path: Path) -> None:
        number = os.open(path, os.O_RDONLY)
        try:
            self._sync(number)
        finally:
            os.close(number)

    def _sync(self, number: int) -> None:
        """fsync; a file system that has none is noted, since checksums find what a power cut may do there."""
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in _NO_FSYNC:
                raise
            note = (f"the file system of the store {self.root} has no fsync: a power cut may cost the last minutes; "
                    "what it damages is found and computed again by: robharness run SUITE")  # fmt: skip
            if note not in self.notes:
                self.notes.append(note)

    @contextlib.contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be written: {error.strerror or error}. "
                f"Make room or rights, or give another one with --store; what is there stays good"
            ) from error
