"""Calls of a plugin's code: what it raises is an exception with a text, and the process stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import TracebackType

from robharness.errors import PluginError, describe
from robharness.interrupts import is_interrupted, was_typed
from robharness.plugins.folder import kept_folder


class plugin_errors:  # noqa: N801, a context manager
    """A block of a plugin's code, in any thread: what ends the process elsewhere is an exception here.

    Exceptions whose text can be printed pass through unchanged. All others, SystemExit, CancelledError, StopIteration
    and a KeyboardInterrupt without Ctrl-C among them, become a `PluginError`. Only Ctrl-C itself passes through, also
    one whose KeyboardInterrupt the plugin caught.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if was_typed() and not isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
            raise KeyboardInterrupt from error
        if error is None or (isinstance(error, KeyboardInterrupt) and is_interrupted()):
            return
        if isinstance(error, Exception) and not isinstance(error, StopIteration) and _has_text(error):
            return
        raise PluginError(describe(error)) from error


@contextmanager
def plugin_code() -> Iterator[None]:
    """Run a block of a plugin's code in the main thread: as `plugin_errors`, and the working directory is kept."""
    with kept_folder(), plugin_errors():
        yield


def _has_text(error: Exception) -> bool:
    try:
        return isinstance(str(error), str)
    except BaseException:  # the class is the plugin's
        return False
