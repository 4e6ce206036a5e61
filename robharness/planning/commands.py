"""Command lines that messages print: they work on the suite, plugins, store and data of the present plan."""

from __future__ import annotations

import os
from pathlib import Path

from robharness.errors import expanded, for_shell
from robharness.suite import Suite

DEFAULT_STORE = Path(".robharness")
_WITHOUT_STORE = ("export-corruptions",)
_WITHOUT_LIMIT = ("train",)
"""Verbs that lack the option."""


def data_root(given: str | Path | None = None) -> Path:
    """Return the absolute path of the folder of data and weights: as given, or $ROBHARNESS_DATA, or ./data."""
    return expanded(given or os.environ.get("ROBHARNESS_DATA") or "data").absolute()


def command(
    suite: Suite,
    verb: str,
    *words: str,
    store: Path = DEFAULT_STORE,
    root: Path | None = None,
    limit: int | None = None,
) -> str:
    """Return the command line of a verb on a suite, with the options of the present plan that are not the defaults.

    words: further words, quoted for a shell. An option among them replaces that of the plan.
    store: the folder of results.
    root: the folder of data and weights; None for the default.
    limit: the number of examples; None for all.
    """
    folder, options = suite.working_directory, dict[str, str]()
    if verb not in _WITHOUT_STORE and folder / store != folder / DEFAULT_STORE:
        options["--store"] = for_shell(suite.as_given(store))
    if root is not None and folder / root != folder / expanded(os.environ.get("ROBHARNESS_DATA") or "data"):
        options["--data-root"] = for_shell(suite.as_given(root))
    if verb not in _WITHOUT_LIMIT and limit is not None:
        options["--limit"] = str(limit)
    given = [word for option, value in options.items() if option not in words for word in (option, value)]
    return suite.command(verb, *given, *words)
