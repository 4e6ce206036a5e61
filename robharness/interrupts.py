"""Ctrl-C of the user, told apart from a KeyboardInterrupt that a plugin raises itself."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

TYPE_CHECKING = False  # see robharness/__init__.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

AGAIN_SECONDS = 0.01
"""Time after which an interrupt is raised again that was raised where no exception can leave, e.g. in a callback."""

_received = False
_is_ours = False
"""Whether `handle_interrupts` was called, so that every Ctrl-C ends what this process does."""


def raise_interrupt(number: int, frame: Any) -> None:
    """Record that Ctrl-C was typed, and raise KeyboardInterrupt. A handler of SIGINT, see `signal.signal`."""
    global _received
    _received = True
    raise KeyboardInterrupt


def handle_interrupts() -> None:
    """Take over Ctrl-C in this process, unless it ignores Ctrl-C, e.g. in the background of a script.

    Python raises KeyboardInterrupt wherever it is, also in callbacks of the import system, which print it and go on.
    There it is raised again a little later.
    """
    global _is_ours
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, raise_interrupt)
    _is_ours, before = True, sys.unraisablehook

    def raise_again(unraisable: Any) -> None:
        if not (_received and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            before(unraisable)
            return
        import threading

        main = threading.main_thread().ident
        timer = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, [main, signal.SIGINT])
        timer.daemon = True
        timer.start()

    sys.unraisablehook = raise_again


def was_typed() -> bool:
    """Return whether this process shall end by Ctrl-C, although some code may have caught the exception."""
    return _is_ours and _received


def is_interrupted() -> bool:
    """Return whether a KeyboardInterrupt of this moment may come from Ctrl-C.

    A process that ignores Ctrl-C gets none. Under Python's own handler, e.g. in a notebook, every one counts as real.
    """
    return _received or signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore Ctrl-C in a block of the main thread, such as the message that it was received."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
