"""Which pictures lie in the folders of a folder: listed once and kept, and listed again where a folder has changed.

A folder's own times change whenever a file in it comes, goes or gets another name, so a listing serves as long as they
do not. Trade-off: names are all that is kept, so a file whose content changes is not noticed here.
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
"""What names of pictures end in, in any case; the list is torchvision's."""
SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was listed may change again within one tick of its file system's
clock, which is 2 s at the worst (FAT); its listing is not kept."""

Kept = dict[str, tuple[list[int], list[str]]]
"""Folder -> what `_stamp` said when it was listed, and the names in it."""


def pictures_below(folder: Path) -> dict[str, list[str]]:
    """Folder -> the pictures in it, for every folder in `folder`; sorted, hidden ones left out, not those further down.

    Raises OSError where `folder` or a folder in it cannot be listed.
    """
    file, now = _cache() / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json.gz", time.time_ns()
    kept, found = _read(file), Kept()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.name.startswith(".") and entry.is_dir():
            stamp = _stamp(entry.stat())  # before its names: what comes in between is noticed the next time
            same = kept.get(entry.name, ([], []))
            found[entry.name] = same if same[0] == stamp else (stamp, pictures_in(entry.path))
    settled = {name: one for name, one in found.items() if max(one[0][:2]) < now - SETTLED_NS}
    if settled != kept:
        _write(file, settled)
    return {name: names for name, (_, names) in found.items()}


def pictures_in(folder: str | Path) -> list[str]:
    """The names of the pictures in a folder, sorted, hidden ones left out. Raises OSError where it cannot be listed."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()
        )


def _stamp(status: os.stat_result) -> list[int]:
    """Changes with the folder; the second time does even where a tool that copies sets the first one back."""
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robharness" / "listings"


def _read(file: Path) -> Kept:
    """What was kept; nothing where it cannot be read, whatever the reason, since it can be listed again."""
    try:
        with gzip.open(file, "rt", encoding="ascii") as text:
            return {name: (stamp, names) for name, (stamp, names) in json.load(text).items()}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError):
        return {}


def _write(file: Path, kept: Kept) -> None:
    """Keep it, whole or not at all; nothing where there is no place to."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(gzip.compress(json.dumps(kept).encode(), compresslevel=1))
        Path(temporary.name).replace(file)
