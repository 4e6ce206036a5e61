"""What a user can do wrong, and the exit codes that say how a command ended."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """How a `robharness` command ended."""

    FINE = 0
    """All cells asked for are complete."""
    REGRESSION = 1
    """A check found a cell worse than its baseline."""
    USAGE = 2
    """The command line, the suite, a plugin, or missing data or weights need mending before anything runs."""
    INCOMPLETE = 3
    """Cells failed or are missing."""
    BASELINE = 4
    """The baseline is absent or incompatible."""
    INTERNAL = 5
    """A bug of robharness; the traceback is in a file."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C; the same command goes on."""


class UserError(Exception):
    """Something the user can mend: one sentence, then the command to type next. Never shown with a traceback."""

    exit_code = ExitCode.USAGE


class PluginNotFound(UserError):
    """A name that no installed plugin provides."""


class PluginLoadError(UserError):
    """A plugin named with `-p` that cannot be loaded."""


class SuiteError(UserError):
    """All that is wrong with a suite, one `file:line:col: path: sentence` a line."""

    def __init__(self, errors: list[str], hint: str) -> None:
        self.errors = errors
        super().__init__("\n".join([*errors, hint]))


class MissingResource(UserError):
    """Data or weights that are not on this machine.

    what: the thing that is missing, e.g. "the ImageNet validation images".
    where: the place or places looked at.
    get: the command or the page that gets it.
    """

    def __init__(self, what: str, *, where: str, get: str) -> None:
        self.what, self.where, self.get = what, where, get
        super().__init__(f"{what}: not found at {where}. To get it: {get}")


class UnreadableExample(Exception):
    """An example that is there and broken, e.g. a video that ends too soon. It counts as wrong, and is named."""


class StoreError(UserError):
    """A store that cannot be read or written."""


class Interrupted(UserError):
    """Stopped by Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED


class ContractViolation(Exception):
    """A rule that a plugin broke while it ran: its cell fails and its distribution is named.

    by: whose fault it is, "perturbation", "model", "data" or "source", the model that an attack is crafted on.
    """

    def __init__(self, message: str, by: str = "perturbation") -> None:
        self.by = by
        super().__init__(message)


class OutOfMemory(Exception):
    """The memory of host or device is too small for passes of so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(f"out of memory with {rows} examples per pass")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'norm'?` for the nearest known word, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
