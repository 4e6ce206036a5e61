"""Reading of files that a user names: opened once, regular files only, and no more bytes than a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
          stat.S_IFBLK: "a device"}  # fmt: skip


def kind_of_file(mode: int) -> str:
    """Return the kind of a file that is not regular, such as "a folder"; empty for a regular file.

    mode: `st_mode` of the file.
    """
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


class NotAFile(OSError):
    """A folder, a named pipe, a device or a socket where a file is expected; the text says which."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, not a file", str(path))


class LinkToNothing(NotAFile):
    """A link to nothing where a file is expected."""

    def __init__(self, path: Path) -> None:
        OSError.__init__(self, errno.EINVAL, "it is a link to nothing", str(path))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    The file is opened without waiting, so that a named pipe without a writer is refused at once. Its kind is that of
    the opened file, which nobody can exchange meanwhile.
    most: the largest number of bytes; any number if None.
    Raises OSError, whose `strerror` completes "cannot be read: ", for anything else, and NotAFile for other kinds.
    """
    try:
        if kind := kind_of_file(path.stat().st_mode):  # before opening, which some devices act upon
            raise NotAFile(path, kind)
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            if kind := kind_of_file(os.fstat(file.fileno()).st_mode):
                raise NotAFile(path, kind)
            content = b""
            while most is None or len(content) <= most:
                more = file.read() if most is None else file.read(most + 1 - len(content))
                content += more or b""
                if not more:
                    break
    except ValueError:  # a path with a NUL character
        raise OSError(errno.EINVAL, "its path has a NUL character", str(path)) from None
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most / 2**20:g} MiB", str(path))
    return content
