"""The verbs as Python functions: plan, train, run, check, load, stored, compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness.comparison import build as comparing
from robharness.comparison.compare import NAMED
from robharness.comparison.operands import open_sides
from robharness.comparison.records import Comparison
from robharness.comparison.requests import Request, as_models
from robharness.display.notebook import default_listener
from robharness.engine.environment import check_counts
from robharness.engine.executors.processes import prepared_processes, processes_of_run
from robharness.engine.listeners import RunListener, TrainingListener
from robharness.errors import Interrupted, UserError
from robharness.gate.records import CheckReport
from robharness.interrupts import Stopped
from robharness.locations import Location, store_location
from robharness.planning.cells import Plan
from robharness.planning.commands import DEFAULT_STORE
from robharness.plugins.discovery import discover
from robharness.plugins.registry import Registry
from robharness.report.results import Results, StoredSuite
from robharness.session import Session, SuiteSource, fetched_plan, plan_suite
from robharness.specs.records import ModelSpec
from robharness.store.folder import StoreFolder
from robharness.store.suites import named_suite, stored_suites
from robharness.training.train import TrainingResult

if TYPE_CHECKING:
    from torch import nn


def plan(
    suite: SuiteSource,
    *,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan the cells of a suite; compute nothing.

    suite: a YAML file, or its content as a mapping.
    store: the place of the results and of the models that a suite trains: a folder, or "s3://BUCKET/PREFIX".
    data: the folder of data and weights; by default $ROBHARNESS_DATA, or ./data.
    limit: the number of examples, a prefix of one fixed order.
    plugins: values of `-p`.
    models: live networks by label, added to the suite's models. A network takes the input of the suite's first model,
        or else the shape of the data; give a ModelSpec if that does not fit.
    registry: the plugins, if they are discovered already.
    overrides: values that are set in the suite, such as {"models.*.epochs": 1}; see `--set` of the command line.
    Raises SuiteError for a suite that is wrong. Resources that are not on this machine are in `Plan.missing`.
    """
    return plan_suite(
        suite, registry or discover(plugins), store=store, data=data, limit=limit, models=models, overrides=overrides
    )


def run(
    suite: SuiteSource,
    *,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    shard: tuple[int, int] | None = None,
    batch_size: int | None = None,
    executor: str | None = None,
    listener: RunListener | None = None,
    overrides: Mapping[str, Any] | None = None,
    fetch: bool = False,
) -> Results:
    """Train the missing models of a suite, compute the outcomes that the store misses, and load all results.

    The other parameters are those of `plan`.
    device: as torch names devices, several with commas between.
    workers: the number of workers; by default one per device.
    threads: of the CPU, per process.
    shard: (i, k), only the i-th of k parts of the examples, from 1.
    batch_size: examples per pass.
    executor: starts the workers: "in-process", "subprocess", or a plugin's, such as "mine/cluster". By default
        subprocesses if `workers` or several devices are given, else this process.
    listener: receives the progress and the findings. By default, a notebook shows the progress, and each finding that
        is a warning or an error becomes a RobharnessWarning at the end, as do cells that failed.
    Raises UserError before any computation if data or weights are missing. Failed cells are in the results. Cells that
    wait for a training that failed are in `results.plan.pending_cells`.
    """
    options: dict[str, Any] = {"device": device, "threads": threads, "shard": shard, "listener": listener}
    options |= {"overrides": overrides, "fetch": fetch}
    with (
        prepared_processes(processes_of_run(workers, device, executor)),
        _session(suite, store, data=data, limit=limit, plugins=plugins, models=models, **options) as session,
    ):
        results = _computed(session, workers=workers, batch_size=batch_size, executor=executor)
        session.show_findings([*results.findings, *session.findings])
        return results


