"""TensorFlow's checkpoints ("tensor bundles"), read without TensorFlow.

PREFIX.index is a table of LevelDB's kind: the name of a variable -> a protocol buffer that says where its bytes lie in
PREFIX.data-SHARD-of-SHARDS, and their CRC32C. Every variable is compared with that checksum: so the index, whose sha256
identifies the weights, answers for the data beside it, too.
Sources: tensorflow/core/lib/io/{format,block,table}.cc, core/util/tensor_bundle, core/protobuf/tensor_bundle.proto.
Trade-off: these lines instead of 270 MB of TensorFlow, which has its own demands on NumPy and protobuf; the one package
that reads such files without it (tensorflow-checkpoint-reader) is of 2023 and calls itself unfinished.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from robharness import UserError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = struct.Struct("<BI")
"""After a block: how it is compressed (0: not; so TensorFlow writes checkpoints) and its checksum."""
_SHARDS, _ENDIANNESS = 1, 2
"""Fields of a BundleHeaderProto, the value of the empty name."""
_TYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CRC, _SLICES = range(1, 8)
"""Fields of a BundleEntryProto; those that are 0 are left out."""
_FLOAT = 1
_IN_ZIP = re.compile(r"(?!__MACOSX)(.*/)?model\.ckpt[^/]*\.index")
"""Beside the checkpoint there may be a module of TensorFlow Hub, whose variables have an index, too."""


def read(path: Path, pattern: str) -> dict[str, np.ndarray]:
    """The variables whose names match the whole pattern, by name, float32.

    path: PREFIX.index with its data beside it, or a zip that holds both. Raises UserError where something is missing,
    damaged or of another type.
    """
    _checksum(b"")
    with ExitStack() as stack:
        try:
            files = _Files(path, stack)
            rows = dict(_rows(files.index()))
            header = dict(_fields(rows.pop(b"")))
            if header.get(_ENDIANNESS):
                raise _Damaged("its bytes are in another order")
            names = {name.decode(): dict(_fields(value)) for name, value in rows.items()}
            found = {name: entry for name, entry in names.items() if re.fullmatch(pattern, name)}
            order = sorted(found, key=lambda name: (found[name].get(_SHARD, 0), found[name].get(_OFFSET, 0)))
            # forwards, since going back in a zip means unpacking it again
            return {name: _values(files, header[_SHARDS], name, found[name]) for name in order}
        except _BROKEN as error:
            raise UserError(f"{path} is no whole checkpoint of TensorFlow: {error}. See: ls -l {path.parent}") from None


class _Damaged(Exception):
    """What is wrong with a checkpoint, in words."""


_BROKEN = (_Damaged, zipfile.BadZipFile, zlib.error, struct.error, LookupError, ValueError)
"""What reading a damaged file comes to."""


class _Files:
    """An index and its shards of data, in a folder or in a zip; open as long as the stack is."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._stack, self._shards = stack, dict[int, IO[bytes]]()
        self._zip = stack.enter_context(zipfile.ZipFile(path)) if path.suffix == ".zip" else None
        names = [name for name in self._zip.namelist() if _IN_ZIP.fullmatch(name)] if self._zip else [str(path)]
        if len(names) != 1:
            raise _Damaged(f"it holds {len(names)} files model.ckpt-*.index instead of one")
        self._prefix = names[0].removesuffix(".index")

    def index(self) -> bytes:
        with self._opened(f"{self._prefix}.index") as file:
            return file.read()

    def shard(self, number: int, count: int) -> IO[bytes]:
        if number not in self._shards:
            file = self._opened(f"{self._prefix}.data-{number:05}-of-{count:05}")
            self._shards[number] = self._stack.enter_context(file)
        return self._shards[number]

    def _opened(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(name) if self._zip else open(name, "rb")
        except (KeyError, OSError):
            raise _Damaged(f"{name} cannot be read") from None


def _rows(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and protocol buffers, as the index lists them."""
    if len(index) < _FOOTER or int.from_bytes(index[-8:], "little") != _MAGIC:
        raise _Damaged("its index does not end as one")
    footer = index[-_FOOTER:]
    _, _, at = _handle(footer, 0)  # of a block that is always empty
    offset, size, _ = _handle(footer, at)
    for _, place in _block(index, offset, size):
        offset, size, _ = _handle(place, 0)
        yield from _block(index, offset, size)


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; of a key only that is written in which it differs from the one before it."""
    compression, crc = _TRAILER.unpack_from(index, offset + size)
    if compression:
        raise _Damaged("its index is compressed")
    if _checksum(index[offset : offset + size + 1]) != crc:
        raise _Damaged("its index has another checksum")
    block = index[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < size - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh + length
        yield key, block[at - length : at]


def _values(files: _Files, shards: int, name: str, entry: dict[int, Any]) -> np.ndarray:
    if entry.get(_TYPE) != _FLOAT or _SLICES in entry:
        raise _Damaged(f"{name} is not of type float32, or in pieces")
    file = files.shard(entry.get(_SHARD, 0), shards)
    file.seek(entry.get(_OFFSET, 0))
    data = file.read(entry.get(_SIZE, 0))
    if _checksum(data) != entry.get(_CRC, 0):
        raise _Damaged(f"{name} has another checksum than its index says")
    sizes = [dict(_fields(dimension)).get(1, 0) for _, dimension in _fields(entry.get(_SHAPE, b""))]
    return np.frombuffer(data, "<f4").reshape(sizes)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields, as they come: whole numbers, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif tag & 7 == 5:
            value, at = int.from_bytes(message[at : at + 4], "little"), at + 4
        else:
            raise _Damaged(f"its index has a field of the unknown kind {tag & 7}")
        yield tag >> 3, value


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Where a block begins, how long it is, and where the next handle begins."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first; and what comes after it."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _checksum(data: bytes) -> int:
    """CRC32C as TensorFlow stores it, "masked", so that a checksum of checksums is none of zeros."""
    try:
        from google_crc32c import value
    except ImportError:
        raise UserError(
            "TensorFlow's checkpoints need the package google-crc32c. To get it: pip install 'robharness-simclr[tf]'"
        ) from None
    crc: int = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
