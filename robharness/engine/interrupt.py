"""Handling of Ctrl-C during a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from robharness import interrupts
from robharness.engine.listeners import RunListener


@contextmanager
def interruptible(listener: RunListener) -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C, and raise KeyboardInterrupt at the second one.

    In another thread than the main one, Ctrl-C keeps its meaning, since Python allows handlers in the main thread only.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        interrupted.set()
        interrupts.arm()
        with suppress(RuntimeError):  # Ctrl-C came while the listener wrote another line
            listener.message("stopping after the current cells; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
