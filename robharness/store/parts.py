"""Parts: parquet files of outcomes.

Positions and checksum are in the name; provenance, the key of the cell and the positions are in the metadata.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from robharness.planning.files import json_value
from robharness.store.passes import PassTotals
from robharness.store.provenance import check_provenance
from robharness.store.spans import span_positions

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_PROVENANCE, _CELL, _SPAN, _PASSES = b"robharness", b"robharness-cell", b"robharness-span", b"robharness-passes"
"""Keys of a part's metadata: how its outcomes were computed, the key of its cell, its positions, "0-256", and the
passes that an attack made for them."""
_TYPES = {
    "position": "int64",
    "example": "string",
    "label": "int64",
    "prediction": "int64",
    "correct": "bool",
    "margin": "float",
    "logit_range": "float",
    "confidence": "float",
    "p_true": "float",
    "size": "double",
    "attacked": "bool",
}
"""Columns of every outcome that robharness writes, with their types; none has gaps."""
ADDED = ("confidence", "p_true")
"""Columns of `_TYPES` that parts of the store's schema 1 lack; beside those of schema 2, their rows have NaN there."""

MOST_IDS = 16
"""The number of columns of ids that are kept decoded: those of the parts that cells have in common, one if joined."""

Provenances = tuple[dict[str, Any], ...]
"""Each distinct provenance of some outcomes, that of the first positions first. Shared: do not change them."""


@dataclass(frozen=True, order=True)
class Part:
    """The name of a file of outcomes.

    start, stop: it holds the positions start to stop - 1.
    checksum: CRC-32 of its bytes, 8 hexadecimal digits.
    """

    start: int
    stop: int
    checksum: str

    @property
    def name(self) -> str:
        return f"{self.start:05d}-{self.stop:05d}.{self.checksum}.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Stored outcomes of one cell, one row per position.

    table: the requested columns.
    names: the names of all columns that are stored.
    positions: (n,) int64, ascending.
    provenance: each distinct provenance of these rows.
    passes: that an attack made for those of these rows whose passes are known; None if none are.
    """

    table: pa.Table
    names: tuple[str, ...]
    positions: np.ndarray
    provenance: list[dict[str, Any]]
    passes: PassTotals | None


@dataclass(frozen=True, kw_only=True, eq=False)
class PartContent:
    """The decoded content of a part.

    table: the requested columns.
    names: of all its columns.
    types: of all its columns, as pyarrow names them.
    provenances: the distinct provenances of its outcomes.
    passes: that an attack made for its outcomes; None if they are not known, as in parts of earlier versions.
    n: the number of its outcomes.
    """

    table: pa.Table
    names: tuple[str, ...]
    types: tuple[str, ...]
    provenances: Provenances
    passes: PassTotals | None
    n: int

    def passes_of(self, n: int) -> PassTotals | None:
        """Return the passes for n of its outcomes, the expected ones if these are not all."""
        return self.passes and self.passes.scaled(n / self.n)


class Counts(NamedTuple):
    """The number of stored outcomes of a cell, that of the right predictions among them, and passes of its attack."""

    n: int
    right: int
    passes: PassTotals | None = None


class Check(Protocol):
    """A check of a part against a plan.

    columns: the names of the columns that it needs.
    """

    @property
    def columns(self) -> Sequence[str]: ...

    def __call__(self, part: Part, content: PartContent) -> None:
        """Raise DamagedPart, with the reason, if the part does not hold outcomes of the plan."""


class DamagedPart(Exception):
    """A part whose content is not what was written. The message gives the evidence."""


def encode(
    key: str, start: int, table: pa.Table, provenances: Sequence[dict[str, Any]], passes: PassTotals | None
) -> tuple[Part, bytes, Provenances]:
    """Encode a table of outcomes from position `start` on.

    key: of the cell, which the part carries together with its span.
    Return the part's name, its bytes, and the provenances as `decode` gives them.
    """
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    text = json.dumps(list(provenances))
    stop = start + table.num_rows
    metadata = {_PROVENANCE: text, _CELL: key, _SPAN: f"{start}-{stop}"}
    table = table.replace_schema_metadata(metadata if passes is None else metadata | {_PASSES: passes.to_json()})
    # no statistics: nothing reads them, and pyarrow ends the process if those of a damaged footer contradict each other
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, write_statistics=False)
    content = sink.getvalue()
    return Part(start, stop, checksum(content)), content, _provenances(text.encode())


def decode(content: bytes, key: str, part: Part, columns: Sequence[str] | None) -> PartContent:
    """Decode the bytes of a part.

    key: of the cell in whose folder the part is.
    columns: names; all columns if None. Those that the part lacks are left out.
    Raises DamagedPart for bytes with another checksum, bytes that are no parquet file, another number of rows, columns
    of another type or with gaps, and outcomes of another cell or of other positions than the name says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if checksum(content) != part.checksum:
        raise DamagedPart(f"its {len(content)} bytes have another checksum than the one in its name")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        schema, metadata = file.schema_arrow, file.schema_arrow.metadata or {}
        _check_schema(file.metadata.num_rows, schema, key, part)
        _check_paths(file)
        provenances = _provenances(metadata.get(_PROVENANCE, b"[]"))
        passes = PassTotals.from_json(metadata[_PASSES]) if _PASSES in metadata else None
        wanted = schema.names if columns is None else [name for name in columns if name in schema.names]
        is_old = _SPAN not in metadata and "position" in schema.names
        table = _read(file, content, [*wanted, *({"position"} - set(wanted) if is_old else ())])
        if table.num_rows != file.metadata.num_rows and table.num_columns:
            raise DamagedPart(f"it has {table.num_rows} rows")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedPart(" ".join(str(error).split())) from None
    if is_old and not np.array_equal(table["position"].to_numpy(), span_positions(part.start, part.stop)):
        raise DamagedPart("it holds other positions than its name says")
    gaps = [name for name in table.column_names if name in _TYPES and table[name].null_count]
    if gaps:
        raise DamagedPart(f"its column '{gaps[0]}' has gaps")
    return PartContent(
        table=table.select(wanted).replace_schema_metadata(None),
        names=tuple(schema.names),
        types=tuple(map(str, schema.types)),
        provenances=provenances,
        passes=passes,
        n=part.stop - part.start,
    )


