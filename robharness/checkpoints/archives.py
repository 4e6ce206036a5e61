"""The directory and the checksums of a zip archive, checked before its records take memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robharness.checkpoints.bounds import CappedFile, Damaged, Unfit

_END = b"PK\x05\x06"
_END_SIZE = 22
"""Bytes of the last record of a zip archive without a comment."""
_CODE = 16 * 2**20
"""Bytes of the code of a TorchScript program, the only records that are compressed."""
_CHUNK = 2**20


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises Unfit for a directory that is too large, BadZipFile for one that is damaged.

    An archive that torch wrote without checksums has zeros in their place, which are not compared.
    """
    with CappedFile(path) as file, zipfile.ZipFile(file) as archive:
        file.limit = max(path.stat().st_size, file.limit)  # its records are not larger than the file
        if not any(record.CRC for record in archive.infolist()):
            for record in archive.infolist():
                del record.CRC
        yield archive


def root(archive: zipfile.ZipFile) -> str:
    """Return the folder of an archive of torch, of which the first record tells the name."""
    return archive.namelist()[0].partition("/")[0]


def require_sound(path: Path, archive: zipfile.ZipFile, *, is_script: bool) -> dict[str, int]:
    """Return the size of each record of an archive of torch by its name below the folder, in bytes.

    Two readers of zip archives, Python's and torch's, must see the same records: no name is there twice, in either
    case, and nothing follows the directory.
    Raises Damaged or Unfit if the directory does not describe the file, or describes more than the file has.
    """
    size, folder = path.stat().st_size, f"{root(archive)}/"
    with CappedFile(path) as file:
        file.seek(max(0, size - _END_SIZE))
        if file.read(_END_SIZE)[:4] != _END:
            raise Damaged("other bytes follow its directory")
    records = archive.infolist()
    names = [record.filename for record in records]
    if twice := len(names) - len({name.casefold() for name in names}):
        raise Damaged(f"{twice} of its records have the name of another one")
    if not all(name.startswith(folder) for name in names):
        raise Damaged(f"not all of its records are in the folder {folder}")
    compressed = [record for record in records if record.compress_type != zipfile.ZIP_STORED]
    if compressed and not is_script:
        raise Unfit(f"{len(compressed)} of its {len(records)} records are compressed, which torch.save never does")
    if sum(record.file_size for record in compressed) > _CODE:
        raise Unfit(f"its code has more than {_CODE / 2**20:.0f} MiB")
    if any(record.flag_bits & 1 for record in records):
        raise Unfit("its records are encrypted")
    stored = [record for record in records if record.compress_type == zipfile.ZIP_STORED]
    if any(record.file_size != record.compress_size for record in stored) or any(
        not 0 <= record.header_offset <= size - record.compress_size for record in records
    ):
        raise Damaged("its directory describes records that the file does not have")
    if sum(record.compress_size for record in records) > size:
        raise Damaged(f"its records overlap: together they have more than the file's {size:,} bytes")
    return {name.removeprefix(folder): record.file_size for name, record in zip(names, records, strict=True)}


def require_checksums(archive: zipfile.ZipFile) -> None:
    """Raise Damaged for the first record with another checksum than the directory's, which torch does not compare."""
    for record in archive.infolist():
        try:
            with archive.open(record) as content:
                while content.read(_CHUNK):
                    pass
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise Damaged(f"{str(error).rstrip('.')}") from error
