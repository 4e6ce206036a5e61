"""Names of files and folders for texts of others, such as labels: below the folder of an export on every system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable

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
