"""Calls of a plugin's code: what it raises is an exception with a text, and the process stays as it was."""

from __future__ import annotations

import copy
import os
import reprlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from robharness.errors import Interrupted, PluginError, describe
from robharness.interrupts import Stopped, arm, is_interrupted, was_typed
from robharness.plugins.process import kept_process

T = TypeVar("T")


class plugin_errors:  # noqa: N801, a context manager
    """A block of a plugin's code, in any thread: what ends the process elsewhere is an exception here.

    Exceptions whose text can be printed pass through unchanged. All others, SystemExit, CancelledError, StopIteration
    and a KeyboardInterrupt without Ctrl-C among them, become a `PluginError`. Only Ctrl-C itself passes through, also
    one whose KeyboardInterrupt the plugin caught; and `Interrupted`, by which the core says what it keeps. A process
    that the plugin forked ends here.
    """

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if os.getpid() != self._process:  # else it would go on with the work of its parent
            os._exit(1 if error else 0)
        if was_typed() and not isinstance(error, KeyboardInterrupt | Interrupted) and _is_main_thread():
            raise KeyboardInterrupt from error
        if error is None or isinstance(error, Stopped):
            return
        if isinstance(error, KeyboardInterrupt) and _may_be_ctrl_c():
            return
        if isinstance(error, Exception) and not isinstance(error, StopIteration) and _has_text(error):
            return
        raise PluginError(describe(error)) from error


@contextmanager
def plugin_code(*, importing: bool = False) -> Iterator[list[str]]:
    """Run a block of a plugin's code in the main thread: as `plugin_errors`, and the state of the process is kept.

    importing: whether the block imports modules, whose changes of `os.environ` and `sys.path` stay.
    Yields a list that after the block holds the names of what the block had changed; see `kept_process`.
    """
    with _recorded_interrupts(), kept_process(importing=importing) as changed, plugin_errors():
        yield changed


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer; there is no limit in other threads than the main one.

    The exception is raised again every second, since a plugin may catch it.
    """
    if not _is_main_thread():
        yield
        return

    def expire(number: int, frame: Any) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} s")

    begun, handler = time.monotonic(), signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if left:  # the timer of the caller goes on
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - time.monotonic() + begun), interval)


def call_spec(function: Callable[..., T], params: Any, *arguments: Any) -> T:
    """Call a function of a plugin's record in the main thread.

    params: options, of which the function gets a copy: whatever it does to them changes no other cell.
    arguments: further ones.
    """
    with plugin_code():
        return function(copy.deepcopy(params), *arguments)


def returned(function: str, value: Any, kind: type) -> Any:
    """Return what a function of a plugin returned. Raises TypeError if the value is of another type."""
    if not isinstance(value, kind):
        raise TypeError(f"its function `{function}` returned {shown(value)}, not a {kind.__name__}")
    return value


def shown(value: Any) -> str:
    """Return a value of a plugin for a message, in a bounded length."""
    try:
        with plugin_errors():
            return _SHORT.repr(value)
    except Exception:  # its class is the plugin's
        return f"an object of {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


@contextmanager
def _recorded_interrupts() -> Iterator[None]:
    """Handle Ctrl-C in the block such that it is told apart from a KeyboardInterrupt of the plugin."""
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    arm()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _may_be_ctrl_c() -> bool:
    """Return whether an exception of this moment may come from Ctrl-C, which reaches the main thread alone."""
    return _is_main_thread() and is_interrupted()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _has_text(error: Exception) -> bool:
    try:
        return isinstance(str(error), str)
    except BaseException:  # the class is the plugin's
        return False
