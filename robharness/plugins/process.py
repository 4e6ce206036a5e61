"""State of the process that a plugin's code may change and that later work reads: it is put back after each call."""

from __future__ import annotations

import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robharness.interrupts import raise_interrupt

Restore = Callable[[], list[str]]
"""A function that puts a piece of state back, and returns the names of what had changed."""


def current_folder() -> Path:
    """Return the working directory, or the root folder if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


@contextmanager
def kept_folder() -> Iterator[None]:
    """Return to the working directory after a block, if the block leaves it and it still exists."""
    restore = _folder()
    try:
        yield
    finally:
        restore()


@contextmanager
def kept_process(*, importing: bool = False) -> Iterator[list[str]]:
    """Put the state of the process back after a block of a plugin's code.

    The state is the working directory, the umask, the locale, the standard streams, the handlers of SIGINT, SIGTERM and
    SIGALRM and its timer (in the main thread, where alone they can be set), the recursion limit, `os.environ`,
    `sys.path`, and warnings as exceptions.

    A block that imports modules keeps its changes of `os.environ` and `sys.path`, since they may be those of a library
    that needs them later. Variables of robharness itself are put back in any case.

    importing: whether the block imports modules; otherwise it does if `sys.modules` grows.
    Yields a list that after the block holds the names of what the block had changed, e.g. "the working directory".
    """
    changed: list[str] = []
    modules, restores = len(sys.modules), [keep() for keep in _KEPT]
    kept_by_imports = [keep() for keep in _KEPT_BY_IMPORTS]
    try:
        yield changed
    finally:
        for restore in restores if importing or len(sys.modules) > modules else (*restores, *kept_by_imports):
            changed += restore()


def _folder() -> Restore:
    try:
        folder = os.getcwd()
    except OSError:
        return list

    def restore() -> list[str]:
        with suppress(OSError):
            if not os.path.exists("."):  # it was removed, perhaps by another program
                os.chdir(folder)
            elif os.getcwd() != folder:
                os.chdir(folder)
                return ["the working directory"]
        return []

    return restore


def _umask() -> Restore:
    mask = _read_umask()

    def restore() -> list[str]:
        if _read_umask() == mask:
            return []
        os.umask(mask)
        return ["the umask"]

    return restore


def _read_umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it; a file of another thread is private meanwhile
    os.umask(mask)
    return mask


def _locale() -> Restore:
    chosen = locale.setlocale(locale.LC_ALL)

    def restore() -> list[str]:
        if locale.setlocale(locale.LC_ALL) == chosen:
            return []
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, chosen)
        return ["the locale"]

    return restore


def _streams() -> Restore:
    streams = {name: getattr(sys, name, None) for name in ("stdin", "stdout", "stderr", "excepthook")}

    def restore() -> list[str]:
        changed = [name for name, stream in streams.items() if getattr(sys, name, None) is not stream]
        for name in changed:
            setattr(sys, name, streams[name])
        return [f"sys.{name}" for name in changed]

    return restore


def _handlers() -> Restore:
    if threading.current_thread() is not threading.main_thread():
        return list
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}

    def restore() -> list[str]:
        now = {number: signal.getsignal(number) for number in handlers}
        changed = [
            number
            for number, handler in handlers.items()
            if now[number] is not handler and now[number] is not raise_interrupt  # which Ctrl-C itself may set
        ]
        for number in changed:
            if handlers[number] is not None:  # which stands for one that was not set by Python
                signal.signal(number, handlers[number])
        return [f"the handler of {number.name}" for number in changed]

    return restore


def _timer() -> Restore:
    """Stop a timer that would interrupt a later call by SIGALRM."""
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(signal.ITIMER_REAL)):
        return list

    def restore() -> list[str]:
        if not any(signal.getitimer(signal.ITIMER_REAL)):
            return []
        signal.setitimer(signal.ITIMER_REAL, 0)
        return ["the timer of SIGALRM"]

    return restore


def _recursion_limit() -> Restore:
    limit = sys.getrecursionlimit()

    def restore() -> list[str]:
        if sys.getrecursionlimit() == limit:
            return []
        sys.setrecursionlimit(limit)
        return ["the recursion limit"]

    return restore


def _warnings_as_errors() -> Restore:
    """Remove filters that turn warnings into exceptions; others, which decide what is shown, stay."""
    known = [item for item in warnings.filters if item[0] == "error"]

    def restore() -> list[str]:
        added = [item for item in warnings.filters if item[0] == "error" and item not in known]
        if not added:
            return []
        left = [item for item in warnings.filters if item not in added]
        warnings.resetwarnings()  # which also makes warnings forget what the filters decided before
        warnings.filters[:] = left  # type: ignore[index]  # a list
        return ["the filters of warnings"]

    return restore


def _environment(prefix: str = "") -> Restore:
    """Keep the environment, or only the variables whose names begin with a prefix."""
    environment = os.environ
    variables = dict(getattr(environment, "_data", environment))  # without decoding, which takes 1 us per variable

    def restore() -> list[str]:
        os.environ = environment  # noqa: B003, the object that was there before
        now = dict(getattr(environment, "_data", environment))
        if now == variables:
            return []
        changed = sorted({os.fsdecode(name) for name, _ in now.items() ^ variables.items()})
        changed = [name for name in changed if name.startswith(prefix)]
        before = {os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()}
        for name in changed:
            environment.pop(name, None)
            if name in before:
                environment[name] = before[name]
        return [f"os.environ['{name}']" for name in changed]

    return restore


def _own_variables() -> Restore:
    return _environment("ROBHARNESS_")


def _path() -> Restore:
    path, folders = sys.path, list(sys.path)

    def restore() -> list[str]:
        if sys.path is path and path == folders:
            return []
        sys.path = path
        path[:] = folders
        return ["sys.path"]

    return restore


_KEPT: tuple[Callable[[], Restore], ...] = (
    _recursion_limit, _timer, _folder, _umask, _locale, _streams, _handlers, _warnings_as_errors, _own_variables,
)  # fmt: skip
_KEPT_BY_IMPORTS: tuple[Callable[[], Restore], ...] = (_environment, _path)
"""State that stays as it is after a block that imports modules."""
