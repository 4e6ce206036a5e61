"""Results on disk: immutable parts of cells, written atomically, so that running again is resuming.

    cells/<aa>/<key>/cell.json                    what the cell is
    cells/<aa>/<key>/00000-00256.parquet          outcomes of the examples at positions 0 to 255
    cells/<aa>/<key>/00000-00256.failed.json      why they are not there
    runs/<time>.json                              what each run did

A file appears by a temporary file, fsync, rename, fsync of the folder: whatever kills the process, a part is whole or
absent. Trade-off: two fsyncs a part, milliseconds against a minute of work. Coverage is read off the file names; there
is no index that could be wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from robharness.cells import Cell
from robharness.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
RACES = 5
"""How often a reader looks again when parts vanish under it because another run joins them."""
Span = tuple[int, int]
"""Positions start to stop - 1 of a data set's fixed order."""

_PART = re.compile(r"(\d{5,})-(\d{5,})\.parquet")
_FAILED = re.compile(r"(\d{5,})-(\d{5,})\.failed\.json")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a cell has no outcomes for a span. blame: the distribution at fault."""

    start: int
    stop: int
    blame: str
    error: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.error} ({self.blame})"


class Store:
    """The folder of results. root: made when the first thing is written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    # --- cells -------------------------------------------------------------------------------------------------

    def folder(self, key: str) -> Path:
        return self.root / "cells" / key[:2] / key

    def describe(self, cell: Cell, **facts: Any) -> dict[str, Any]:
        """What `cell.json` says of the cell, written if it is not there. Raises StoreError for a newer schema.

        facts: what is known of the cell beside its identity, kept from the first time.
        """
        path = self.folder(cell.key) / "cell.json"
        if path.exists():
            return self._read_description(path)
        description = {"schema": SCHEMA, "key": cell.key, "name": cell.name, "identity": cell.identity, **facts}
        self._write(path, json.dumps(description, indent=1).encode())
        return description

    def description(self, key: str) -> dict[str, Any] | None:
        """What `cell.json` says, or None. Raises StoreError for a newer schema."""
        path = self.folder(key) / "cell.json"
        return self._read_description(path) if path.exists() else None

    def _read_description(self, path: Path) -> dict[str, Any]:
        try:
            description: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read: {error}. To compute the cell again: rm -r {path.parent}"
            ) from None
        if description.get("schema", 0) > SCHEMA:
            raise StoreError(
                f"{path} has schema {description['schema']}, this robharness knows {SCHEMA}. "
                f"Type: pip install -U robharness"
            )
        return description

    # --- parts -------------------------------------------------------------------------------------------------

    def spans(self, key: str) -> list[Span]:
        """The spans of the parts that are there, in order; they may overlap."""
        return sorted(_span(match) for match in self._files(key, _PART))

    def missing(self, key: str, n: int) -> list[Span]:
        """The spans of positions 0 to n - 1 that no part covers, in order."""
        gaps, position = [], 0
        for start, stop in self.spans(key):
            if start > position:
                gaps.append((position, min(start, n)))
            position = max(position, stop)
            if position >= n:
                break
        if position < n:
            gaps.append((position, n))
        return [gap for gap in gaps if gap[0] < gap[1]]

    def write_part(self, key: str, start: int, columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write outcomes of the positions from `start` on. provenance: how they were made, kept with the part."""
        import pyarrow as pa

        table = pa.table(dict(columns))
        table = table.add_column(0, "position", pa.array(range(start, start + table.num_rows), pa.int64()))
        table = table.replace_schema_metadata({"robharness": json.dumps(dict(provenance))})
        self._write_table(key, start, start + table.num_rows, table)

    def join(self, key: str, n: int) -> None:
        """Make one file of a complete cell's parts; does nothing while positions 0 to n - 1 have a gap."""
        spans = self.spans(key)
        if len(spans) < 2 or self.missing(key, n):
            return
        gaps = self.missing(key, max(stop for _, stop in spans))
        end = gaps[0][0] if gaps else max(stop for _, stop in spans)
        joined = [span for span in spans if span[1] <= end]
        facts = [json.loads(self._metadata(key, span)) for span in joined]
        different = [fact for index, fact in enumerate(facts) if fact not in facts[:index]]
        provenance = different[0] if len(different) == 1 else {**different[0], "mixed": different}
        table = self.read(key, end).replace_schema_metadata({"robharness": json.dumps(provenance)})
        self._write_table(key, 0, end, table)
        for start, stop in joined:
            if (start, stop) != (0, end):
                (self.folder(key) / _part_name(start, stop)).unlink(missing_ok=True)

    def read(self, key: str, n: int) -> pa.Table:
        """Outcomes of the covered positions below n, each once, in order, with their `position`."""
        for _ in range(RACES):
            with contextlib.suppress(FileNotFoundError):  # another run joined the parts meanwhile: look again
                return self._read(key, n)
        raise StoreError(f"the parts of {self.folder(key)} keep vanishing; is something cleaning {self.root}?")

    def _read(self, key: str, n: int) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables, position = [], 0
        for start, stop in self.spans(key):
            first, last = max(start, position), min(stop, n)
            if first >= last:
                continue
            path = self.folder(key) / _part_name(start, stop)
            again = f"To compute the cell again: rm -r {path.parent}"
            try:
                table = pq.read_table(path, partitioning=None)
            except pa.ArrowInvalid as error:
                raise StoreError(f"{path} is damaged: {error}. {again}") from None
            if table.num_rows != stop - start:
                raise StoreError(f"{path} has {table.num_rows} rows, not {stop - start}. {again}")
            tables.append(table.slice(first - start, last - first).replace_schema_metadata(None))
            position = last
        if not tables:
            return pa.table({"position": pa.array([], pa.int64())})
        return pa.concat_tables(tables, promote_options="default")

    def provenance(self, key: str) -> dict[str, Any] | None:
        """How the first part of the cell was made, or None if there is none."""
        for _ in range(RACES):
            with contextlib.suppress(FileNotFoundError):
                spans = self.spans(key)
                return json.loads(self._metadata(key, spans[0])) if spans else None
        return None

    def _metadata(self, key: str, span: Span) -> bytes:
        import pyarrow.parquet as pq

        metadata = pq.read_schema(self.folder(key) / _part_name(*span)).metadata or {}
        facts: bytes = metadata.get(b"robharness", b"{}")
        return facts

    def forget(self, key: str) -> None:
        """Take a cell's outcomes and failures away, for `--fresh`."""
        with self._saying():
            for pattern in (_PART, _FAILED):
                for match in self._files(key, pattern):
                    (self.folder(key) / match.group()).unlink(missing_ok=True)
        self.forget_description(key)

    def forget_description(self, key: str) -> None:
        """Take `cell.json` away, so that the next `describe` writes it anew."""
        with self._saying():
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

    def write_run(self, facts: Mapping[str, Any]) -> Path:
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.root / "runs" / f"{time}-{os.getpid()}.json"
        self._write(path, json.dumps(dict(facts), indent=1, default=str).encode())
        return path

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

    def _write_table(self, key: str, start: int, stop: int, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(self.folder(key) / _part_name(start, stop), sink.getvalue().to_pybytes())

    def _write(self, path: Path, content: bytes) -> None:
        """Make the file appear whole or not at all, also after a power cut."""
        with self._saying():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be written: {error.strerror or error}. "
                f"Make room or rights, or give another one with --store; what is there stays good"
            ) from error


def _part_name(start: int, stop: int) -> str:
    return f"{start:05d}-{stop:05d}.parquet"


def _span(match: re.Match[str]) -> Span:
    return int(match[1]), int(match[2])
