"""`robharness run SUITE`: train missing models, compute missing cells, and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from robharness.cli import options
from robharness.errors import for_shell

if TYPE_CHECKING:
    from robharness.report.renderers.base import Rows
    from robharness.session import Session


@click.command("run")
@options.suite_options
@click.option(
    "--device", metavar="DEVICE", default="cpu", show_default=True,
    help="Devices to compute on, as torch names them: cpu, cuda, cuda:1. With commas between, one process for each.",
)  # fmt: skip
@click.option(
    "--workers", type=options.Count("workers"), metavar="N", help="Compute with N workers, by default subprocesses."
)
@click.option("--executor", metavar="NAME", help="Start workers by: in-process, subprocess, or a plugin's executor.")
@click.option("--threads", type=options.Count("threads"), metavar="N", help="CPU threads per process.")
@click.option("--shard", type=options.Shard(), metavar="I/K|auto",
              help="Only the I-th of K parts of the examples, from 1; auto: as set by Slurm or torchrun.")  # fmt: skip
@options.batch_size
@click.option("--only", metavar="GLOB", help="Compute only cells whose name, model, label or perturbation matches.")
@click.option("--fresh", metavar="GLOB", help="Forget the stored outcomes of matching cells, and compute them again.")
@options.trust
@click.option("-x", "stop_at_failure", is_flag=True, help="Stop at the first cell or training that fails.")
@options.display
@options.layout_options
@options.with_session
def command(
    session: Session,
    workers: int | None,
    executor: str | None,
    batch_size: int | None,
    fresh: str | None,
    as_json: bool,
    intervals: bool,
    by: Rows,
) -> int:
    """Compute the missing cells of SUITE, and report. Missing models that SUITE trains are trained first.

    Running again resumes: stored outcomes are not computed again.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing,
    130 stopped by Ctrl-C.
    """
    from robharness.cli.report import show
    from robharness.engine.executors.registered import find_executor
    from robharness.errors import ExitCode, Interrupted, UserError
    from robharness.planning.cells import quoted_glob
    from robharness.report.renderers import Layout

    if fresh and session.shard:
        raise UserError(
            "--fresh forgets whole cells, those of other shards included. Forget them before the shards start. "
            f"Try: {session.plan.command('run', '--fresh', quoted_glob(fresh), '--limit', '1')}"
        )
    _ = session.devices  # checks the names before --fresh removes stored outcomes
    if executor:
        find_executor(executor, session.registry)
    if fresh:
        session.forget(fresh)
    session.show_findings(session.plan.findings)
    again = same_command()
    try:
        summary = session.compute(workers=workers, batch_size=batch_size, executor=executor)
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {again}") from None
    if summary.interrupted:
        raise Interrupted(f"interrupted; complete outcomes are stored in {session.store}. To go on: {again}")
    found = session.results(notify=True)
    report = found.report(details=as_json or None)
    show(report, as_json=as_json, layout=Layout(by=by, intervals=intervals))
    if summary.computed or summary.failures:
        text = f"computed {summary.computed} examples in {summary.seconds:.1f} s; results in {session.store}"
    else:
        text = f"computed nothing again; results in {session.store}"
    session.listener.message(text)
    incomplete = session.incomplete_cells
    if incomplete:
        session.listener.message(f"{incomplete} cells are incomplete; to try them again: {again}")
    selected = {cell.key for cell in session.selected.cells}
    none_readable = any(each.failures and not each.n for each in found.every if each.cell.key in selected)
    return ExitCode.INCOMPLETE if incomplete or none_readable or found.invalid else ExitCode.FINE


def same_command() -> str:
    """Return the command line to type to resume, from the arguments that `robharness.cli.main` was given."""
    return " ".join(map(for_shell, ["robharness", *without_fresh(click.get_current_context().obj)]))


def without_fresh(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `--fresh`, which would forget what is stored by now."""
    words = [word for word in arguments if not word.startswith("--fresh=")]
    if "--fresh" in words:
        del words[words.index("--fresh") : words.index("--fresh") + 2]
    return words
