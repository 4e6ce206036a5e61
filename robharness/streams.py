"""Standard output and standard error that never end the work: unknown characters, closed pipes, full disks."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

STRICT = ("strict", "surrogateescape", "surrogatepass")
"""Error handlers that raise an exception for characters that the encoding of a terminal lacks."""


class _Descriptor(io.FileIO):
    """An open file descriptor that discards what cannot be written, and keeps the first error.

    The first error is the one to report; an exception would end hours of computation for the sake of one line.
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                return super().write(content)
            except OSError as error:
                self.error = error
        return len(content)


def make_robust() -> None:
    """Replace standard output and standard error of this process by streams to which writing never fails.

    Characters that the encoding lacks become replacement characters. Output after the end of a pipe is discarded. A
    stream that was closed before the process began is the null device, so that no other file takes its number.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            _occupy(number)
            null = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, null)
        elif name != "stdin":
            with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor stays as it is
                setattr(sys, name, _robust(stream))


def _occupy(number: int) -> None:
    """Open the null device as this file descriptor, unless the descriptor is open."""
    with suppress(OSError):
        os.fstat(number)
        return
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(opened, number)
        os.close(opened)


def _robust(stream: TextIO) -> TextIO:
    stream.flush()
    raw = _Descriptor(stream.fileno(), "w", closefd=False)
    errors = "replace" if stream.errors in STRICT else stream.errors
    made = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=errors,
        line_buffering=bool(stream.line_buffering), write_through=getattr(stream, "write_through", False),
    )  # fmt: skip
    made.mode = "w"  # type: ignore[misc]
    return made


def stdout_error() -> OSError | None:
    """Flush standard output. Returns the first error of writing to it, or None; a closed pipe is a BrokenPipeError."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    error = raw.error if isinstance(raw, _Descriptor) else None
    return BrokenPipeError(*error.args) if error is not None and error.errno == errno.EPIPE else error
