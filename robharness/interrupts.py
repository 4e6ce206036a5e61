"""Ctrl-C of the user, told apart from a KeyboardInterrupt that a plugin raises itself."""

from __future__ import annotations

import signal
import threading
from typing import Any

_received = threading.Event()


class Stopped(KeyboardInterrupt):
    """The KeyboardInterrupt of a call of ours that Ctrl-C has stopped, also if a plugin made the call."""


def arm() -> None:
    """Let Ctrl-C raise KeyboardInterrupt by `raise_interrupt` from now on, and forget earlier ones."""
    _received.clear()
    signal.signal(signal.SIGINT, raise_interrupt)


def raise_interrupt(number: int, frame: Any) -> None:
    """Record that Ctrl-C was typed, and raise KeyboardInterrupt. A handler of SIGINT, see `signal.signal`."""
    _received.set()
    raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Return whether a KeyboardInterrupt of this moment may come from Ctrl-C.

    A process that ignores Ctrl-C gets none. Under Python's own handler, e.g. in a notebook, every one counts as real.
    """
    handler = signal.getsignal(signal.SIGINT)
    return _received.is_set() or handler is signal.default_int_handler
