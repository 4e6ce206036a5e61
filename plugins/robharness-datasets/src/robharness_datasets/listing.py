"""Cached listings of the image files below a folder; a changed folder is listed again.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from robharness import UserError, for_shell

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, compared in lower case. Source: torchvision."""
SETTLED_NS = 2_000_000_000
"""Minimum age of a folder's last change, in nanoseconds, for its listing to be cached. A younger folder may change
again within one tick of its file system's clock, at most 2 s (FAT), without a change of its timestamps."""
MAX_NAMED_SUFFIXES = 5
"""Maximum number of suffixes that a remark names."""


class Listing(NamedTuple):
    """Content of one folder, without hidden files and hidden folders.

    stamp: `_stamp` of the folder when it was listed.
    images: sorted names of its image files.
    folders: sorted names of its folders.
    others: suffix -> number of files with this suffix, which is not one of an image.
    lost: sorted names of links that lead nowhere, without the suffix of an image.
    """

    stamp: list[int]
    images: list[str]
    folders: list[str]
    others: dict[str, int]
    lost: list[str]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Image files below the subfolders of a folder.

    images: subfolder -> sorted paths of its images below it, e.g. "one.png" or "deeper/one.png".
    remarks: sentences about files that are left out.
    lost: sorted names of links in the folder that lead nowhere, without the suffix of an image.
    """

    images: dict[str, list[str]]
    remarks: tuple[str, ...]
    lost: tuple[str, ...] = ()


def images_below(folder: Path) -> Found:
    """Find the image files of each direct subfolder of `folder`, its own subfolders included, as torchvision does.

    Hidden files and folders are ignored. Links are followed, except to a folder that contains the link.
    A folder inside a subfolder that cannot be listed is left out. Raises UserError if `folder` or a direct subfolder
    cannot be listed.
    """
    try:
        top = _listed(folder)
    except OSError as error:
        raise inaccessible(folder, error) from None
    return _found(folder, top.folders, top)


def images_of_tree(folder: Path) -> Found:
    """Find the image files in a folder and in all folders below it, under the key "", by the rules of `images_below`.

    Raises UserError if the folder cannot be listed.
    """
    return _found(folder, [""], None)


def _found(folder: Path, starts: Sequence[str], top: Listing | None) -> Found:
    """Return the images in folders and below them.

    starts: the folders, by their paths below `folder`; "" for the folder itself.
    top: listing of a folder of class folders; None if images need no class.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    file, now = _cache_file(f"{name}.json.gz" if top else f"{name}-tree.json.gz"), time.time_ns()
    cached, listings = _read_cache(file), dict[str, Listing]()
    images: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    top_lost = top.lost if top else []
    loops, lost, unreadable = 0, [folder / name for name in top_lost], list[str]()
    for start in starts:
        images[start] = []
        for path, listing in _walk(folder, start, cached):
            if listing is None:
                loops += 1
                continue
            if isinstance(listing, OSError):
                if path == start:
                    raise inaccessible(folder / path, listing)
                unreadable.append(_reason(folder / path, listing))
                continue
            listings[path] = listing
            others.update(listing.others)
            lost += [folder / path / name for name in listing.lost]
            below = path[len(start) + 1 :] if start else path
            images[start] += [f"{below}/{one}" if below else one for one in listing.images]
        images[start].sort()
    settled = {path: listing for path, listing in listings.items() if _is_settled(listing, now)}
    if settled != cached:
        _write_cache(file, settled)
    left_out = _remarks(len(top.images) if top else 0, others, loops, "class folders" if top else "the folder")
    remarks = [*left_out, *_access_remarks(lost, unreadable)]
    return Found(images=images, remarks=tuple(remarks), lost=tuple(top_lost))


def inaccessible(path: Path, error: OSError) -> UserError:
    """Return the error of a file or a folder that the operating system does not let us read."""
    return UserError(f"{_reason(path, error)}. Try: ls -ld {for_shell(path)}")


def _reason(path: Path, error: OSError) -> str:
    return f"{shown(path)} cannot be read: {error.strerror or error}"