def fetch(
    suite: SuiteSource,
    *,
    mirror: str | None = None,
    store: str | Path = DEFAULT_STORE,
    data: str | Path | None = None,
    plugins: Sequence[str] = (),
    listener: RunListener | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Get the weights and the data that a suite misses, as far as they are served without registration.

    The other parameters are those of `run`.
    mirror: address or folder that serves all files under their own names, in place of their publishers.
    Returns the plan, whose `missing` names what a person has to get. Raises UserError for what cannot be fetched; what
    has come is kept, and the same call resumes.
    """
    planned = plan(suite, store=store, data=data, plugins=plugins, overrides=overrides)
    return fetched_plan(planned, listener or default_listener(), mirror=mirror)


def check(
    suite: SuiteSource,
    baseline: str | Path | None = None,
    *,
    update: bool = False,
    benchmark: str | Path | None = None,
    benchmark_tolerance: float = 10,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    models: Mapping[str, nn.Module | ModelSpec] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    executor: str | None = None,
    listener: RunListener | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Run a suite, and compare its cells with a baseline: `exit_code` of the result is 0 if nothing regressed.

    The other parameters are those of `run`.
    baseline: the path of a .json file; or a folder of results, in which the suite of this name that was run last
        counts; or the label of a model of the suite, with which all others are compared. None for the file beside the
        suite, "NAME.baseline.json".
    update: whether the results are written into the file, if all cells are complete.
    benchmark: a file of `pytest --benchmark-json`, whose ratios are compared with those of the baseline as well.
    benchmark_tolerance: the percentage by which a ratio may become worse beyond both spreads.
    Raises BaselineError, before any computation, if the baseline is absent, damaged or of another suite.
    """
    from robharness.gate.baselines import find_baseline
    from robharness.gate.benchmarks import read_ratios
    from robharness.gate.checks import check_results

    options: dict[str, Any] = {"device": device, "threads": threads, "listener": listener, "overrides": overrides}
    with (
        prepared_processes(processes_of_run(workers, device, executor)),
        _session(suite, store, data=data, limit=limit, plugins=plugins, models=models, **options) as session,
    ):
        ratios = None if benchmark is None else read_ratios(benchmark)
        found = find_baseline(baseline, session.plan, update=update, benchmark=benchmark)
        results = _computed(session, workers=workers, batch_size=batch_size, executor=executor)
        report = check_results(
            results, found, update=update, findings=results.run_findings,
            benchmarks=ratios, benchmark_tolerance=benchmark_tolerance,
        )  # fmt: skip
        session.show_findings(report.findings)
        return report


@contextmanager
def _session(
    suite: SuiteSource, store: str | Location, *, listener: RunListener | None, **options: Any
) -> Iterator[Session]:
    """Open a session, whose findings become Python warnings at the end; Ctrl-C says that the same call resumes.

    options: as `Session.open` takes them.
    """
    own = default_listener()
    session = Session.open(suite, store=store, listener=listener or own, **options)
    try:
        yield session
    except Interrupted as error:
        raise Stopped(f"{error}; the same call resumes") from None
    finally:
        own.warn()


def _computed(session: Session, *, workers: int | None, batch_size: int | None, executor: str | None) -> Results:
    """Compute the outcomes that the store misses, and load all results. Raises Interrupted after Ctrl-C."""
    session.show_findings(session.plan.findings)
    summary = session.compute(workers=workers, batch_size=batch_size, executor=executor)
    if summary.interrupted:
        raise Interrupted(f"complete outcomes are stored in {session.store}")
    return session.results(notify=True)


def train(
    suite: SuiteSource,
    *,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    plugins: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    listener: TrainingListener | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[TrainingResult]:
    """Train the models of a suite that are not trained yet; compute no cells.

    The parameters are those of `run`.
    Returns a record per model that the suite trains. A training that fails is in the records, with its error.
    """
    session = Session.open(
        suite, store=store, data=data, plugins=plugins, overrides=overrides,
        device=device, threads=threads, listener=listener or default_listener(),
    )  # fmt: skip
    try:
        return session.train()
    except Interrupted as error:
        raise Stopped(f"{error}; the same call resumes") from None


def load(
    suite: SuiteSource,
    *,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Results:
    """Load the stored results of a suite, complete or not; compute nothing. The parameters are those of `run`.

    suite: also the name of a suite of which the store has a record, or its name and digest, "NAME@DIGEST". Then the
        store alone is read: neither the data nor weights or plugins are needed, and what plugins compute is absent.
        See `stored`.
    """
    if not isinstance(suite, Mapping) and (found := named_suite(suite, StoreFolder(store_location(store)))) is not None:
        check_counts(limit=limit)
        if overrides:
            raise UserError(
                f"'{suite}' is read from the store alone, where nothing can be set. Try: the path of the suite"
            )
        return Results.with_report(found.results(limit))
    return Session.open(
        suite, store=store, data=data, limit=limit, plugins=plugins, registry=registry, overrides=overrides
    ).results()


def stored(store: str | Location = DEFAULT_STORE) -> list[StoredSuite]:
    """List the suites of which a store has records, the one that was run last first.

    store: the folder of results.
    Each has `name`, `digest` and `results()`, which needs neither the data nor weights or plugins. Those of one name
    differ in what determines their cells, labels or tables.
    """
    return [StoredSuite.of(found) for found in stored_suites(StoreFolder(store_location(store)))]


def compare(
    before: Results | str | Path,
    after: Results | str | Path | None = None,
    models: tuple[str, str] | None = None,
    *,
    suite: str | None = None,
    store: str | Location = DEFAULT_STORE,
    data: str | Path | None = None,
    limit: int | None = None,
    plugins: Sequence[str] = (),
    changed: int = NAMED,
    overrides: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare stored results on the examples that both sides have; compute nothing.

    before, after: results, or the path of a store, of a baseline or of a suite's file, or the name of a suite of which
        the store has a record, perhaps with its digest, "NAME@DIGEST". Without `after`, two models of one suite are
        compared.
    models: the labels to compare, of the side before and of the side after; by default all that both have. A label that
        several seeds share compares the means over runs.
    suite: the suite in operands that are stores, if they have several.
    changed: the number of changed examples of each kind that are named per cell.
    overrides: values that are set in the suites of operands that are files.
    The other parameters are those of `run`.
    Raises UserError if there is nothing to compare, and for results on different examples, and BaselineError for a
    damaged baseline.
    """
    check_counts(limit=limit)
    place, given = store_location(store), [before, *([] if after is None else [after])]
    request = Request.of_call(given, models=as_models(models), suite=suite, store=store, limit=limit)

    def open_suite(path: Path) -> Results:
        session = Session.open(path, store=store, data=data, limit=limit, plugins=plugins, overrides=overrides)
        return session.results()

    first, second = open_sides(given, request, store=place, limit=limit, open_suite=open_suite)
    return comparing.build(first, second, request, changed=changed)
