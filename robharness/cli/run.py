"""`robharness run SUITE`: train what is missing, compute what the store misses, and report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robharness.cli import options

if TYPE_CHECKING:
    from robharness.cells import Plan
    from robharness.display import Display
    from robharness.store import Store
    from robharness.training import Trained


@click.command("run", short_help="Compute what the store misses of a suite, and report.")
@options.suite_options
@click.option(
    "--device", default="cpu", show_default=True,
    help="Where to compute, as torch names it: cpu, cuda, cuda:1; several with commas between, a process each.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Compute in N other processes.")
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
def command(
    suite: Path,
    plugins: tuple[str, ...],
    store: Path,
    data_root: Path | None,
    limit: int | None,
    device: str,
    workers: int | None,
    threads: int | None,
    shard: tuple[int, int] | None,
    batch_size: int | None,
    only: str | None,
    fresh: str | None,
    stop_at_failure: bool,
    display: Any,
    as_json: bool,
    debug: bool,
) -> int:
    """Compute what the store misses of SUITE, and report. Models that SUITE trains are trained first.

    Running again is resuming: what is stored is not computed again. Exit codes: 0 all complete, 2 something to mend
    first, 3 cells failed or are missing, 130 stopped by Ctrl-C.
    """
    from robharness import api, engine, results, training
    from robharness.cli.report import show
    from robharness.display import Display
    from robharness.errors import ExitCode, Interrupted, UserError
    from robharness.plugins import discover
    from robharness.report import build
    from robharness.store import Store

    progress = Display(display)
    registry = discover(plugins)
    if registry.problems:
        progress.say(f"{len(registry.problems)} plugins were left out; see: robharness list plugins")
    planned = api.plan(suite, store=store, data=data_root, limit=limit, registry=registry)
    api.require(planned)
    if fresh and shard:
        raise UserError(
            "--fresh forgets whole cells, those of the other shards as well; forget before the shards begin: "
            f"robharness run {suite} --fresh '{fresh}' --limit 1"
        )
    devices = api.check_devices(device)
    kept = Store(store)
    asked = planned.only(only) if only else planned
    for cell in asked.only(fresh).cells if fresh else ():
        kept.forget(cell.key)
    for warning in planned.warnings:
        progress.say(f"warning: {warning}")
    failed = False
    if asked.waiting:
        if shard:
            raise training.untrained(asked)
        how: Any = {"device": devices[0], "threads": threads, "stop_at_failure": stop_at_failure}
        failed = any(each.error for each in trained(asked, kept, progress, **how))
        planned = planned.again()
        api.require(planned)
        asked = planned.only(only) if only else planned
    asked = asked.shard(*shard) if shard else asked
    summary = engine.Summary()
    if asked.cells and not (failed and stop_at_failure):
        how = {"devices": devices, "workers": workers, "threads": threads, "batch_size": batch_size}
        summary = engine.run(asked, kept, progress, **how, stop_at_failure=stop_at_failure)
    again = same_command()
    if summary.interrupted:
        raise Interrupted(f"interrupted; what is whole is stored in {store}. To go on: {again}")
    found = results.load(planned, kept)
    observed = api.observe(found, registry)
    show(build(found, warnings=[*summary.warnings, *observed]), as_json=as_json)
    if summary.computed or summary.failures:
        progress.say(f"computed {summary.computed} examples in {summary.seconds:.1f} s; results in {store}")
    else:
        progress.say(f"computed nothing again; results in {store}")
    start, stop = asked.span
    incomplete = [cell for cell in asked.cells if kept.missing(cell.key, stop, start)]
    incomplete += asked.waiting
    if incomplete:
        progress.say(f"{len(incomplete)} cells are incomplete; to try them again: {again}")
    return ExitCode.INCOMPLETE if incomplete or found.invalid else ExitCode.FINE


def trained(planned: Plan, store: Store, progress: Display, **how: Any) -> list[Trained]:
    """Train what is not there yet. Raises Interrupted, with the command that goes on."""
    from robharness import training
    from robharness.errors import Interrupted

    try:
        return training.train(planned, store, progress, **how)
    except Interrupted as error:
        raise Interrupted(f"{error}. To go on: {same_command()}") from None


def same_command() -> str:
    """Return the command line to type to resume, from the arguments that `robharness.cli.main` was given."""
    return shlex.join(["robharness", *without_fresh(click.get_current_context().obj)])


def without_fresh(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without `--fresh`, which would forget what is stored by now."""
    kept = [word for word in arguments if not word.startswith("--fresh=")]
    if "--fresh" in kept:
        del kept[kept.index("--fresh") : kept.index("--fresh") + 2]
    return kept
