"""Standard output and standard error that never end the work: unknown characters, closed pipes, full disks.

Standard output is for results alone. While code of plugins may run, all that is printed there, in any language and by
any process, goes to standard error; the functions that print results write to `results`.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    def close(self) -> None:
        """Stay open: a plugin that closes a standard stream must not end the messages of others."""


class _Buffer(io.BufferedWriter):
    """A buffer of a `_Descriptor`, which stays open as well."""

    def close(self) -> None:
        self.flush()


class _Stream(io.TextIOWrapper):
    """A text stream on a `_Buffer`."""

    def detach(self) -> Any:
        """Return another buffer of the same descriptor, and keep this one."""
        self.flush()
        return _Buffer(_Descriptor(self.fileno(), "w", closefd=False))


def make_robust() -> None:
    """Replace standard output and standard error of this process by streams to which writing never fails.

    Only for a process that is ours alone: `stdout_for_results` then acts on its descriptors, for C code and children.
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
        setattr(sys, f"__{name}__", getattr(sys, name))
    _own_stdout()


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


def _robust(stream: TextIO, number: int | None = None) -> TextIO:
    """Return a stream like this one to which writing never fails, on the same descriptor or on the one given."""
    stream.flush()
    raw = _Descriptor(stream.fileno() if number is None else number, "w", closefd=False)
    errors = "replace" if stream.errors in STRICT else stream.errors
    made = _Stream(
        _Buffer(raw), encoding=stream.encoding, errors=errors,
        line_buffering=bool(stream.line_buffering), write_through=getattr(stream, "write_through", False),
    )  # fmt: skip
    made.mode = "w"  # type: ignore[misc]
    return made


# --- results and all else ------------------------------------------------------------------------------------------

_own: TextIO | None = None
"""The stream of results in a process of the command line; its descriptor is known to nobody else."""
_replaced: TextIO | None = None
"""The `sys.stdout` that `stdout_for_results` replaced in a process of somebody else."""
_is_diverted = _was_released = False
"""Whether descriptor 1 leads to standard error, and whether it did and does not any more."""


def results() -> TextIO:
    """Return the stream of results: standard output as it was before `stdout_for_results`."""
    return _own or _replaced or sys.stdout


def _own_stdout() -> None:
    """Open the stream of results, on a descriptor that no child has: it is one process that prints results."""
    global _own
    with suppress(OSError, ValueError, AttributeError):
        if sys.stdout.fileno() == 1:
            number = os.dup(1)
            _own = _robust(sys.stdout, number)
            os.register_at_fork(after_in_child=lambda: os.dup2(2, number, inheritable=False))


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Let all that prints on standard output print on standard error instead, apart from what writes to `results`.

    After `make_robust`, this also holds for C code and for child processes. It lasts until `release_stdout`, since
    threads and exit handlers print later. Else `sys.stdout` alone is replaced, until the block ends.
    """
    global _replaced
    if _own is not None:
        divert_stdout()
        yield
    elif _replaced is not None:
        yield
    else:
        _replaced, sys.stdout = sys.stdout, sys.stderr
        try:
            yield
        finally:
            sys.stdout, _replaced = _replaced, None


def divert_stdout() -> None:
    """Let descriptor 1 lead to standard error, in lines that appear at once; after `make_robust` alone."""
    global _is_diverted
    if _own is not None and not _is_diverted:
        _reset(line_buffering=True, of_c=_was_released)  # before, no C code printed
        os.dup2(2, 1)
        _is_diverted = True


def release_stdout() -> None:
    """Let descriptor 1 lead to standard output again, e.g. for the verb of a plugin, which prints results itself."""
    global _is_diverted, _was_released
    if _own is not None and _is_diverted:
        _reset(line_buffering=bool(_own.line_buffering), of_c=True)
        os.dup2(_own.fileno(), 1)
        _is_diverted, _was_released = False, True


def _reset(*, line_buffering: bool, of_c: bool) -> None:
    """Write what Python and, on demand, C hold back for descriptor 1, and forget an error of writing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError, ValueError):
            sys.stdout.reconfigure(line_buffering=line_buffering)  # flushes it
    if raw := _descriptor(sys.stdout):
        raw.error = None
    if of_c:
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).fflush(None)


def _descriptor(stream: Any) -> _Descriptor | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None


def stdout_error() -> OSError | None:
    """Flush standard output. Returns the first error of writing to it, or None; a closed pipe is a BrokenPipeError."""
    for stream in (results(), None if _is_diverted else sys.stdout):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
        raw = _descriptor(stream)
        if raw is not None and raw.error is not None:
            return BrokenPipeError(*raw.error.args) if raw.error.errno == errno.EPIPE else raw.error
    return None


def is_stdout_closed() -> bool:
    """Return whether standard output is a pipe whose reader is gone."""
    with suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(results().fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
