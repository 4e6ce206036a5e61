"""Command lines of verbs on a suite, and words on Python's functions for a suite that no command line can read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robharness.errors import for_shell


def relative(path: Path, folder: Path) -> Path:
    """Return an absolute path relative to the folder if it lies below it."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def command_line(verb: str, path: Path, plugins: Iterable[str], *words: str, settings: Iterable[str] = ()) -> str:
    """Return the command line of a verb on the suite in a file.

    plugins: the values of `-p`.
    words: further words, quoted for a shell.
    settings: the values of `--set`.
    """
    options = [word for option in plugins for word in ("-p", for_shell(option))]
    options += [word for setting in settings for word in ("--set", for_shell(setting))]
    return " ".join(["robharness", verb, for_shell(path), *options, *words])


def python_call(verb: str, *, afresh: bool = False) -> str:
    """Return words on what does the same as a verb in Python, for a suite that no command line can read.

    afresh: whether nothing that is stored may be used again.
    """
    again = f"with it {'and another `store`' if afresh else 'again'}"
    if verb == "report":
        return f'robharness.run {again}, and .save("report.html")'
    if verb in ("run", "plan", "check", "train", "fetch"):
        return f"robharness.{verb} {again}"
    return f"robharness {verb} --help, with the suite in a file"
