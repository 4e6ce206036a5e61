"""Places of stores: folders of this machine, and prefixes of object stores such as s3://bucket/prefix."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

from robharness.errors import UserError, as_path, check_folder, exists, expanded
from robharness.text import printable

SCHEMES = ("s3", "gs", "memory")
"""The kinds of object stores. One in "memory" lives as long as the process, for tests."""
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Environment variables with the address of a server of S3, the one that counts first."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)")


class ObjectPath(PurePosixPath):
    """The path of an object store, or of something in it: s3://bucket/prefix/cells.

    It is no path of this machine: `pathlib` can join and split it, and `robharness.store.objects` reads and writes it.
    """

    def __str__(self) -> str:
        first, *rest = self.parts or (".",)
        return f"{first}//{'/'.join(rest)}" if first.endswith(":") else super().__str__()

    @property
    def bucket(self) -> str:
        """The URL of the bucket."""
        return str(ObjectPath(*self.parts[:2]))

    @property
    def scheme(self) -> str:
        return self.parts[0].removesuffix(":")

    @property
    def object_key(self) -> str:
        """The name within the bucket; empty for the bucket itself."""
        return "/".join(self.parts[2:])


Location = Path | ObjectPath
"""A folder, or a prefix of an object store."""


def location(given: str | os.PathLike[str]) -> Location:
    """Return the place that a text or a path names. Raises UserError for a URL that is of no object store."""
    text = os.fspath(given)
    match = _URL.match(text)
    scheme = match[1].lower() if match else ""
    # `pathlib` makes one slash of two
    if match is None or (match[2] == "/" and (scheme not in SCHEMES or exists(Path(text)))):
        return Path(given)
    if scheme not in SCHEMES:
        raise UserError(
            f"'{printable(text)}' is no place of results: these are folders, and object stores with s3:// or gs://. "
            "Try: --store s3://BUCKET/PREFIX"
        )
    parts = [part for part in text[match.end() :].split("/") if part]
    if not parts or not {".", ".."}.isdisjoint(parts):
        raise UserError(f"'{printable(text)}' names no bucket and prefix. Try: --store {scheme}://BUCKET/PREFIX")
    return ObjectPath(f"{scheme}:", *parts)


def store_location(given: object) -> Location:
    """Return the place of a store that a caller gave. Raises UserError if there can be no store."""
    if isinstance(given, ObjectPath):
        return given
    what = "`store` is the path of a folder"
    place = location(given if isinstance(given, str) else as_path(given, what, 'store=".robharness"'))
    if isinstance(place, Path):
        check_folder(place, "the store")
    return place


def absolute(place: Location) -> Location:
    """Return the same place, independent of the working directory."""
    return place.absolute() if isinstance(place, Path) else place


def resolved(place: Location) -> Location:
    """Return the same place without links, to compare it with another."""
    return place.resolve() if isinstance(place, Path) else place


def s3_endpoint() -> str:
    """Return the address of the server of S3 that the environment names; empty for that of AWS."""
    return next(filter(None, (os.environ.get(name, "") for name in S3_ENDPOINTS)), "")


def local_folder(place: Location) -> Path:
    """Return the folder of this machine that holds what must be a file: the store, or the copy of an object store.

    The copy is in $ROBHARNESS_CACHE, else in the cache folder of the user. It may be deleted at any time.
    """
    if isinstance(place, Path):
        return place
    cache = os.environ.get("ROBHARNESS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "robharness"
    )
    server = s3_endpoint() if place.scheme == "s3" else ""
    digest = hashlib.sha256(f"{server} {place}".encode()).hexdigest()[:16]
    return expanded(cache).absolute() / "stores" / digest
