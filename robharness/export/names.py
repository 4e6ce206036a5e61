"""Names of files and folders for texts of others, such as labels and ids: below an export's folder on every system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

from robharness.errors import UserError
from robharness.planning.planned import PlannedData
from robharness.suite import Compat

Layout = Literal["imagenet-c", "cifar-c"]
MAX_BYTES = 120
"""The largest number of bytes of such a name; file systems allow 255, and encrypted ones 143."""
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def folder_names(texts: Iterable[str]) -> dict[str, str]:
    """Return a different name for each text, also where `a` and `A` are one file.

    A name has letters, digits and `_=.,() -`; it is no path, not hidden, and of bounded length. A text that is such a
    name already is its own name, unless another text gets the same: then both end with a part of their sha256.
    """
    found = {text: _name(text) for text in texts}
    several: dict[str, list[str]] = {}
    for text, name in found.items():
        several.setdefault(comparable(name), []).append(text)
    for same in several.values():
        for text in same if len(same) > 1 else ():
            found[text] = f"{found[text]}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"
    return {text: os.fsdecode(name.encode()) for text, name in found.items()}  # names of files are UTF-8 in any locale


def comparable(name: str) -> str:
    """Return a text that two names share if one of the usual file systems takes them for one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _name(text: str) -> str:
    name = re.sub(r"[^\w=.,() -]", "_", text)
    if name.strip(". ") == "" or name.startswith(".") or name.endswith((".", " ")):
        name = f"_{name.strip('. ')}_"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    if len(name.encode()) > MAX_BYTES:
        digest = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
        name = f"{name.encode()[: MAX_BYTES - 9].decode(errors='ignore')}-{digest}"
    return name


_NO_NAME = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that no name of a file should have: those that end or hide it, and the separator of another system."""
MAX_NAME = 240
"""The largest number of bytes of a name in an id, so that a suffix and a temporary file's name have room."""


SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of ids that are names of files; the suffix of the written file replaces them."""


def file_names(data: PlannedData, compat: Compat, as_array: str) -> list[str]:
    """Return `<class>/<name>.png` of every example: its id, in a folder with its class's number if it has no folder.

    compat: whether the files are encoded as the published ones.
    as_array: the command that writes arrays, which need no names, for messages.
    Raises UserError if an id is not a path below a folder, or if two examples have one name.
    """
    ending, same = ("JPEG", (".jpg", ".jpeg")) if compat == "imagenet-c" else ("png", (".png",))
    names, width = [], len(str(max(data.dataset.labels)))
    for id, label in zip(data.dataset.ids, data.dataset.labels, strict=True):
        path = PurePosixPath(id)
        if path.is_absolute() or ".." in path.parts or not path.name or _NO_NAME.search(id):
            raise UserError(f"the id '{id}' of {data.entry.name} is not a path below a folder. Try: {as_array}")
        if max(len(part.encode()) for part in path.parts) > MAX_NAME:
            raise UserError(
                f"the id '{id[:40]}...' of {data.entry.name} is too long for the name of a file. Try: {as_array}"
            )
        name = str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path) + f".{ending}"
        class_folder = "" if len(path.parts) > 1 else f"{label:0{width}}/"
        names.append(class_folder + (id if path.suffix.lower() in same else name))
    first: dict[str, str] = {}
    for id, name in zip(data.dataset.ids, names, strict=True):
        if (other := first.setdefault(comparable(name), id)) != id:
            raise UserError(
                f"'{other}' and '{id}' of {data.entry.name} would both be written to '{name}'. Rename one of them, or "
                f"write arrays, which need that every example can be read. Try: {as_array}"
            )
    return names
