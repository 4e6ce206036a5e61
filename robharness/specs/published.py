"""Published files that `robharness fetch` gets: downloads, archives and conversions; and pages, for those it cannot.

Each record says by `hint` how a person gets the same without robharness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from robharness.errors import for_shell
from robharness.specs.lazy import is_target, resolve_targets
from robharness.specs.types import RUNTIME


def check_texts(record: object, **required: bool) -> None:
    """Raise ValueError for a field that is no text, or for an empty text that is required."""
    for key, is_required in required.items():
        value = getattr(record, key)
        if not (isinstance(value, str) or (value is None and not is_required)) or (is_required and not value):
            raise ValueError(f"{type(record).__name__}: {key}={value!r} must be a text")


def check_sha256(record: Any) -> None:
    """Raise ValueError for a digest that no file can have."""
    value = record.sha256
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value)):
        raise ValueError(
            f"{type(record).__name__}: sha256={value!r} must be up to 64 hexadecimal digits, in lower case"
        )


@dataclass(frozen=True, kw_only=True)
class Download:
    """Weights that a publisher serves, expected in `<data root>/weights/<name>`.

    url: address of the file.
    sha256: of the file, or its first digits; checked before use. None if none is published.
    md5: of the file; checked when it is fetched. None if none is published.
    size: of the file, in bytes; None if it is not published.
    name: path below `weights`, else the last part of the url. A mirror serves the file under this name.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_published(self)

    @property
    def file_name(self) -> str:
        """The path of the file below the folder of weights, and below the address of a mirror."""
        return self.name or last_part(self.url)

    def hint(self, path: Path) -> str:
        """Return the sentence with the shell command that writes the file to a path."""
        return f"To get it: {_curl(self.url, path)}"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A tar or zip archive that a publisher serves, to be unpacked below the data root.

    url: address of the archive.
    sha256: of the archive, or its first digits. None if none is published.
    md5: of the archive. None if none is published.
    size: of the archive, in bytes; None if it is not published.
    unpacked: number of bytes of the unpacked files; None if it is not known.
    into: folder below the data root in which it is unpacked; empty for the data root itself.
    name: file name of the archive, else the last part of the url. A mirror serves it under this name.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    unpacked: int | None = None
    into: str = ""
    name: str | None = None

    def __post_init__(self) -> None:
        _check_published(self)
        _check_count(self, "unpacked")
        _check_relative(self, "into", self.into)
        if not self.file_name.endswith(SUFFIXES):
            raise ValueError(f"Archive: the name {self.file_name!r} must end with one of {', '.join(SUFFIXES)}")

    @property
    def file_name(self) -> str:
        """The file name of the archive, also below the address of a mirror."""
        return self.name or last_part(self.url)

    def hint(self, root: Path) -> str:
        """Return the sentence with the shell command that downloads the archive and unpacks it.

        root: the data root.
        """
        folder, file = root / self.into, root / self.into / self.file_name
        unpack = (
            f"unzip -o {for_shell(file)} -d {for_shell(folder)}"
            if self.file_name.endswith(".zip")
            else f"tar -xf {for_shell(file)} -C {for_shell(folder)}"
        )
        return f"To get it: {_curl(self.url, file)} && {unpack} && rm {for_shell(file)}"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page where a person gets a file by hand, since it asks for a registration, or since no program can get it.

    url: address of the page.
    reason: why robharness does not get it, as a clause: "it asks for a registration".
    then: shell command to type after the download; empty if nothing else is to be done.
    """

    url: str
    reason: str
    then: str = ""

    def __post_init__(self) -> None:
        check_texts(self, url=True, reason=True, then=False)

    def hint(self, place: Path) -> str:
        """Return the sentences with the page, and with the command to type after the download."""
        then = f"Then type: {self.then}" if self.then else f"Save the file as {for_shell(place)}"
        return f"Published at {self.url} ({self.reason}). {then}"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A file of weights that the plugin makes from published files.

    sources: the published files by name; they stay where a `Download` is expected.
    convert: (paths of the sources by name, path) writes the file to the path, the same bytes each time. It runs when
        the file is fetched.
    """

    sources: Mapping[str, Download]
    convert: Callable[[Mapping[str, Path], Path], None] | str = field(metadata=RUNTIME)

    def __post_init__(self) -> None:
        if not (self.sources and all(isinstance(each, Download) for each in self.sources.values())):
            raise ValueError(f"Conversion: sources={self.sources!r} must be Downloads by name")
        if not (callable(self.convert) or is_target(self.convert)):
            raise ValueError(f"Conversion: convert={self.convert!r} must be a function or 'module:function'")
        resolve_targets(self, ("convert",))

    def hint(self, path: Path) -> str:
        """Return the sentence that names the published files. Only `robharness fetch` converts them."""
        return f"`robharness fetch` makes it from {' and '.join(source.url for source in self.sources.values())}"


Published = Download | Archive | Conversion
"""Records of what `robharness fetch` gets."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
"""Ends of the names of archives that are unpacked."""


def last_part(url: str) -> str:
    """Return the file name at the end of an address, without its query; empty if there is none."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _check_published(record: Download | Archive) -> None:
    check_texts(record, url=True, name=record.name is not None)
    check_sha256(record)
    kind = type(record).__name__
    if record.md5 is not None and not re.fullmatch("[0-9a-f]{32}", str(record.md5)):
        raise ValueError(f"{kind}: md5={record.md5!r} must be 32 hexadecimal digits, in lower case")
    _check_count(record, "size")
    if not record.file_name:
        raise ValueError(f"{kind}: url={record.url!r} has no name of a file; give `name`")
    _check_relative(record, "name", record.file_name)


def _check_count(record: object, key: str) -> None:
    value = getattr(record, key)
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{type(record).__name__}: {key}={value!r} must be a number of bytes, at least 1")


def _check_relative(record: object, key: str, value: str) -> None:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{type(record).__name__}: {key}={value!r} must be a path below a folder, without '..'")


def _curl(url: str, path: Path) -> str:
    return f"curl --create-dirs -fL -o {for_shell(path)} {for_shell(url)}"
