"""Files that others wrote: those that options name, which count by their content, and records in a store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robharness.errors import MissingResource, UserError, exists, for_shell
from robharness.plugins.registry import Entry
from robharness.reading import NotAFile, kind_of_file, read_regular
from robharness.specs.references import Component
from robharness.specs.sources import DataRef

LARGEST_RECORD = 2**26
"""Size, in bytes, of the largest JSON file that is read; those that robharness writes have kilobytes."""


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises OSError if the file cannot be read, and ValueError, with the reason, if its content is anything else.
    """
    return json_object(read_regular(path, LARGEST_RECORD))


def json_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ValueError, with the reason, for anything else, however deep or large."""
    found = json_value(content)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def json_value(content: bytes) -> Any:
    """Parse JSON. Raises ValueError, with the reason, for anything else; no object has one key twice."""
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_without_doubles)
        if _is_deep(found):
            raise RecursionError
        return found
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} in line {error.lineno}") from None


MAX_DEPTH = 100
"""The deepest nesting of JSON that is read, so that it can be compared, hashed and written again."""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("one of its JSON objects has a key twice")
    return found


def content_digest(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder, in hexadecimal.

    Raises UserError if one of them cannot be read.
    """
    try:
        if not path.is_dir():
            return digest_of(path)
        digest, seen = hashlib.sha256(), set[str]()
        for folder, folders, names in os.walk(path, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in sorted(Path(folder, name) for name in names):
                digest.update(os.fsencode(file.relative_to(path)) + b"\0" + digest_of(file).encode())
        return digest.hexdigest()
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read: {error.strerror}. Try: ls -l {for_shell(path)}"
        ) from None


FileState = tuple[Path, int, int, int, int]
"""A file's path, its size, its times and its inode; no copy of a file can set the time of its change."""
MOST_DIGESTS = 4096
"""The number of digests that are kept."""
_digests: dict[FileState, str] = {}


def known_digests() -> dict[FileState, str]:
    """Return the sha256 of the files that this process has read, to hand them over to another process."""
    return dict(_digests)


def add_known_digests(found: Mapping[FileState, str]) -> None:
    """Take over digests of files from another process. A file counts as read as long as its state is the same."""
    _digests.update(found)


def digest_of(path: Path) -> str:
    """Return the sha256 of a file, which is read once per state. Raises OSError, e.g. for a file that is none."""
    facts = path.stat()
    if kind := kind_of_file(facts.st_mode):  # reading a pipe or a device may never end
        raise NotAFile(path, kind)
    state = (path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    if state not in _digests:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if len(_digests) >= MOST_DIGESTS:
            del _digests[next(iter(_digests))]
        _digests[state] = digest
    return _digests[state]


def paths_in(value: Any) -> Iterator[Path]:
    """Yield the paths in an option's value, at any depth."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, DataRef):
        yield from paths_in(value.resolved and value.resolved.params)
    elif isinstance(value, Component):
        yield from paths_in(value.params)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            if not item.metadata.get("runtime"):
                yield from paths_in(getattr(value, item.name))
    elif isinstance(value, dict | list | tuple | set | frozenset):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from paths_in(inner)


def require_files(entry: Entry, params: Any) -> None:
    """Raise MissingResource for the first file or folder that an option names and that does not exist.

    The files of an encoder in an option are not looked at; the plan of its model requires them.
    """
    for name, key, path in _named_paths(entry.name, params):
        if not exists(path):
            what = f"the file '{key}' of {name}"
            raise MissingResource(what, where=str(path), get=f"correct `{key}:` in the suite")


def _named_paths(name: str, params: Any) -> Iterator[tuple[str, str, Path]]:
    """Yield the paths in options, each with the name of the spec that has the option, and with the option.

    name: full name of the spec that has these options.
    """
    for item in dataclasses.fields(params) if dataclasses.is_dataclass(params) else ():
        value = getattr(params, item.name)
        if item.metadata.get("runtime"):
            continue
        if isinstance(value, Component):
            yield from _named_paths(value.full_name, value.params)
        else:
            yield from ((name, item.name, path) for path in paths_in(value))
