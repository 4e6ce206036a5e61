"""The file `classes.txt`, which numbers the classes of an image folder: one name a line."""

from __future__ import annotations

import codecs
import re
import stat
import unicodedata
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

from robharness import UserError, for_shell
from robharness_datasets.listing import inaccessible, shown

CLASSES = "classes.txt"
ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks of other encodings than UTF-8; that of UTF-16 begins that of UTF-32."""


def read_classes(folder: Path) -> list[str] | None:
    """Return the names in a folder's `classes.txt` in order, or None if there is no such file.

    Bytes that are not UTF-8 become surrogates, as in the names of files.
    Raises UserError if the file cannot be read, is no text in UTF-8, has no names, or has a name twice.
    """
    path = folder / CLASSES
    if (content := _content(path)) is None:
        return None
    empty = (
        f"Write the name of a class in each line, in the order of the labels, or remove it. For "
        f"alphabetical order: (cd {for_shell(folder)} && ls -d */ | tr -d / | LC_ALL=C sort > {CLASSES})"
    )
    return _names(path, _decoded(path, content, errors="surrogateescape"), empty)


def read_names(path: Path) -> list[str]:
    """Return the names of classes in a file of the user, one a line. Raises UserError for a file without any."""
    return _names(path, read_text(path), f"Write the name of a class in each line. Try: edit {for_shell(path)}")


def read_text(path: Path, most: int = 2**24) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    most: the largest number of bytes.
    Raises UserError if it cannot be read, is larger, or is in another encoding.
    """
    content = _content(path)
    if content is None:
        raise UserError(f"{path} does not exist. Try: ls {for_shell(path.parent)}")
    if len(content) > most:
        raise UserError(f"{path} has more than {most / 2**20:g} MiB. Try: split {for_shell(path)}")
    return _decoded(path, content)


def _decoded(path: Path, content: bytes, errors: str = "strict") -> str:
    """Return the text of bytes in UTF-8. Raises UserError for another encoding."""
    quoted = for_shell(path)
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "")
    if not encoding and b"\0" in content[:200]:
        encoding = "UTF-16LE" if content[1::2].count(0) >= content[::2].count(0) else "UTF-16BE"
    if encoding:
        convert = f"iconv -f {encoding} -t UTF-8 {quoted} > {quoted}.new && mv {quoted}.new {quoted}"
        raise UserError(f"{path} is a text in {encoding} instead of UTF-8. Try: {convert}")
    try:
        return content.decode("utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        convert = f"iconv -f LATIN1 -t UTF-8 {quoted} > {quoted}.new && mv {quoted}.new {quoted}"
        raise UserError(
            f"{path}:{line}: the byte 0x{content[error.start]:02x} is no UTF-8; for a file in Latin-1, type: {convert}"
        ) from None


def _names(path: Path, text: str, empty: str) -> list[str]:
    """Return the names in the lines of a text. Raises UserError for a name twice, and for none.

    empty: what to do about a file without names.
    """
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"{path} is empty. {empty}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} names the class '{shown(twice[0])}' twice. Try: edit {for_shell(path)}")
    return names


def unlisted(folder: Path, name: str, names: Sequence[str], folders: Collection[str]) -> UserError:
    """Return the error of a class folder that `classes.txt` does not name, with the line that may mean it.

    name: of the class folder.
    names: in the file.
    folders: names of the class folders.
    """
    path = folder / CLASSES
    line, reason = _nearest(name, [each for each in names if each not in folders])
    near = f"; its class {names.index(line)} is '{shown(line)}', {reason}" if line else ""
    if not near and any("\udc80" <= character <= "\udcff" for each in names for character in each):
        near = "; the file is not in UTF-8"
    return UserError(
        f"{shown(folder / name)} is not a class of {path}{near}. Write the name of each class folder in a line of its "
        f"own, in the order of the labels. Try: edit {for_shell(path)}"
    )


def _nearest(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the name in the file that probably means a class, and how they differ; empty if there is none."""
    for line in names:
        if unicodedata.normalize("NFC", line) == unicodedata.normalize("NFC", name):
            return line, "whose letters are composed of other characters (Unicode normalization)"
    for line in names:
        if line.casefold() == name.casefold():
            return line, "which differs in upper and lower case"
    for line in names:
        if name in (part.strip() for part in re.split(r"[\t,;:|]|\s+", line)):
            return line, "which holds more than the name"
    close = get_close_matches(name, names, n=1)
    return (close[0], "which is spelled differently") if close else ("", "")


def _content(path: Path) -> bytes | None:
    """Return the bytes of a file, or None if nothing has its name. Raises UserError if it cannot be read."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise inaccessible(path, error) from None
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return path.read_bytes()
    except FileNotFoundError:
        kind = "a link to a file that is not there"
    except OSError as error:
        raise inaccessible(path, error) from None
    else:
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
    raise UserError(
        f"{path} is {kind}, so that the order of the classes is not known. Restore it or remove it. "
        f"Try: ls -ld {for_shell(path)}"
    )
