"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

suite = click.argument("suite", type=click.Path(path_type=Path))
plugin = click.option(
    "-p",
    "plugins",
    multiple=True,
    metavar="PLUGIN",
    help="Load a plugin from ./FILE.py, or leave one out with no:NAME.",
)
store = click.option(
    "--store", type=click.Path(path_type=Path), default=".robharness", show_default=True, help="The folder of results."
)
data_root = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where data and weights are; else $ROBHARNESS_DATA, else ./data.",
)
limit = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N examples of the fixed order."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def suite_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """SUITE and the options that every verb on a suite has."""
    for option in (debug, as_json, limit, data_root, store, plugin, suite):
        function = option(function)
    return function
