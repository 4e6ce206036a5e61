"""`robharness train SUITE`: train the missing models of a suite; compute nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.session import Session


@click.command("train")
@options.suite
@options.plugin
@options.store
@options.data_root
@click.option("--only", metavar="GLOB", help="Train only the models of cells whose name, model or label matches.")
@options.device("train on")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
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
    import json

    from robharness.cli.run import same_command
    from robharness.engine.environment import Job
    from robharness.errors import ExitCode, Interrupted

    try:
        made = session.train()
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {same_command()}") from None
    if Job.here().is_first:
        rows = [_facts(each) for each in made]
        if as_json:
            click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        else:
            _show(rows, session.plan.suite.path_for_shell)
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


def _show(rows: list[dict[str, Any]], suite: str) -> None:
    for row in rows:
        if row["error"]:
            click.echo(f"{row['label']}: failed: {row['error']}")
            continue
        seconds = "found" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        click.echo(f"{row['label']}: {row['hash']} {row['folder']} sha256 {row['sha256'][:12]} {seconds}")
    if not rows:
        click.echo(f"{suite} has no model that is trained; all weights are files", err=True)
