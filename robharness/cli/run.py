"""`robharness run SUITE`: train what is missing, compute what the store misses, and report."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.session import Session


@click.command("run", short_help="Compute what the store misses of a suite, and report.")
@options.suite_options
@click.option(
    "--device", default="cpu", show_default=True,
    help="Where to compute, as torch names it: cpu, cuda, cuda:1; several with commas between, a process each.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Compute with N workers, by default other processes."
)
@click.option(
    "--executor", metavar="NAME", help="How to start workers: in-process, subprocess, or a plugin's executor."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the CPU, per process.")
@click.option("--shard", type=options.Shard(), metavar="I/K|auto",
              help="Only the I-th of K parts of the examples; auto: as Slurm or torchrun say.")  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", help="Examples per pass; chosen by size if not given."
)
@click.option("--only", metavar="GLOB", help="Compute only cells whose name, model, label or perturbation matches.")
@click.option("--fresh", metavar="GLOB", help="Forget what is stored of the cells that match, and compute them again.")
@options.trust
@click.option("-x", "stop_at_failure", is_flag=True, help="Stop at the first cell, or training, that fails.")
@click.option("--display", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto", show_default=True,
              help="How to show progress, on standard error.")  # fmt: skip
@options.with_session
def command(
    session: Session,
    workers: int | None,
    executor: str | None,
    batch_size: int | None,
    fresh: str | None,
    as_json: bool,
) -> int:
    """Compute what the store misses of SUITE, and report. Models that SUITE trains are trained first.

    Running again is resuming: what is stored is not computed again. Exit codes: 0 all complete, 2 something to mend
    first, 3 cells failed or are missing, 130 stopped by Ctrl-C.
    """
    from robharness.cli.report import show
    from robharness.engine.executors.registered import find_executor
    from robharness.errors import ExitCode, Interrupted, UserError
    from robharness.report import build

    if fresh and session.shard:
        raise UserError(
            "--fresh forgets whole cells, those of the other shards as well; forget before the shards begin: "
            f"robharness run {session.plan.suite.path_for_shell} --fresh '{fresh}' --limit 1"
        )
    _ = session.devices  # a mistyped device must not cost stored outcomes
    if executor:
        find_executor(executor, session.registry)  # nor a mistyped executor
    if fresh:
        session.forget(fresh)
    for warning in session.plan.warnings:
        session.listener.message(f"warning: {warning}")
    again = same_command()
    try:
        summary = session.compute(workers=workers, batch_size=batch_size, executor=executor)
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {again}") from None
    if summary.interrupted:
        raise Interrupted(f"interrupted; what is whole is stored in {session.store}. To go on: {again}")
    found = session.results(notify=True)
    show(build(found, warnings=session.warnings), as_json=as_json)
    if summary.computed or summary.failures:
        text = f"computed {summary.computed} examples in {summary.seconds:.1f} s; results in {session.store}"
    else:
        text = f"computed nothing again; results in {session.store}"
    session.listener.message(text)
    incomplete = session.incomplete_cells
    if incomplete:
        session.listener.message(f"{incomplete} cells are incomplete; to try them again: {again}")
    return ExitCode.INCOMPLETE if incomplete or found.invalid else ExitCode.FINE


def same_command() -> str:
    """What to type to go on."""
    return shlex.join(["robharness", *without_fresh(sys.argv[1:])])


def without_fresh(arguments: list[str]) -> list[str]:
    """The command line that goes on where this one stopped: `--fresh` would forget what is there by now."""
    kept = [word for word in arguments if not word.startswith("--fresh=")]
    if "--fresh" in kept:
        del kept[kept.index("--fresh") : kept.index("--fresh") + 2]
    return kept
