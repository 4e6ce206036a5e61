"""Reader for TensorFlow checkpoints ("tensor bundles"), without TensorFlow.

PREFIX.index is a table in LevelDB's format. It maps the name of a variable to a protocol buffer, which has the position
of the variable in PREFIX.data-SHARD-of-SHARDS and its CRC32C. The checksum of every variable is verified, so the sha256
of the index identifies the weights, although the data are in other files.
Sources: tensorflow/core/lib/io/{format,block,table}.cc, core/util/tensor_bundle, core/protobuf/tensor_bundle.proto.
Trade-off: this module replaces TensorFlow, which has 270 MB and restricts the versions of NumPy and protobuf. The only
package that reads such files without TensorFlow, tensorflow-checkpoint-reader of 2023, calls itself unfinished.
"""

from __future__ import annotations

import glob
import math
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
from robharness.checkpoints import Unfit, opened, too_large

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = struct.Struct("<BI")
"""After each block: its compression (0 is none, as TensorFlow writes checkpoints) and its checksum."""
_SHARDS, _ENDIANNESS = 1, 2
"""Field numbers of BundleHeaderProto, which the table stores under the empty name."""
_TYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CRC, _SLICES = range(1, 8)
"""Field numbers of BundleEntryProto; fields with the value 0 are omitted."""
_FLOAT = 1
_LARGEST_INDEX = 8 * 2**20
"""Bytes of an index; that of a ResNet-152 has 200,000."""
_LONGEST_NAME = 1000
_RATIO = 100
"""Most bytes that one byte of a zip becomes; weights hardly become smaller in a zip."""
_IN_ZIP = re.compile(r"(?!__MACOSX)(.*/)?model\.ckpt[^/]*\.index")
"""Path of a checkpoint's index in a zip. A zip may also contain a TensorFlow Hub module with another index."""


def read(path: Path, pattern: str) -> dict[str, np.ndarray]:
    """Return name -> array, float32, of the variables whose full names match the pattern.

    path: PREFIX.index, with the data files in the same folder, or a zip that contains both.
    pattern: regular expression.
    Raises UserError if a file is missing or damaged, or if a variable has another type.
    """
    _checksum(b"")
    with ExitStack() as stack:
        try:
            files = _Files(path, stack)
            rows = dict(_rows(files.index()))
            header = dict(_fields(rows.pop(b"")))
            if header.get(_ENDIANNESS):
                raise _Damaged("the checkpoint is big-endian")
            names = {name.decode(): dict(_fields(value)) for name, value in rows.items()}
            found = {name: entry for name, entry in names.items() if re.fullmatch(pattern, name)}
            for entry in found.values():
                files.shard(entry.get(_SHARD, 0), header[_SHARDS])
            if sum(entry.get(_SIZE, 0) for entry in found.values()) > files.size:
                raise _Damaged("its variables have more bytes than its files")
            order = sorted(found, key=lambda name: (found[name].get(_SHARD, 0), found[name].get(_OFFSET, 0)))
            # in file order, since seeking backwards in a zip decompresses it again
            return {name: _values(files, header[_SHARDS], name, found[name]) for name in order}
        except _BROKEN as error:
            raise UserError(
                f"{path} is not a complete TensorFlow checkpoint: {error}. Try: ls -l {path.parent}"
            ) from None


class _Damaged(Exception):
    """A defect of a checkpoint, described by the message."""


_BROKEN = (_Damaged, Unfit, zipfile.BadZipFile, NotImplementedError, zlib.error, struct.error, LookupError, ValueError,
           TypeError, OverflowError, OSError)  # fmt: skip
"""Exceptions that reading a damaged file may raise."""


