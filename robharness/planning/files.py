"""Files that options name: found before anything runs, and part of an identity by their content."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from robharness.errors import MissingResource, UserError, exists, for_shell
from robharness.plugins.registry import Entry
from robharness.reading import kind_of_file


def content_digest(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder, in hexadecimal.

    Raises UserError if one of them cannot be read.
    """
    try:
        if not path.is_dir():
            return _file_digest(path)
        digest, seen = hashlib.sha256(), set[str]()
        for folder, folders, names in os.walk(path, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in sorted(Path(folder, name) for name in names):
                digest.update(os.fsencode(file.relative_to(path)) + b"\0" + _file_digest(file).encode())
        return digest.hexdigest()
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read: {error.strerror}. Try: ls -l {for_shell(path)}"
        ) from None


def _file_digest(path: Path) -> str:
    facts = path.stat()
    if kind := kind_of_file(facts.st_mode):  # reading a pipe or a device may never end
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return _digest_of(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, size: int, modified: int, inode: int) -> str:
    """Read a file once, as long as its size, its time and its inode stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def paths_in(value: Any) -> Iterator[Path]:
    """Yield the paths in an option's value, at any depth."""
    if isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            if not item.metadata.get("runtime"):
                yield from paths_in(getattr(value, item.name))
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from paths_in(inner)


def require_files(entry: Entry, params: Any) -> None:
    """Raise MissingResource for the first file or folder that an option names and that does not exist."""
    for item in dataclasses.fields(params) if params is not None else ():
        for path in () if item.metadata.get("runtime") else paths_in(getattr(params, item.name)):
            if not exists(path):
                what = f"the file '{item.name}' of {entry.name}"
                raise MissingResource(what, where=str(path), get=f"correct `{item.name}:` in the suite")
