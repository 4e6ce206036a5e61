"""Cached listings of the image files in a folder's subfolders; a changed subfolder is listed again.

A folder's timestamps change when a file in it is added, removed or renamed, so a listing is valid while they stay the
same. Trade-off: only names are cached, so a changed content of a file is not detected here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, compared in lower case. Source: torchvision."""
SETTLED_NS = 2_000_000_000
"""Minimum age of a folder's last change, in nanoseconds, for its listing to be cached. A younger folder may change
again within one tick of its file system's clock, at most 2 s (FAT), without a change of its timestamps."""

Listings = dict[str, tuple[list[int], list[str]]]
"""Folder -> its `_stamp` when it was listed, and the names of its images."""


def images_below(folder: Path) -> dict[str, list[str]]:
    """Return subfolder -> names of its image files, for each direct subfolder of `folder`.

    Both are sorted; hidden files, hidden folders and deeper folders are ignored.
    Raises OSError if `folder` or a subfolder cannot be listed.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    file, now = _cache_folder() / f"{name}.json.gz", time.time_ns()
    cached, found = _read_cache(file), Listings()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.is_dir():
            stamp = _stamp(entry.stat())  # before listing, so that a change in between is detected the next time
            old = cached.get(entry.name, ([], []))
            found[entry.name] = old if old[0] == stamp else (stamp, images_in(entry.path))
    settled = {name: listing for name, listing in found.items() if max(listing[0][:2]) < now - SETTLED_NS}
    if settled != cached:
        _write_cache(file, settled)
    return {name: names for name, (_, names) in found.items()}


def images_in(folder: str | Path) -> list[str]:
    """Return the sorted names of the image files in a folder, except hidden ones.

    Raises OSError if the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()
        )


def _stamp(status: os.stat_result) -> list[int]:
    """Return mtime, ctime and inode of a folder. ctime changes even if a copying tool resets mtime."""
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _cache_folder() -> Path:
    """Return the folder of cached listings, or a path that cannot exist if there is no home directory."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        caches = Path(os.devnull)
    return caches / "robharness" / "listings"


def _read_cache(file: Path) -> Listings:
    """Return the cached listings, or none if the file is missing or damaged, since folders can be listed again."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as text:
            return {name: (stamp, names) for name, (stamp, names) in json.load(text).items()}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(file: Path, listings: Listings) -> None:
    """Write the cache atomically. An unwritable cache folder is ignored."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(gzip.compress(json.dumps(listings).encode(), compresslevel=1))
        Path(temporary.name).replace(file)
