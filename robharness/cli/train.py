"""`robharness train SUITE`: train the missing models of a suite; compute nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options
from robharness.cli.output import echo, echo_json

if TYPE_CHECKING:
    from robharness.session import Session


@click.command("train")
@options.suite
@options.plugin
@options.settings
@options.store
@options.data_root
@click.option("--only", metavar="GLOB", help="Train only the models of cells whose name, model or label matches.")
@options.device("train on")
@click.option("--threads", type=options.Count("threads"), metavar="N", help="CPU threads.")
@click.option("-x", "stop_at_failure", is_flag=True, help="Stop at the first training that fails.")
@options.display
@options.as_json
@options.debug
@options.with_session
def command(session: Session, as_json: bool) -> int:
    """Train the models of SUITE that are not in the store yet, and print a line for each.

    Running again resumes an interrupted training. Under torchrun, all processes train together.

    Exit codes: 0 all weights are in the store, 2 usage error, or data or weights are missing, 3 a training failed,
    130 stopped by Ctrl-C.
    """
    from robharness.cli.computing import same_command
    from robharness.engine.environment import Job
    from robharness.errors import ExitCode, Interrupted

    try:
        made = session.train()
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {same_command()}") from None
    if Job.here().is_first:
        rows = [_facts(each) for each in made]
        if as_json:
            echo_json(rows)
        else:
            _show(rows, session)
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


def _show(rows: list[dict[str, Any]], session: Session) -> None:
    for row in rows:
        if row["error"]:
            echo(f"{row['label']}: failed: {row['error']}")
            continue
        seconds = "found" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        folder = session.store.shown(Path(row["folder"]))
        echo(f"{row['label']}: {row['hash']} {folder} sha256 {row['sha256'][:12]} {seconds}")
    if not rows:
        suite = session.plan.suite
        echo(f"{suite.as_given(suite.path)} has no model that is trained; all weights are files", err=True)
