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


class Stopped(KeyboardInterrupt):
    """The KeyboardInterrupt of a call of ours that Ctrl-C has stopped, also if a plugin made the call."""


def arm() -> None:
    """Let Ctrl-C raise KeyboardInterrupt by `raise_interrupt` from now on, and forget earlier ones."""
    global _received
    _received = False
    signal.signal(signal.SIGINT, raise_interrupt)


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
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    arm()
    before = sys.unraisablehook

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
    """Return whether Ctrl-C was typed since `arm`. If no KeyboardInterrupt is on its way, some code has caught it."""
    return _received and signal.getsignal(signal.SIGINT) is raise_interrupt


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