def _access_remarks(lost: Sequence[Path], unreadable: Sequence[str]) -> Iterator[str]:
    """Yield a sentence on links that lead nowhere, and one on folders that cannot be listed, each with the first."""
    if lost:
        one = len(lost) == 1
        number = "1 link that leads nowhere" if one else f"{len(lost):,} links that lead nowhere"
        yield f"{number} {_verb(len(lost))} left out{': ' if one else ', such as '}{shown(lost[0])}"
    if unreadable:
        count = len(unreadable) - 1
        more = f", as {'is' if count == 1 else 'are'} {_count(count, 'other folder')}" if count else ""
        yield f"{unreadable[0]}; its images are left out{more}"


def _is_settled(listing: Listing, now: int) -> bool:
    """Return whether a listing may be cached. The target of a lost link may appear without a change of the folder."""
    return max(listing.stamp[:2]) < now - SETTLED_NS and not listing.lost


def images_in(folder: str | Path) -> list[str]:
    """Return the sorted names of the image files in a folder, except hidden ones.

    Raises OSError if the folder cannot be listed.
    """
    return _listed(folder).images


def id_of(path: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def shown(path: str | Path) -> str:
    """Return a path for a message: as `id_of`, with control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in id_of(str(path)))


def _walk(folder: Path, subfolder: str, cached: dict[str, Listing]) -> Iterator[tuple[str, Listing | OSError | None]]:
    """Yield the path below `folder` and the listing of a subfolder, "" for `folder` itself, and of each below it.

    The listing is None for a folder that contains itself by a link, which is not walked again, and the error for a
    folder that cannot be listed.
    cached: path -> an earlier listing.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(subfolder, frozenset())]
    while pending:
        path, above = pending.pop()
        try:
            status = os.stat(folder / path)  # before listing, so that a change in between is detected the next time
            if (real := (status.st_dev, status.st_ino)) in above:
                yield path, None
                continue
            old = cached.get(path)
            listing = old if old is not None and old.stamp == _stamp(status) else _listed(folder / path, status)
        except OSError as error:
            yield path, error
            continue
        yield path, listing
        pending += [(f"{path}/{name}" if path else name, above | {real}) for name in reversed(listing.folders)]


def _listed(folder: str | Path, status: os.stat_result | None = None) -> Listing:
    images, folders, others, lost = [], [], Counter[str](), []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_dir(entry):
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                lost.append(entry.name)
            else:
                others[os.path.splitext(entry.name)[1].lower() or "none"] += 1
    stamp = [] if status is None else _stamp(status)
    return Listing(stamp, sorted(images), sorted(folders), dict(sorted(others.items())), sorted(lost))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, which costs itself when it is read
        return False


def _remarks(loose: int, others: Counter[str], loops: int, place: str) -> Iterator[str]:
    if loose:
        yield f"{_count(loose, 'image')} beside the class folders, in no class, {_verb(loose)} left out"
    if others:
        named = ", ".join(f"{shown(suffix)} {count:,}" for suffix, count in others.most_common(MAX_NAMED_SUFFIXES))
        rest = len(others) - MAX_NAMED_SUFFIXES
        total = sum(others.values())
        more = f" and {rest} more suffixes" if rest > 0 else ""
        yield (
            f"{_count(total, 'file')} in {place} {_verb(total)} left out, since no image has the suffix ({named}"
            f"{more}); suffixes of images are {', '.join(SUFFIXES)}"
        )
    if loops:
        links = "1 link to a folder that contains it is" if loops == 1 else f"{loops} links to folders above them are"
        yield f"{links} not followed"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _verb(number: int) -> str:
    return "is" if number == 1 else "are"


def _stamp(status: os.stat_result) -> list[int]:
    """Return mtime, ctime and inode of a folder. ctime changes even if a copying tool resets mtime."""
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _cache_file(name: str) -> Path | None:
    """Return the path of a file in the cache folder, or None if the user has no home folder."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return caches / "robharness" / "listings" / name


def _read_cache(file: Path | None) -> dict[str, Listing]:
    """Return the cached listings, or none if the file is missing or damaged, since folders can be listed again."""
    if file is None:
        return {}
    try:
        with gzip.open(file, "rt", encoding="ascii") as text:
            return {path: Listing(*listing) for path, listing in json.load(text).items()}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError):
        return {}


def _write_cache(file: Path | None, listings: dict[str, Listing]) -> None:
    """Write the cache atomically. An unwritable cache folder is ignored."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(gzip.compress(json.dumps(listings).encode(), compresslevel=1))
        Path(temporary.name).replace(file)