class _DecodedIds:
    """The columns of ids that were decoded last, by their bytes in the file and what determines how these are decoded.

    The cells of a suite have the same ids, which take longer to decode than all else that a report reads of a part.
    """

    def __init__(self) -> None:
        self._columns = dict[object, "pa.ChunkedArray"]()
        self._lock = Lock()  # cells are read in several threads

    def __len__(self) -> int:
        return len(self._columns)

    def get(self, key: object) -> pa.ChunkedArray | None:
        return self._columns.get(key)

    def add(self, key: object, column: pa.ChunkedArray) -> None:
        with self._lock:
            self._columns[key] = column
            if len(self._columns) > MOST_IDS:
                del self._columns[next(iter(self._columns))]


_decoded_ids = _DecodedIds()


def _read(file: pq.ParquetFile, content: bytes, names: Sequence[str]) -> pa.Table:
    """Read columns of a file; its ids are decoded only if no part with the same ones was read before."""
    others = [name for name in names if name != "example"]
    if len(others) == len(names) or not others or file.metadata.num_row_groups != 1:
        return file.read(columns=names, use_threads=False)
    group, field = file.metadata.row_group(0), file.schema_arrow.field("example")
    chunks = (group.column(at) for at in range(group.num_columns))
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == "example")
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    encoded = content[start : start + chunk.total_compressed_size]
    data_at = chunk.data_page_offset - start
    key = (encoded, chunk.compression, chunk.encodings, chunk.num_values, data_at, field.type, field.nullable)
    ids = _decoded_ids.get(key)
    if ids is None:
        table = file.read(columns=names, use_threads=False)
        _decoded_ids.add(key, table["example"])
        return table
    return file.read(columns=others, use_threads=False).append_column("example", ids)


def covering(parts: Iterable[Part], n: int) -> Iterator[tuple[Part, int, int]]:
    """Yield the parts that together give their positions below n once, each with the span that is its share.

    parts: in order.
    """
    position = 0
    for part in parts:
        first, last = max(part.start, position), min(part.stop, n)
        if first < last:
            yield part, first, last
            position = last


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several parts of a cell as one table. Raises pyarrow.ArrowException if they do not fit."""
    import pyarrow as pa

    table = pa.concat_tables(tables, promote_options="permissive")
    for index, name in enumerate(table.column_names):
        if name in ADDED and table[name].null_count:
            table = table.set_column(index, name, table[name].fill_null(float("nan")))
    return table


def _check_schema(rows: int, schema: pa.Schema, key: str, part: Part) -> None:
    """Raise DamagedPart unless a file has the rows, the cell, the span and the types that a part has.

    Parts that were written before they carried the key of their cell and their span are known by their positions alone.
    """
    if rows != part.stop - part.start:
        raise DamagedPart(f"it has {rows} rows")
    metadata = schema.metadata or {}
    if metadata.get(_CELL, key.encode()) != key.encode():
        raise DamagedPart(f"it holds outcomes of the cell {_text(metadata[_CELL])}")
    span = f"{part.start}-{part.stop}".encode()
    if metadata.get(_SPAN, span) != span:
        raise DamagedPart(f"it holds the positions {_text(metadata[_SPAN])}")
    if len(set(schema.names)) < len(schema.names):
        raise DamagedPart("it has two columns of one name")
    for name in schema.names:
        found = str(schema.field(name).type)
        if found != _TYPES.get(name, found):
            raise DamagedPart(f"its column '{name}' has the type {found}, not {_TYPES[name]}")


def _check_paths(file: pq.ParquetFile) -> None:
    """Raise DamagedPart unless a file names its columns in its schema as it does beside their values."""
    declared = [file.schema.column(at).path for at in range(len(file.schema))]
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        found = [group.column(at).path_in_schema for at in range(group.num_columns)]
        if found != declared:
            name = next((name for name in declared if name not in found), "")
            raise DamagedPart(f"its column {name!a} has another name beside its values")


def _text(value: bytes) -> str:
    return ascii(value[:40].decode("ascii", "replace"))[1:-1]


def checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@lru_cache(maxsize=4096)
def _provenances(text: bytes) -> Provenances:
    """Parse the provenances of a part; parts of one run share theirs. Raises ValueError for anything else."""
    found = json_value(text)
    if not isinstance(found, list):
        raise ValueError("its provenance is no list")
    for record in found:
        check_provenance(record)
    return tuple(found)
