"""`robharness show NAME`: describe a part of the installed plugins, without torch and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from robharness.cli import options
from robharness.cli.list import show_rows
from robharness.cli.output import echo, echo_json, echo_lines
from robharness.text import SENTENCE_LENGTH, printable


@click.command("show")
@click.argument("name")
@options.plugin
@options.data_root
@options.as_json
@options.debug
def command(name: str, plugins: tuple[str, ...], data_root: Path | None, as_json: bool, debug: bool) -> int:
    """Show a model, an attack, a corruption, a data set, a metric or a component of the installed plugins.

    Each option is shown with its type, its default and its meaning, after the facts about the whole, such as the
    place of its weights, and before an item for a suite.

    NAME is a full name such as mine/pgd, a name without its plugin, or a pattern such as 'mine/*'. Parts of several
    kinds may have one name; all are shown.

    Exit codes: 0 shown, 2 usage error, or nothing has this name.
    """
    from robharness.planning.commands import data_root as default_data_root
    from robharness.planning.description import describe_entry
    from robharness.plugins.discovery import discover

    root = default_data_root(data_root)
    found = [describe_entry(kind, entry, root) for kind, entry in discover(plugins).find_all(name)]
    if as_json:
        echo_json(found)
        return 0
    for number, facts in enumerate(found):
        if number:
            echo("")
        _show(facts)
    return 0


_APART = ("kind", "name", "summary", "plugin", "version", "location", "options", "example", "weights", "trained")


def _show(facts: dict[str, Any]) -> None:
    """Print a description: its facts a line each, the table of its options, an item for a suite."""
    origin = f"{facts['plugin']} {facts['version']}".strip()
    echo(f"{facts['name']}, {_NOUNS.get(facts['kind'], facts['kind'])} of {origin}")
    echo(printable(facts["summary"], SENTENCE_LENGTH))
    for key, value in facts.items():
        if key not in _APART and value not in (None, "", [], {}):
            echo(f"{key.replace('_', ' ')}: {printable(_text(value), SENTENCE_LENGTH)}")
    if facts.get("trained"):
        echo("weights: trained by a suite")
    for weights in facts.get("weights", ()):
        name = f" '{printable(weights['name'])}'" if weights["name"] else ""
        state = "found" if weights["is_there"] else "missing"
        hint = f". {weights['hint']}" if weights["hint"] else ""
        echo(f"weights{name}: {weights['path']} ({state}){hint}")
    if facts["options"]:
        echo("")
        keys = ("name", "type", "default", "meaning")
        rows = [{"option" if key == "name" else key: option[key] for key in keys} for option in facts["options"]]
        show_rows(rows, "options", length=SENTENCE_LENGTH)
    echo("")
    echo("in a suite:")
    echo_lines(facts["example"])


_NOUNS = {"attack": "an attack", "dataset": "a data set"} | {
    kind: f"a {kind}" for kind in ("model", "corruption", "metric", "component")
}


def _text(value: Any) -> str:
    """Return a fact as words: an input of images as "image 3x224x224", a measure as "l0 (in values)"."""
    if isinstance(value, dict):
        if set(value) == {"kind", "shape"}:
            return f"{value['kind']} {_sizes(value['shape'])}"
        if set(value) == {"name", "unit"}:
            return f"{value['name']} (in {value['unit']})" if value["unit"] else str(value["name"])
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def _sizes(shape: list[int]) -> str:
    return "x".join(map(str, shape))
