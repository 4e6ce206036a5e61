"""Command lines that messages print: they work on the suite, plugins, store and data of the present plan."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from robharness.errors import as_path, expanded, for_shell
from robharness.locations import Location
from robharness.suite import Suite, relative

DEFAULT_STORE = Path(".robharness")
_LACKING = {"train": ("--limit",), "fetch": ("--limit",), "export-corruptions": ("--store",)}
"""verb -> options that it has not."""


def data_root(given: str | Path | None = None) -> Path:
    """Return the absolute path of the folder of data and weights: as given, or $ROBHARNESS_DATA, or ./data."""
    path = given or os.environ.get("ROBHARNESS_DATA") or "data"
    return expanded(as_path(path, "`data` is the path of a folder", 'data="data"')).absolute()


def command(
    suite: Suite,
    verb: str,
    *words: str,
    store: Location = DEFAULT_STORE,
    root: Path | None = None,
    limit: int | None = None,
) -> str:
    """Return the command line of a verb on a suite, with the options of the present plan that are not the defaults.

    words: further words, quoted for a shell. An option among them replaces that of the plan.
    store, root, limit: as `plan_options` takes them.
    """
    options = plan_options(suite.working_directory, store=store, root=root, limit=limit)
    return suite.command(verb, *option_words(verb, options, words), *words)


def option_words(verb: str, options: Mapping[str, str], words: Sequence[str] = ()) -> list[str]:
    """Return the options that a verb has as words of a command line, without those that are among `words`."""
    lacking = (*words, *_LACKING.get(verb, ()))
    return [word for option, value in options.items() if option not in lacking for word in (option, value)]


def plan_options(
    folder: Path, *, store: Location = DEFAULT_STORE, root: Path | None = None, limit: int | None = None
) -> dict[str, str]:
    """Return the options of a plan that are not at their defaults, with their values quoted for a shell.

    folder: the working directory, which paths are shown relative to.
    store: the folder of results.
    root: the folder of data and weights; None for the default.
    limit: the number of examples; None for all.
    """
    options = {}
    if not isinstance(store, Path):
        options["--store"] = for_shell(store)
    elif folder / store != folder / DEFAULT_STORE:
        options["--store"] = for_shell(relative(folder / store, folder))
    if root is not None and folder / root != folder / expanded(os.environ.get("ROBHARNESS_DATA") or "data"):
        options["--data-root"] = for_shell(relative(folder / root, folder))
    if limit is not None:
        options["--limit"] = str(limit)
    return options


class Commands(Protocol):
    """A plan, or the outline of one, which returns the command lines of verbs on its suite."""

    def command(self, verb: str, *words: str) -> str: ...


def fresh_command(plan: Commands, name: str) -> str:
    """Return the command that computes the cells of this name again, such as a model's label."""
    return plan.command("run", "--fresh", quoted_glob(glob.escape(name)))


def quoted_glob(pattern: str) -> str:
    """Return a glob as one word of a command line, always in quotes."""
    word = for_shell(pattern)
    return f"'{word}'" if word == pattern else word
