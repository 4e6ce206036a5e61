"""`robharness list KIND`: list parts of the installed plugins, or artefacts of a store, without torch and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json, echo_rows, results_console
from robharness.errors import UserError, for_shell, glob_matches
from robharness.locations import Location, store_location
from robharness.streams import results
from robharness.text import COMMAND_LENGTH, TITLE_LENGTH, counted, printable, styled

KINDS = ("plugins", "models", "attacks", "corruptions", "datasets", "components", "metrics")
ARTEFACTS = "artefacts"
HEADINGS = {"stands on": "dependencies"}
"""Headings of columns that differ from the key in the JSON."""


@click.command("list")
@click.argument("kind", type=click.Choice([*KINDS, ARTEFACTS]))
@click.argument("glob", default="*")
@options.plugin
@options.store
@options.as_json
@options.debug
def command(kind: str, glob: str, plugins: tuple[str, ...], store: Location, as_json: bool, debug: bool) -> int:
    """List parts of the installed plugins, or the plugins themselves with their problems.

    Artefacts are the weights in the store that suites have trained.

    GLOB selects names, e.g. 'mine/*'; for artefacts also models and labels.

    Exit codes: 0 listed, 2 usage error, or nothing matches.
    """
    if kind == ARTEFACTS:
        return _artefacts(store, glob, as_json)
    from robharness.plugins import discover

    registry = discover(plugins)
    rows = _plugins(registry) if kind == "plugins" else _entries(registry, kind)
    rows = [row for row in rows if glob_matches(row["name"], glob)]
    if not rows and glob != "*":
        raise UserError(f"no {kind} match '{glob}'. Try: robharness list {kind}")
    if as_json:
        echo_json(rows)
    else:
        show_rows(rows, kind)
        if kind != "plugins" and registry.problems:
            left_out = counted(len(registry.problems), "plugin was", "plugins were")
            echo(f"{left_out} left out. Try: robharness list plugins", err=True)
    return 0


def _artefacts(store: Location, glob: str, as_json: bool) -> int:
    """List the artefacts whose hash, model or label matches."""
    store_location(store)
    rows = [row for row in _listing(store) if any(glob_matches(row[key], glob) for key in ("name", "model", "label"))]
    if not rows and glob != "*":
        raise UserError(
            f"no {ARTEFACTS} of {store} match '{glob}'. Try: robharness list {ARTEFACTS} --store {for_shell(store)}"
        )
    if as_json:
        echo_json(rows)
    elif rows:
        from rich.filesize import decimal

        for row in rows:
            last = ", ".join(f"{key} {_short(value)}" for key, value in row["metrics"].items())
            when = row["when"].partition("+")[0].replace("T", " ")
            seed = "" if row["seed"] is None else row["seed"]  # features have none
            processes = "" if row["processes"] == 1 else row["processes"]
            row |= {"seed": seed, "size": decimal(row["size"]), "when": when, "processes": processes, "metrics": last}
        show_rows(rows, ARTEFACTS)
    else:
        echo(f"no {ARTEFACTS} in {store}: no suite has trained a model there. Try: robharness train --help", err=True)
    return 0


def _listing(store: Location) -> list[dict[str, Any]]:
    if isinstance(store, Path):
        from robharness.planning import artefacts

        return artefacts.listing(store)
    from robharness.store.artefacts import ArtefactStore
    from robharness.store.folder import StoreFolder

    return ArtefactStore(StoreFolder(store)).listing()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _entries(registry: Any, kind: str) -> list[dict[str, Any]]:
    rows = []
    for name, entry in sorted(getattr(registry, kind).items()):
        spec = entry.spec
        facts = _FACTS[kind](spec)
        if kind == "attacks":
            facts = {"access": facts["access"], "measure": _measures(entry), "options": facts["options"]}
        rows.append({"name": name, **facts, "summary": spec.summary, "plugin": str(entry.origin)})
    return rows


def _measures(entry: Any) -> str:
    """Return the norms and measures of an attack, with the units of their budgets: "linf, l2, l0 (values)"."""
    from robharness.planning.description import measures

    return ", ".join(f"{each.name} ({each.unit})" if each.unit else each.name for each in measures(entry))


def _options(params: type) -> str:
    from dataclasses import fields

    return ", ".join(item.name for item in fields(params))


_FACTS: dict[str, Callable[[Any], dict[str, str]]] = {
    "models": lambda spec: {"labels": spec.labels, "input": "x".join(map(str, spec.input.shape))},
    "attacks": lambda spec: {"access": spec.access, "options": _options(spec.params)},
    "corruptions": lambda spec: {"group": spec.group, "severities": ", ".join(map(str, spec.severities))},
    "datasets": lambda spec: {"labels": spec.labels, "splits": ", ".join(spec.splits)},
    "components": lambda spec: {"role": spec.role, "options": _options(spec.params) if spec.params else ""},
    "metrics": lambda spec: {},
}


def _plugins(registry: Any) -> list[dict[str, Any]]:
    from robharness.plugins import dependency_versions

    rows = []
    for origin in registry.origins:
        counts = {kind: sum(entry.origin == origin for entry in getattr(registry, kind).values()) for kind in KINDS[1:]}
        counts["renderers"] = sum(other == origin for other, _ in registry.renderers)
        counts["commands"] = sum(other == origin for other, _ in registry.commands.values())
        provides = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        rows.append({"name": origin.namespace, "plugin": str(origin), "provides": provides or "nothing",
                     "stands on": ", ".join(dependency_versions(origin)), "problem": ""})  # fmt: skip
    for problem in registry.problems:
        name = problem.part or problem.origin.namespace
        rows.append({"name": name, "plugin": str(problem.origin), "provides": "nothing",
                     "stands on": ", ".join(dependency_versions(problem.origin)),
                     "problem": f"{problem.stage}: {problem.error}"})  # fmt: skip
    return sorted(rows, key=lambda row: (row["name"], row["plugin"]))


def show_rows(rows: list[dict[str, Any]], kind: str, *, length: int = TITLE_LENGTH) -> None:
    """Print a table with a row per mapping, without columns that are empty.

    length: most characters of an entry.
    """
    if not rows:
        echo(f"no {kind}: no installed plugin provides any. Try: robharness list plugins")
        return
    shown = [name for name in rows[0] if kind == "plugins" or name != "plugin"]
    columns = [name for name in shown if any(row[name] not in ("", None) for row in rows)]
    headings = [HEADINGS.get(name, name) for name in columns]
    cells = [[printable(row[name], length) for name in columns] for row in rows]
    if results().isatty():
        _print_table(headings, columns, cells)
    else:
        echo_rows([headings, *cells])


def _print_table(headings: list[str], columns: list[str], cells: list[list[str]]) -> None:
    """Print a table as wide as the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, heading in zip(columns, headings, strict=True):
        table.add_column(heading, no_wrap=name in ("name", "option"), overflow="fold")
    for row in cells:
        styles = ("red" if name == "problem" else "" for name in columns)
        table.add_row(*(styled(cell, style, COMMAND_LENGTH) for cell, style in zip(row, styles, strict=True)))
    results_console().print(table)
