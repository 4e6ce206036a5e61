"""`robharness list KIND`: what the installed plugins provide; loads neither torch nor NumPy."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from robharness.cli import options
from robharness.errors import UserError

KINDS = ("plugins", "models", "attacks", "corruptions", "datasets", "metrics")


@click.command("list", short_help="List plugins, models, attacks, corruptions, datasets or metrics.")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("glob", default="*")
@options.plugin
@options.as_json
@options.debug
def command(kind: str, glob: str, plugins: tuple[str, ...], as_json: bool, debug: bool) -> int:
    """List what the installed plugins provide, or the plugins themselves with what is wrong with them.

    GLOB: only names that match, e.g. 'mine/*'.
    """
    from robharness.plugins import discover

    registry = discover(plugins)
    rows = _plugins(registry) if kind == "plugins" else _entries(registry, kind)
    rows = [row for row in rows if fnmatch.fnmatchcase(row["name"], glob)]
    if not rows and glob != "*":
        raise UserError(f"no {kind} match '{glob}'. See: robharness list {kind}")
    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _show(rows, kind)
        if kind != "plugins" and registry.problems:
            click.echo(f"{len(registry.problems)} plugins were left out; see: robharness list plugins", err=True)
    return 0


def _entries(registry: Any, kind: str) -> list[dict[str, Any]]:
    rows = []
    for name, entry in sorted(getattr(registry, kind).items()):
        spec = entry.spec
        facts = _FACTS[kind](spec)
        rows.append({"name": name, **facts, "summary": spec.summary, "plugin": str(entry.source)})
    return rows


def _options(params: type) -> str:
    from dataclasses import fields

    return ", ".join(item.name for item in fields(params))


_FACTS: dict[str, Callable[[Any], dict[str, str]]] = {
    "models": lambda spec: {"labels": spec.labels, "input": "x".join(map(str, spec.input.shape))},
    "attacks": lambda spec: {"access": spec.access, "options": _options(spec.params)},
    "corruptions": lambda spec: {"group": spec.group, "severities": ", ".join(map(str, spec.severities))},
    "datasets": lambda spec: {"labels": spec.labels, "splits": ", ".join(spec.splits)},
    "metrics": lambda spec: {},
}


def _plugins(registry: Any) -> list[dict[str, Any]]:
    from robharness.plugins import stands_on

    rows = []
    for source in registry.sources:
        counts = {kind: sum(entry.source == source for entry in getattr(registry, kind).values()) for kind in KINDS[1:]}
        provides = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        rows.append({"name": source.namespace, "plugin": str(source), "provides": provides or "nothing",
                     "stands on": ", ".join(stands_on(source)), "problem": ""})  # fmt: skip
    for problem in registry.problems:
        rows.append({"name": problem.source.namespace, "plugin": str(problem.source), "provides": "nothing",
                     "stands on": ", ".join(stands_on(problem.source)),
                     "problem": f"{problem.stage}: {problem.error}"})  # fmt: skip
    return sorted(rows, key=lambda row: (row["name"], row["plugin"]))


def _show(rows: list[dict[str, Any]], kind: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A program that reads this gets a line per row, however long; the width of 80 that rich assumes would fold them.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1000)
    if not rows:
        console.print(f"no {kind}; plugins bring them, e.g.: pip install robharness-NAME")
        return
    wanted = [name for name in rows[0] if kind == "plugins" or name != "plugin"]
    columns = [name for name in wanted if any(row[name] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[name]), style="red" if name == "problem" else "") for name in columns))
    console.print(table)
