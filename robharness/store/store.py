"""Results on disk: immutable parts of cells, written atomically, so that running again resumes.

    cells/<aa>/<key>/cell.json                         the description of the cell
    cells/<aa>/<key>/00000-00256.1c291ca3.parquet      outcomes of the examples at positions 0 to 255
    cells/<aa>/<key>/00000-00256.failed.json           why these outcomes are missing
    runs/<time>-<process>-<random>.json                a record of each run

Coverage follows from the file names; there is no index that could be wrong. The name of a part carries the CRC-32 of
its bytes, so that every reader notices what a disk or a copy did to it later. Such a part is set aside and counts as
missing. Trade-off: a part is read whole even for one of its columns, at gigabytes a second.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np

from robharness.errors import StoreError, for_shell, nearest_existing
from robharness.findings import Finding, finding
from robharness.planning.cells import Cell
from robharness.store.failures import Failure
from robharness.store.files import FileSystem
from robharness.store.parts import DamagedPart, Part, PartContent, Provenances, Rows, decode, encode
from robharness.store.spans import Span, span_positions, uncovered

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
RACES = 5
"""The number of times that a read is tried again after parts disappeared because another run joined them."""
STALE_SECONDS = 3600
"""Age at which a temporary file no longer belongs to a running process; writing one takes milliseconds."""
T = TypeVar("T")

_PART = re.compile(r"(\d{5,})-(\d{5,})\.([0-9a-f]{8})\.parquet")
_FAILED = re.compile(r"(\d{5,})-(\d{5,})\.failed\.json")
_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


class Store:
    """The folder of results, which is made when the first file is written.

    root: its absolute path, since a plugin may change the working directory. Its text is the path as given.
    files: the file system.
    findings: about the store itself: parts that were set aside, no fsync, no locks.
    """

    def __init__(self, root: str | Path, files: FileSystem | None = None) -> None:
        self.root, self._given = Path(root).absolute(), str(root)
        self.files = files or FileSystem()
        self.findings: list[Finding] = []
        self._damaged: set[tuple[str, Part]] = set()  # parts that could not be renamed, e.g. in a read-only folder
        self._provenances: dict[tuple[str, Part], Provenances] = {}  # never stale: a part's name has its checksum

    def __str__(self) -> str:
        return self._given

    def shown(self, path: Path) -> Path:
        """Return a path for messages: below the folder as it was given, if the path lies in the store."""
        return Path(self._given) / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    @property
    def notes(self) -> list[str]:
        """The findings as sentences."""
        return [str(found) for found in self.findings]

    def add_finding(self, found: Finding) -> None:
        """Add a finding about the store, once."""
        if found not in self.findings:
            self.findings.append(found)

    # --- cells -------------------------------------------------------------------------------------------------

    def folder(self, key: str) -> Path:
        return self.root / "cells" / key[:2] / key

    def describe(self, cell: Cell) -> None:
        """Write the description of a cell, `cell.json`, unless an intact one is there.

        Raises StoreError for a newer schema.
        """
        if self.description(cell.key) is None:
            description = {"schema": SCHEMA, "key": cell.key, "name": cell.name, "identity": cell.identity}
            self._write(self.folder(cell.key) / "cell.json", json.dumps(description, indent=1).encode())

    def description(self, key: str) -> dict[str, Any] | None:
        """Read `cell.json`. Returns None if it is missing or damaged. Raises StoreError for a newer schema."""
        path = self.folder(key) / "cell.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise _unreadable(self.shown(path), error) from None
        if not isinstance(description, dict) or not isinstance(description.get("schema"), int):
            return None
        if description["schema"] > SCHEMA:
            raise StoreError(
                f"{path} has schema {description['schema']}, but this version of robharness reads schema {SCHEMA}. "
                f"Try: pip install -U robharness"
            )
        return description if isinstance(description.get("identity"), dict) else None

    def cell_keys(self) -> list[str]:
        """The keys of all stored cells."""
        return sorted(path.parent.name for path in self.root.glob("cells/*/*/cell.json"))

    # --- parts -------------------------------------------------------------------------------------------------

    def parts(self, key: str) -> list[Part]:
        """The stored parts of a cell, in order; they may overlap."""
        found = (Part(int(match[1]), int(match[2]), match[3]) for match in self._files(key, _PART))
        return sorted(part for part in found if (key, part) not in self._damaged)

    def spans(self, key: str) -> list[Span]:
        """The spans of the stored parts, in order; they may overlap."""
        return [(part.start, part.stop) for part in self.parts(key)]

    def missing(self, key: str, stop: int, start: int = 0) -> list[Span]:
        """The spans of positions start to stop - 1 that no part covers, in order."""
        return uncovered(self.spans(key), (start, stop))

    def write_part(self, key: str, start: int, columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write outcomes of the positions from `start` on.

        columns: arrays or lists of equal length, by name.
        provenance: how the outcomes were computed; it is stored in the part.
        """
        import pyarrow as pa

        table = pa.table(dict(columns))
        table = table.add_column(0, "position", pa.array(range(start, start + table.num_rows), pa.int64()))
        self._write_table(key, start, table, [dict(provenance)])

    def join(self, key: str, n: int) -> None:
        """Join the parts of a complete cell into one file. Does nothing if positions 0 to n - 1 have a gap."""
        self.retry_reads(key, lambda: self._join(key, n))

    def _join(self, key: str, n: int) -> None:
        parts = self.parts(key)
        if len(parts) < 2 or self.missing(key, n):
            return
        last = max(part.stop for part in parts)
        missing = uncovered([(part.start, part.stop) for part in parts], (0, last))
        end = missing[0][0] if missing else last
        rows = self._read(key, end, None)
        joined = self._write_table(key, 0, rows.table, rows.provenance)
        for part in parts:
            if part.stop <= end and part != joined:
                self.files.unlink(self.folder(key) / part.name)

    def read(self, key: str, n: int, columns: Sequence[str] | None = None) -> Rows:
        """Read the outcomes of the covered positions below n, each once, in order.

        columns: names; all columns if None.
        """
        return self.retry_reads(key, lambda: self._read(key, n, columns))

    def _read(self, key: str, n: int, columns: Sequence[str] | None) -> Rows:
        import pyarrow as pa

        tables, names, provenances = [], dict[str, None](), list[dict[str, Any]]()
        positions = [np.zeros(0, np.int64)]
        for part, first, last in self._covering(key, n):
            content = self._load(key, part, columns)
            tables.append(content.table.slice(first - part.start, last - first))
            positions.append(span_positions(first, last))
            names.update(dict.fromkeys(content.names))
            provenances += [each for each in content.provenances if each not in provenances]
        table = pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
        joined = positions[-1] if len(positions) <= 2 else np.concatenate(positions)
        return Rows(table=table, names=tuple(names), positions=joined, provenance=provenances)

    def _covering(self, key: str, n: int) -> Iterator[tuple[Part, int, int]]:
        """The parts that together give the positions below n once, each with the span first, last that is its share."""
        position = 0
        for part in self.parts(key):
            first, last = max(part.start, position), min(part.stop, n)
            if first < last:
                yield part, first, last
                position = last

    def verify(self, key: str, n: int) -> None:
        """Set damaged parts aside, so that they count as missing, and remove temporary files of killed processes.

        Reads the parts that begin below position n, and keeps their provenance for `provenance`.
        """
        for part in self.parts(key):
            if part.start < n:
                with contextlib.suppress(FileNotFoundError, DamagedPart):  # or another run joined it meanwhile
                    self._load(key, part, ())
        with contextlib.suppress(OSError):  # a read-only store has no temporary files
            for path in self.folder(key).glob(".*.tmp"):
                if self.files.time() - path.stat().st_mtime > STALE_SECONDS:
                    self.files.unlink(path)

    def provenance(self, key: str) -> list[dict[str, Any]]:
        """Each distinct provenance of the cell's outcomes, that of the first positions first.

        Reads each part once in the life of this object. Do not change the records, which are shared.
        """
        return self.retry_reads(key, lambda: self._provenance(key))

    def _provenance(self, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for part, _, _ in self._covering(key, sys.maxsize):
            if (key, part) not in self._provenances:
                self._load(key, part, ())
            found += [each for each in self._provenances[key, part] if each not in found]
        return found

    def _load(self, key: str, part: Part, columns: Sequence[str] | None) -> PartContent:
        """Read and decode a part. Raises DamagedPart after setting it aside, FileNotFoundError if it is gone."""
        return self._decode(key, part, self._bytes(key, part), columns)

    def _decode(self, key: str, part: Part, content: bytes, columns: Sequence[str] | None) -> PartContent:
        try:
            decoded = decode(content, part, columns)
        except DamagedPart as damage:
            self._set_aside(key, part, str(damage))
            raise
        self._provenances[key, part] = decoded.provenances
        return decoded

    def _bytes(self, key: str, part: Part) -> bytes:
        path = self.folder(key) / part.name
        try:
            return self.files.read(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ESTALE:  # on network file systems: another machine removed the file
                raise FileNotFoundError(path) from None
            if error.errno == errno.EIO:  # the disk is failing
                self._set_aside(key, part, error.strerror or str(error))
                raise DamagedPart(str(error)) from None
            raise _unreadable(self.shown(path), error) from None

    def _set_aside(self, key: str, part: Part, reason: str) -> None:
        path = self.folder(key) / part.name
        try:
            self.files.rename(path, path.with_name(f"{path.name}.damaged"))
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
            f"deletes files. Try: ls -la {for_shell(folder)}"
        )

    def forget(self, key: str) -> None:
        """Remove a cell's outcomes, failures and description, so that the next run computes it again."""
        with self.translate_os_errors():
            for pattern in (_PART, _FAILED):
                for match in self._files(key, pattern):
                    self.files.unlink(self.folder(key) / match.group())
            self.files.unlink(self.folder(key) / "cell.json")

    # --- failures and runs -------------------------------------------------------------------------------------

    def write_failure(self, key: str, failure: Failure) -> None:
        path = self.folder(key) / f"{failure.start:05d}-{failure.stop:05d}.failed.json"
        self._write(path, json.dumps(vars(failure), indent=1).encode())

    def failures(self, key: str) -> list[Failure]:
        """The recorded failures of spans that no part covers."""
        found = []
        for match in self._files(key, _FAILED):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Failure(**json.loads((self.folder(key) / match.group()).read_text(encoding="utf-8"))))
        missing = self.missing(key, max((failure.stop for failure in found), default=0))
        return sorted(
            (f for f in found if any(start < f.stop and f.start < stop for start, stop in missing)),
            key=lambda failure: failure.start,
        )

    def new_run(self) -> Path:
        """Return a path for the record of a run. It is unique even if clocks are wrong."""
        moment = datetime.fromtimestamp(self.files.time(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        return self.root / "runs" / f"{moment}-{os.getpid()}-{uuid4().hex[:8]}.json"

    def runs(self) -> list[dict[str, Any]]:
        """The records of all runs, the latest last. Records that cannot be read are left out."""
        found = []
        for path in sorted(self.root.glob("runs/*.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text(encoding="utf-8")))
        return found

    # --- files -------------------------------------------------------------------------------------------------

    def write_json(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write or replace a file with one JSON object, e.g. the record of a run at a path from `new_run`."""
        self._write(path, json.dumps(dict(facts), indent=1, default=str).encode())

    def copy_file(self, source: Path, path: Path) -> None:
        """Copy a file of another store, unless this store has it."""
        if not path.exists():
            try:
                content = self.files.read(source)
            except OSError as error:
                raise _unreadable(source, error) from None
            self._write(path, content)

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
            self._write_table(key, start, decoded.table.slice(start - part.start, stop - start), decoded.provenances)
        return True

    def _files(self, key: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        try:
            names: Sequence[str] = os.listdir(self.folder(key))
        except FileNotFoundError:
            return
        except OSError as error:
            folder = for_shell(self.shown(nearest_existing(self.folder(key))))
            raise StoreError(f"the store {self} cannot be read: {error.strerror}. Try: ls -ld {folder}") from None
        for name in names:
            if match := pattern.fullmatch(name):
                yield match

    def _write_table(self, key: str, start: int, table: pa.Table, provenances: Sequence[dict[str, Any]]) -> Part:
        part, content, stored = encode(start, table, provenances)
        self._write_part(key, part, content, stored)
        return part

    def _write_part(self, key: str, part: Part, content: bytes, provenances: Provenances) -> None:
        self._write(self.folder(key) / part.name, content)
        self._provenances[key, part] = provenances
        self._damaged.discard((key, part))

    def _write(self, path: Path, content: bytes) -> None:
        with self.translate_os_errors():
            self.files.write(path, content)

    @contextlib.contextmanager
    def translate_os_errors(self) -> Iterator[None]:
        """Raise StoreError for an OSError of the block, which writes. Note it if the file system has no fsync."""
        try:
            yield
        except OSError as error:
            folder = for_shell(self.shown(nearest_existing(self.root)))
            command = f"ls -ld {folder}" if error.errno in _NO_RIGHTS else f"df -h {folder}"
            raise StoreError(
                f"the store {self} cannot be written: {error.strerror or error}. What is stored is intact. "
                f"Try: {command}"
            ) from error
        finally:
            if self.files.lacks_fsync:
                message = (
                    f"the file system of the store {self} has no fsync: a power cut may damage the latest "
                    "outcomes; the next run of the suite finds and computes these again"
                )
                self.add_finding(finding("no-fsync", message))


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error.strerror}. Try: ls -l {for_shell(path.parent)}")
