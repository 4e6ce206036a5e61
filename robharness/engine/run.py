"""Run a plan: schedule missing cells on workers, and record the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

from robharness.engine.environment import threads_per_worker
from robharness.engine.executors.base import AnyExecutor, WorkerConfig
from robharness.engine.executors.inprocess import InProcessExecutor
from robharness.engine.executors.processes import release_processes
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.engine.interrupt import interruptible
from robharness.engine.listeners import CellObserver, RunListener, unobserved
from robharness.engine.provenance import outdated_outcomes, outdated_trainings, stored_provenance
from robharness.engine.scheduler import Scheduler
from robharness.engine.summary import Summary
from robharness.engine.units import UnitPlanner, next_unit
from robharness.errors import UserError
from robharness.findings import sentences
from robharness.locations import ObjectPath
from robharness.planning.cells import Cell, Plan
from robharness.store.expected import checks
from robharness.store.store import Store


def choose_executor(
    plan: Plan, devices: Sequence[str], workers: int | None, executor: AnyExecutor | None
) -> AnyExecutor:
    """Return the executor of a run, by default one for the workers. The arguments are those of `run_plan`.

    Raises UserError if they contradict each other.
    """
    workers = len(devices) if workers is None and len(devices) > 1 else workers
    executor = executor or (SubprocessExecutor() if workers else InProcessExecutor())
    if executor.needs_request and plan.request is None:
        raise UserError(
            f"a live network exists in this process alone, and the workers of '{executor.name}' are other processes. "
            "Try: one device and no `workers`"
        )
    if executor.needs_request and isinstance(plan.store, ObjectPath) and plan.store.scheme == "memory":
        raise UserError(
            f"results in {plan.store} exist in this process alone, and the workers of '{executor.name}' are other "
            "processes. Try: a folder as the store"
        )
    if len(devices) > (workers or 1):
        raise UserError(f"{len(devices)} devices need as many workers, not {workers or 1}. Try: {len(devices)} workers")
    return executor


def run_plan(
    plan: Plan,
    store: Store,
    listener: RunListener,
    *,
    devices: Sequence[str] = ("cpu",),
    workers: int | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
    stop_at_failure: bool = False,
    executor: AnyExecutor | None = None,
    plan_unit: UnitPlanner = next_unit,
    observe_cell: CellObserver = unobserved,
) -> Summary:
    """Compute the cells of the plan that the store misses. A cell that fails is recorded, and the others are computed.

    The first Ctrl-C ends the run after the current cells.

    devices: "cpu", "cuda", "cuda:1" and so on, assigned to the workers in turn.
    workers: their number; by default one per device.
    threads: of the CPU, per worker; by default an equal share of the cores if `workers` or several devices are given
        and the workers compute on this machine.
    batch_size: examples per pass; chosen by input size and device if None.
    stop_at_failure: whether the first failure ends the run.
    executor: starts the workers; by default subprocesses if `workers` or several devices are given, else this process.
    plan_unit: chooses the next unit.
    observe_cell: is called in this process with each cell that is stored for a span, and returns findings.
    Raises UserError for options that contradict each other, StoreError if nothing can be written.
    """
    begun = time.perf_counter()
    executor = choose_executor(plan, devices, workers, executor)
    workers = len(devices) if workers is None and len(devices) > 1 else workers
    count = workers or 1
    if workers and threads is None and executor.is_local:
        threads = threads_per_worker(workers)
    checked = checks(plan)
    listed = store.listed()
    counts = listed.map(lambda cell: listed.verify(cell.key, plan.n, checked[cell.key]), plan.cells)
    stored = {cell.key: count for cell, count in zip(plan.cells, counts, strict=True)}
    summary, joiner = Summary(), Joiner(store, plan)
    state = Scheduler(
        plan, store, listener, summary, executor,
        stored=stored, workers=count, stop_at_failure=stop_at_failure, plan_unit=plan_unit, observe_cell=observe_cell,
        complete_cell=joiner.join,
    )  # fmt: skip
    work = sum(stop - start for spans in state.queue.missing_spans.values() for start, stop in spans)
    facts = {"suite": str(plan.suite.path), "extends": [str(path) for path in plan.suite.extended],
             "set": list(plan.suite.settings), "examples": plan.n, "part": plan.part, "devices": list(devices),
             "workers": count, "threads": threads}  # fmt: skip
    configs = [
        WorkerConfig(device=devices[index % len(devices)], batch_size=batch_size, threads=threads, workers=count)
        for index in range(count)
    ]

    def write_record() -> None:
        summary.seconds = time.perf_counter() - begun
        store.write_json(record, {**facts, **asdict(summary), "warnings": sentences(summary.findings, "warning")})

    try:
        listener.started(work, sum(1 for spans in state.queue.missing_spans.values() if spans))
        outdated = outdated_outcomes(plan, stored_provenance(plan, listed))
        for found in (*outdated_trainings(plan), *outdated):
            state.warn(found)
        record = store.new_run()
        with interruptible(listener) as state.interrupted:
            with joiner:
                if work:
                    state.loop(configs, write_record)
            release_processes()  # those that started early although nothing is missing
            if work or store.files.is_writable(store.root):
                listed = store.listed()
                listed.map(partial(_complete, listed, plan), plan.cells)
    finally:
        listener.finished()
    summary.interrupted, summary.finished = state.interrupted.is_set(), True
    summary.seconds = time.perf_counter() - begun
    if work:
        write_record()
    return summary


class Joiner:
    """Joins the parts of complete cells in a thread while workers compute others.

    A cell of a large suite has a part per unit, thousands in all: joined at the end alone, they would keep all workers
    waiting for hours.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store, self._span = store, plan.span
        self._thread = ThreadPoolExecutor(1)
        self._joined: dict[str, Future[None]] = {}

    def join(self, cell: Cell) -> None:
        """Join the parts of a cell, once in the life of this object."""
        if cell.key not in self._joined:
            start, stop = self._span
            self._joined[cell.key] = self._thread.submit(self._store.join, cell.key, stop, start)

    def __enter__(self) -> Joiner:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """Wait for the thread. After an exception, cells that are not joined yet are left as they are.

        Raises StoreError if a cell could not be joined.
        """
        self._thread.shutdown(cancel_futures=kind is not None)
        for joined in self._joined.values() if kind is None else ():
            joined.result()


def _complete(store: Store, plan: Plan, cell: Cell) -> None:
    """Join the parts of the plan's positions and, if all are stored, of the whole cell, and describe it if needed.

    A description that was lost or damaged is written again.
    """
    start, stop = plan.span
    store.join(cell.key, stop, start)
    store.join(cell.key, plan.n)
    if store.spans(cell.key):
        store.describe(cell)
