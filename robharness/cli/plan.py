"""`robharness plan SUITE`: the cells, what is done and missing, what it costs, what to know before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.cells import Plan
    from robharness.store import Store


@click.command("plan", short_help="Show the cells of a suite, done and missing; compute nothing.")
@options.suite_options
def command(
    suite: Path,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    limit: int | None,
    as_json: bool,
    debug: bool,
) -> int:
    """Show the cells of SUITE, done and missing, their cost, and warnings; compute nothing.

    Exit codes: 0 the suite can run, 2 something is wrong with it or missing.
    """
    import json

    from robharness import api
    from robharness.store import Store

    planned = api.plan(suite, data=data_root, limit=limit, plugins=plugins)
    api.require(planned)
    facts = as_data(planned, Store(store))
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        _show(facts)
    return 0


def as_data(planned: Plan, store: Store) -> dict[str, Any]:
    """The plan as plain data. passes: of one example each; a gradient is a forward and a backward pass."""
    cells = []
    shared: set[tuple[str, str]] = set()
    totals = {"forward": 0, "backward": 0}
    for cell in planned.cells:
        missing = sum(stop - start for start, stop in store.missing(cell.key, planned.n))
        gradients = cell.cost.gradients
        perturbation = cell.perturbation
        if cell.cost.shared_gradients and perturbation is not None and missing:
            mark = (cell.model.label, f"{perturbation.entry.name} {perturbation.params}")
            gradients += cell.cost.shared_gradients if mark not in shared else 0
            shared.add(mark)
        forwards = 1 + cell.cost.forwards + gradients
        totals["forward"] += missing * forwards
        totals["backward"] += missing * gradients
        cells.append(
            {
                "model": cell.model.label,
                "data": cell.data.name,
                "kind": cell.kind,
                "perturbation": cell.short_name,
                "n": planned.n,
                "done": planned.n - missing,
                "forward": forwards,
                "backward": gradients,
                "key": cell.key,
            }
        )
    return {
        "suite": planned.suite.name,
        "title": planned.suite.title,
        "n": planned.n,
        "cells": cells,
        "passes_left": totals,
        "warnings": list(planned.warnings),
    }


def _show(facts: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", "perturbation"):
        table.add_column(name)
    for name in ("done", "forward", "backward", "key"):
        table.add_column(name, justify="right", no_wrap=True)
    label = None
    for cell in facts["cells"]:
        if label not in (None, cell["model"]):
            table.add_section()
        done = "all" if cell["done"] == cell["n"] else f"{cell['done']} of {cell['n']}"
        name = cell["model"] if cell["model"] != label else ""
        label = cell["model"]
        row = (name, cell["perturbation"], done, str(cell["forward"]), str(cell["backward"]), cell["key"][:8])
        table.add_row(*map(Text, row))
    console.print(table)
    left = sum(cell["done"] < cell["n"] for cell in facts["cells"])
    passes = facts["passes_left"]
    console.print(
        f"{len(facts['cells'])} cells of {facts['n']} examples, {left} to compute: "
        f"{passes['forward']} forward and {passes['backward']} backward passes of one example"
    )
    for warning in facts["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
