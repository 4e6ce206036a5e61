"""`robharness run SUITE`: train missing models, compute missing cells, and report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.report.renderers.base import Rows
    from robharness.session import Session


@click.command("run")
@options.suite_options
@options.audit
@options.compute_options
@click.option("--shard", type=options.Shard(), metavar="I/K|auto",
              help="Only the I-th of K parts of the examples, from 1; auto: as set by Slurm or torchrun.")  # fmt: skip
@options.only
@click.option("--fetch", is_flag=True, help="First get missing weights and data, as `robharness fetch` does.")
@click.option("--fresh", metavar="GLOB", help="Forget the stored outcomes of matching cells, and compute them again.")
@click.option("--no-report", is_flag=True, help="Print no report, which reads all outcomes of SUITE.")
@options.layout_options
@options.with_session
def command(
    session: Session,
    workers: int | None,
    executor: str | None,
    batch_size: int | None,
    fresh: str | None,
    no_report: bool,
    as_json: bool,
    intervals: bool,
    by: Rows,
) -> int:
    """Compute the missing cells of SUITE, and report. Missing models that SUITE trains are trained first.

    Running again resumes: stored outcomes are not computed again.

    Exit codes: 0 all cells are complete, 2 usage error, or data or weights are missing, 3 cells failed or are missing,
    or files could not be fetched, 130 stopped by Ctrl-C.
    """
    from robharness.cli.computing import compute, show_end
    from robharness.cli.report import show
    from robharness.errors import ExitCode, UserError
    from robharness.planning.commands import quoted_glob
    from robharness.report.renderers import Layout

    if fresh and session.shard:
        raise UserError(
            "--fresh forgets whole cells, those of other shards included. Forget them before the shards start. "
            f"Try: {session.plan.command('run', '--fresh', quoted_glob(fresh), '--limit', '1')}"
        )
    if no_report and as_json:
        raise UserError("--json prints the report, and --no-report leaves it out. Try: one of them")
    session.find_workers(executor)  # a mistyped name removes no stored outcomes
    if fresh:
        session.forget(fresh)
    summary = compute(session, workers=workers, executor=executor, batch_size=batch_size)
    if no_report:
        session.notify_end()
        return ExitCode.INCOMPLETE if show_end(session, summary) else ExitCode.FINE
    found = session.results(notify=True)
    report = found.report(details=as_json or None)
    show(report, as_json=as_json, layout=Layout(by=by, intervals=intervals))
    incomplete = show_end(session, summary)
    selected = {cell.key for cell in session.selected.cells}
    none_readable = any(each.failures and not each.n for each in found.every if each.cell.key in selected)
    return ExitCode.INCOMPLETE if incomplete or none_readable or found.invalid else ExitCode.FINE
