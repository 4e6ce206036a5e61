"""Run a plan: schedule missing cells on workers, and record the run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict

from robharness.engine.executors.base import WorkerConfig
from robharness.engine.executors.inprocess import InProcessWorker
from robharness.engine.executors.subprocess import SubprocessWorker
from robharness.engine.interrupt import interruptible
from robharness.engine.listeners import RunListener
from robharness.engine.provenance import outdated_outcomes, outdated_trainings, stored_provenance
from robharness.engine.scheduler import Scheduler
from robharness.engine.summary import Summary
from robharness.errors import UserError
from robharness.planning.cells import Plan
from robharness.store.store import Store


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
) -> Summary:
    """Compute the cells of the plan that the store misses; failures are recorded, and the rest goes on.

    devices: "cpu", "cuda", "cuda:1" and so on, given to the processes in turn. workers: other processes; by default
    one per device if there are several, else all is done in this one. threads: of the CPU, per process; workers share
    the cores if not given. batch_size: examples per pass. Raises StoreError where nothing can be written. The first
    Ctrl-C ends the run after the cells in hand.
    """
    begun = time.perf_counter()
    workers = len(devices) if workers is None and len(devices) > 1 else workers
    if workers and plan.request is None:
        raise UserError("a live network is in this process alone; run it without workers and on one device")
    if len(devices) > (workers or 1):
        raise UserError(
            f"{len(devices)} devices need as many workers; leave --workers out, or give --workers {len(devices)}"
        )
    if workers and threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, _cores() // workers)  # more would wait for each other
    for cell in plan.cells:
        store.verify(cell.key, plan.n)
    summary = Summary()
    state = Scheduler(plan, store, listener, summary, stop_at_failure)
    work = sum(stop - start for spans in state.gaps.values() for start, stop in spans)
    listener.started(work, sum(1 for spans in state.gaps.values() if spans))
    outdated = outdated_outcomes(stored_provenance(plan, store), plan.suite.path_for_shell)
    for found in (*outdated_trainings(plan), *outdated):
        state.warn(str(found))
    record = store.new_run()
    facts = {"suite": str(plan.suite.path), "examples": plan.n, "part": plan.part, "devices": list(devices),
             "workers": workers or 1, "threads": threads}  # fmt: skip

    def write_record() -> None:
        summary.seconds = time.perf_counter() - begun
        store.write_json(record, {**facts, **asdict(summary)})

    setups = [WorkerConfig(device=devices[index % len(devices)], rows=batch_size, threads=threads)
              for index in range(workers or 1)]  # fmt: skip
    with interruptible(listener) as state.interrupted:
        try:
            if work:
                state.go(SubprocessWorker if workers else InProcessWorker, setups, write_record)
            for cell in plan.cells if work or os.access(store.root, os.W_OK) else ():
                store.join(cell.key, plan.n)
        finally:
            listener.finished()
    summary.interrupted, summary.finished = state.interrupted.is_set(), True
    summary.seconds = time.perf_counter() - begun
    if work:
        write_record()
    return summary


def _cores() -> int:
    """The cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
