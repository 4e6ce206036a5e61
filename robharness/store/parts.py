"""Parts: parquet files of outcomes. Positions and checksum are in the name, provenance is in the metadata."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

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
    """

    table: pa.Table
    names: tuple[str, ...]
    positions: np.ndarray
    provenance: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PartContent:
    """The decoded content of a part.

    table: the requested columns.
    names: of all its columns.
    provenances: the distinct provenances of its outcomes.
    """

    table: pa.Table
    names: tuple[str, ...]
    provenances: Provenances


class DamagedPart(Exception):
    """A part whose content is not what was written. The message gives the evidence."""


def encode(start: int, table: pa.Table, provenances: Sequence[dict[str, Any]]) -> tuple[Part, bytes, Provenances]:
    """Encode a table of outcomes from position `start` on.

    Return the part's name, its bytes, and the provenances as `decode` gives them.
    """
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    text = json.dumps(list(provenances))
    table = table.replace_schema_metadata({"robharness": text})
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue()
    return Part(start, start + table.num_rows, checksum(content)), content, _provenances(text.encode())


def decode(content: bytes, part: Part, columns: Sequence[str] | None) -> PartContent:
    """Decode the bytes of a part.

    columns: names; all columns if None.
    Raises DamagedPart for bytes with another checksum, bytes that are no parquet file, and another number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if checksum(content) != part.checksum:
        raise DamagedPart(f"its {len(content)} bytes have another checksum than the one in its name")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedPart(str(error)) from None
    if file.metadata.num_rows != part.stop - part.start:
        raise DamagedPart(f"it has {file.metadata.num_rows} rows")
    provenances = _provenances((file.schema_arrow.metadata or {}).get(b"robharness", b"[]"))
    names = tuple(file.schema_arrow.names)
    return PartContent(table=table.replace_schema_metadata(None), names=names, provenances=provenances)


def checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@lru_cache(maxsize=4096)
def _provenances(text: bytes) -> Provenances:
    """Parse the provenances of a part; parts of one run share theirs."""
    return tuple(json.loads(text))
