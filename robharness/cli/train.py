"""`robharness train SUITE`: make the weights that a suite trains, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from robharness.cli import options


@click.command("train", short_help="Train the models of a suite that are not there yet; compute nothing else.")
@options.suite
@options.plugin
@options.store
@options.data_root
@click.option("--only", metavar="GLOB", help="Train only what the cells need whose name, model or label matches.")
@click.option("--device", default="cpu", show_default=True, help="Where to train, as torch names it: cpu, cuda.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the CPU.")
@click.option("-x", "stop_at_failure", is_flag=True, help="Stop at the first training that fails.")
@click.option("--display", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto", show_default=True,
              help="How to show progress, on standard error.")  # fmt: skip
@options.as_json
@options.debug
def command(
    suite: Path,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    only: str | None,
    device: str,
    threads: int | None,
    stop_at_failure: bool,
    display: Any,
    as_json: bool,
    debug: bool,
) -> int:
    """Train the models of SUITE that are not in the store yet; a line for each.

    Running again goes on where an interrupted training stopped. Under torchrun all processes train together. Exit
    codes: 0 all are there, 2 something to mend first, 3 a training failed, 130 stopped by Ctrl-C.
    """
    import json

    from robharness import api, training
    from robharness.cli.run import trained
    from robharness.display import Display
    from robharness.errors import ExitCode
    from robharness.store import Store

    planned = api.plan(suite, store=store, data=data_root, plugins=plugins)
    api.require(planned)
    asked = planned.only(only) if only else planned
    how: Any = {"device": api.check_devices(device)[0], "threads": threads, "stop_at_failure": stop_at_failure}
    made = trained(asked, Store(store), Display(display), **how)
    if training.Job.here().is_first:
        rows = [_facts(each) for each in made]
        if as_json:
            click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        else:
            _show(rows, suite)
    return ExitCode.INCOMPLETE if any(each.error for each in made) else ExitCode.FINE


def _facts(trained: Any) -> dict[str, Any]:
    return {
        "label": trained.label,
        "hash": trained.artefact.hash,
        "folder": str(trained.artefact.folder),
        "sha256": trained.sha256 or None,
        "seconds": trained.seconds,
        "error": trained.error or None,
    }


def _show(rows: list[dict[str, Any]], suite: Path) -> None:
    for row in rows:
        if row["error"]:
            click.echo(f"{row['label']}: failed: {row['error']}")
            continue
        seconds = "found" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        click.echo(f"{row['label']}: {row['hash']} {row['folder']} sha256 {row['sha256'][:12]} {seconds}")
    if not rows:
        click.echo(f"{suite} has no model that is trained: their weights are there", err=True)