class _Files:
    """An index and its data shards, in a folder or in a zip; closed with the exit stack."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._stack, self._shards = stack, dict[int, IO[bytes]]()
        self._zip = stack.enter_context(opened(path)) if path.suffix == ".zip" else None
        names = [name for name in self._zip.namelist() if _IN_ZIP.fullmatch(name)] if self._zip else [str(path)]
        if len(names) != 1:
            raise _Damaged(f"it contains {len(names)} files model.ckpt-*.index instead of one")
        self._prefix = names[0].removesuffix(".index")
        self.size = self._size(path)

    def _size(self, path: Path) -> int:
        """Return the bytes of all files of the checkpoint, unpacked. Raises _Damaged for a zip that grows too much."""
        if self._zip is None:
            size = sum(file.stat().st_size for file in path.parent.glob(f"{glob.escape(path.stem)}.data-*"))
            if reason := too_large(size):
                raise _Damaged(f"it {reason}")
            return size
        size = sum(record.file_size for record in self._zip.infolist())
        if size > _RATIO * path.stat().st_size:
            raise _Damaged(f"unpacked, it has more than {_RATIO} times its bytes")
        return size

    def index(self) -> bytes:
        with self._open(f"{self._prefix}.index") as file:
            index = file.read(_LARGEST_INDEX + 1)
        if len(index) > _LARGEST_INDEX:
            raise _Damaged(f"its index has more than {_LARGEST_INDEX / 2**20:.0f} MiB")
        return index

    def shard(self, number: int, count: int) -> IO[bytes]:
        if number not in self._shards:
            file = self._open(f"{self._prefix}.data-{number:05}-of-{count:05}")
            self._shards[number] = self._stack.enter_context(file)
        return self._shards[number]

    def _open(self, name: str) -> IO[bytes]:
        if self._zip is None and not Path(name).is_file():  # a pipe would wait for a writer
            raise _Damaged(f"{name} cannot be read")
        try:
            return self._zip.open(name) if self._zip else open(name, "rb")
        except (KeyError, OSError, RuntimeError):  # RuntimeError for an encrypted file
            raise _Damaged(f"{name} cannot be read") from None


def _rows(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, protocol buffer) pairs in the order of the index."""
    if len(index) < _FOOTER or int.from_bytes(index[-8:], "little") != _MAGIC:
        raise _Damaged("the index has no valid footer")
    footer, left = index[-_FOOTER:], len(index)
    _, _, at = _handle(footer, 0)  # handle of the metaindex block, which is always empty
    offset, size, _ = _handle(footer, at)
    for _, handle in _block(index, offset, size):
        offset, size, _ = _handle(handle, 0)
        left -= size
        if left < 0:
            raise _Damaged("the blocks of the index overlap")
        yield from _block(index, offset, size)


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a block. A key is stored without the prefix shared with the previous key."""
    compression, crc = _TRAILER.unpack_from(index, offset + size)
    if compression:
        raise _Damaged("the index is compressed")
    if _checksum(index[offset : offset + size + 1]) != crc:
        raise _Damaged("the checksum of the index is wrong")
    block = index[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < size - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared + unshared > _LONGEST_NAME:
            raise _Damaged(f"the index has a name of more than {_LONGEST_NAME} characters")
        key = key[:shared] + block[at : at + unshared]
        at += unshared + length
        yield key, block[at - length : at]


def _values(files: _Files, shards: int, name: str, entry: dict[int, Any]) -> np.ndarray:
    """Read a variable and verify its checksum.

    shards: number of data shards.
    entry: field number -> value of its BundleEntryProto.
    """
    if entry.get(_TYPE) != _FLOAT or _SLICES in entry:
        raise _Damaged(f"{name} is not of type float32, or is stored in slices")
    sizes = [dict(_fields(dimension)).get(1, 0) for _, dimension in _fields(entry.get(_SHAPE, b""))]
    if math.prod(sizes) * 4 != entry.get(_SIZE, 0):
        raise _Damaged(f"{name} has another size than its shape")
    file = files.shard(entry.get(_SHARD, 0), shards)
    file.seek(entry.get(_OFFSET, 0))
    data = file.read(entry.get(_SIZE, 0))
    if _checksum(data) != entry.get(_CRC, 0):
        raise _Damaged(f"the checksum of {name} differs from the index")
    return np.frombuffer(data, "<f4").reshape(sizes)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a protocol buffer's fields, in order; a value is an integer or bytes."""
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
            raise _Damaged(f"the index has a field of the unknown wire type {tag & 7}")
        yield tag >> 3, value


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Decode a block handle: return the block's offset, its size, and the position after the handle."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode an integer in groups of seven bits, lowest first; return it and the position after it."""
    value = shift = 0
    while data[at] & 0x80:
        if shift > 63:
            raise _Damaged("the index has a number of more than 64 bits")
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _checksum(data: bytes) -> int:
    """Return the CRC32C of the data, masked as in TensorFlow, since the CRC of data that contain CRCs is weak."""
    try:
        from google_crc32c import value
    except ImportError:
        raise UserError(
            "TensorFlow checkpoints need the package google-crc32c. Try: pip install 'robharness-simclr[tf]'"
        ) from None
    crc: int = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
