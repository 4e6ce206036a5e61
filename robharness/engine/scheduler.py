"""Schedule missing cells on workers in units of about one minute. Running again resumes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from robharness.engine.events import (
    BatchSizeReduced,
    CellFinished,
    CellStarted,
    Event,
    ModelLoaded,
    ModelLoadFailed,
    UnitFinished,
    WorkerDied,
    WorkerFailed,
    WorkerWaits,
)
from robharness.engine.executors.base import AnyExecutor, WorkerConfig
from robharness.engine.listeners import CellObserver, RunListener, show_finding, unobserved
from robharness.engine.provenance import pass_findings, runtime_findings, stored_of_model
from robharness.engine.state import WorkerState
from robharness.engine.summary import Speed, Summary
from robharness.engine.tracking import Tracker
from robharness.engine.units import Unit, UnitPlanner, UnitSize, next_unit
from robharness.engine.work_queue import WorkQueue
from robharness.errors import ContractViolation, StoreError, UserError
from robharness.findings import Finding, finding
from robharness.planning.cells import Cell, Plan
from robharness.planning.commands import fresh_command
from robharness.store.failures import Failure
from robharness.store.parts import Counts
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store

MAX_DEATHS = 2
"""The number of workers that die over one unit, or while they load one model, before it counts as failed."""
MAX_LOSSES = 3
"""The number of times that stored parts of a cell may vanish, since another run removes them, before the run fails."""


class Scheduler:
    """The state of a run.

    queue: the outcomes that are still to be computed.
    losses: by key, the number of times that stored parts vanished.
    tracker: the progress, for listeners.
    complete_cell: is called with each cell of which the plan's positions are stored, perhaps more than once.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        listener: RunListener,
        summary: Summary,
        executor: AnyExecutor,
        *,
        stored: Mapping[str, Counts],
        workers: int,
        stop_at_failure: bool = False,
        plan_unit: UnitPlanner = next_unit,
        observe_cell: CellObserver = unobserved,
        complete_cell: Callable[[Cell], None] = lambda cell: None,
    ) -> None:
        self.complete_cell = complete_cell
        self.plan, self.store, self.listener, self.summary = plan, store, listener, summary
        self.executor, self.observe_cell = executor, observe_cell
        self.stop_at_failure, self.interrupted = stop_at_failure, threading.Event()
        self.queue = WorkQueue(plan, store, plan_unit)
        self.model_states: dict[str, str] = {}
        self.workers: list[WorkerState] = []
        self.losses: Counter[str] = Counter()
        self.tracker = Tracker(plan, store, listener, stored, self.queue.missing_spans, workers)

    def warn(self, *findings: Finding) -> None:
        """Show findings now, and keep them for the report."""
        for found in findings:
            if found not in self.summary.findings:
                self.summary.findings.append(found)
                show_finding(self.listener, found)

    @property
    def continues(self) -> bool:
        """Whether new units are assigned: no Ctrl-C, and no failure if the run stops at the first one."""
        return not self.interrupted.is_set() and not (self.stop_at_failure and self.summary.failures)

    @property
    def is_finished(self) -> bool:
        """Whether no worker computes a unit, and none will; a worker that still loads a model is not waited for."""
        if any(state.unit is not None for state in self.workers):
            return False
        has_work = self.continues and any(map(self.queue.has_work, self.queue.cells))
        return not (has_work and any(state.is_busy for state in self.workers))

    def loop(self, configs: Sequence[WorkerConfig], write_record: Callable[[], None]) -> None:
        """Assign units to workers until nothing is missing, or the run stops.

        configs: of the workers to start.
        write_record: is called after each unit.
        """
        try:
            for config in configs:
                self.workers.append(WorkerState(config, self.executor.spawn(self.plan, self.store, config)))
            while True:
                for state in self.workers:
                    if not self.continues:
                        state.worker.stop()
                    elif not state.is_busy:
                        self.assign(state)
                if self.is_finished:
                    return
                busy = {state.worker: state for state in self.workers if state.is_busy}
                for worker, event in self.executor.wait(list(busy)):
                    self.handle_event(busy[worker], event)
                    if isinstance(event, UnitFinished):
                        write_record()
        finally:
            for state in reversed(self.workers):  # the first worker in this process saved the settings of torch
                self.close_worker(state)

    # --- units -------------------------------------------------------------------------------------------------

    def assign(self, state: WorkerState) -> None:
        """Give a worker the next unit of its model, or else the model that the fewest workers have, if any is left."""
        labels = [label for label in self.queue.cells if self.queue.has_work(label) and label not in state.unloadable]
        state.prefetched = self.queue.without_failed(state.prefetched)
        if state.prefetched is None and state.label not in labels:
            if labels:
                counts = Counter(other.label for other in self.workers)
                state.label, state.is_loaded, state.is_busy = min(labels, key=lambda label: counts[label]), False, True
                state.worker.load(state.label)
            return
        assert state.label is not None
        state.unit = state.prefetched or self.queue.next_unit(state.label, len(self.workers))
        state.prefetched = self.queue.next_unit(state.label, len(self.workers))
        if state.unit is not None:
            state.is_busy = True
            state.worker.compute(state.unit, state.prefetched)

    # --- events ------------------------------------------------------------------------------------------------

    def handle_event(self, state: WorkerState, event: Event) -> None:
        """Update the run by an event of a worker. Raises UserError or RuntimeError if the worker failed."""
        label = state.label
        assert label is not None
        match event:
            case ModelLoaded():
                state.is_busy = False
                self.model_loaded(state, label, event)
            case ModelLoadFailed():
                state.is_busy, state.label = False, None
                has_it = any(other.label == label and other.is_loaded for other in self.workers)
                error = ContractViolation(event.error, by=event.by, refutes=event.refutes)
                self.cannot_load(state, label, has_it, error, event.traceback)
            case CellStarted():
                self.tracker.work_on(state, event.key)
            case CellFinished():
                self.tracker.finished(state, event)
                self.cell_finished(self.queue.cells[label][event.key], event.span, event.failure)
            case BatchSizeReduced():
                text = f"memory was too small for {event.before} examples per pass; the run goes on with {event.after}"
                self.warn(finding("batch-size-reduced", text, subject=label))
                if state.is_loaded:
                    self.queue.unit_sizes[label].shrink(event.after)
                    self.summary.speed[label].rows = event.after
            case UnitFinished():
                self.unit_finished(state, label, event)
            case WorkerWaits():
                self.warn(finding("worker-waits", f"a worker has no place to compute yet: {event.why}"))
            case WorkerDied():
                self.worker_died(state, label, event.how, deaths=0 if event.with_machine else 1)
            case WorkerFailed():
                if not event.is_bug:
                    raise UserError(event.error)
                if state.unit is None:
                    raise event.unexpected_error()
                # As after a death: an error of the driver breaks all later work on a GPU in that process.
                self.worker_died(state, label, event.error.strip().splitlines()[-1])

    def model_loaded(self, state: WorkerState, label: str, event: ModelLoaded) -> None:
        state.is_loaded = True
        try:
            self.check_state(label, event.state)
        except ContractViolation as error:
            state.label = None
            self.fail_all(label, error)
            return
        if label not in self.queue.unit_sizes:
            self.queue.unit_sizes[label] = UnitSize(event.batch_size, event.input_values)
            name = next(model.entry.name for model in self.plan.models if model.label == label)
            self.summary.speed[label] = Speed(model=name, rows=event.batch_size)
            stored = stored_of_model(self.plan, self.store, label)
            changes = runtime_findings(label, stored, event.provenance, fresh_command(self.plan, label))
            self.warn(*pass_findings(label, event.provenance), *changes)

    def cell_finished(self, cell: Cell, span: Span, failure: Failure | None, *, is_given_up: bool = True) -> None:
        """Record that a cell is stored for a span, or has failed; see `fail`."""
        if failure is None:
            self.summary.computed += span[1] - span[0]
        else:
            self.summary.failures.append(failure)
            self.queue.failed |= {cell.key} if is_given_up else set()
            self.tracker.failed(cell, span, failure, is_given_up=is_given_up)
        self.listener.cell_done(cell, span, failure)
        if failure is None:
            self.warn(*self.observe_cell(cell))

    def unit_finished(self, state: WorkerState, label: str, event: UnitFinished) -> None:
        """Adapt the size of units, and check that the store has the unit's outcomes. Raises StoreError."""
        unit, state.unit, state.is_busy = state.unit, None, False
        assert unit is not None
        self.queue.unit_sizes[label].record(unit.span[1] - unit.span[0], event.seconds)
        speed = self.summary.speed[label]
        speed.forward += event.passes.get("forward", 0)
        speed.backward += event.passes.get("backward", 0)
        speed.seconds += event.seconds
        speed.waited += event.waited
        stored = self.stored_spans(unit)
        missing = {key: uncovered(spans, unit.span) for key, spans in stored.items()}
        self.tracker.check(state, unit, missing, self.queue.failed)
        for key in unit.keys:
            if missing[key] and key not in self.queue.failed and self.continues:
                name = self.queue.cells[label][key].name
                self.losses[key] += 1
                if self.losses[key] > MAX_LOSSES:
                    command = self.store.files.show_command(self.store.root)
                    raise StoreError(f"{self.store} loses parts of '{name}' after they are written. Try: {command}")
                message = f"stored results of '{name}' disappeared, perhaps removed by another run"
                self.warn(finding("outcomes-disappeared", message, hint="they are computed again"))
            if not uncovered(stored[key], self.plan.span):
                self.complete_cell(self.queue.cells[label][key])
        assigned = [each for other in self.workers for each in (other.unit, other.prefetched) if each]
        taken = self.queue.taken_spans(label, assigned)
        for key in unit.keys:  # another run may have stored some of them meanwhile
            self.queue.missing_spans[key] = uncovered([*stored[key], *taken.get(key, ())], self.plan.span)
        self.tracker.unit_done(unit, event.seconds)

    def stored_spans(self, unit: Unit) -> dict[str, list[Span]]:
        """Return the stored spans of the cells of a unit, by key; one listing each."""
        return dict(zip(unit.keys, self.store.map(self.store.spans, unit.keys), strict=True))

    def worker_died(self, state: WorkerState, label: str, how: str, *, deaths: int = 1) -> None:
        """Leave a dead worker's units to others, and replace it. `deaths` is 0 if its work cannot be the cause."""
        self.close_worker(state)
        unit, prefetched, key = state.unit, state.prefetched, state.key
        self.tracker.work_on(state, None)
        state.unit = state.prefetched = None
        self.warn(finding("worker-died", f"a worker died ({how}); its units were given to another one", subject=label))
        self.queue.retries += [] if prefetched is None else [prefetched]
        if unit is not None:
            self.retry(state, unit, key, how, unit.deaths + deaths)
        else:
            state.load_deaths[label] += deaths
            if state.load_deaths[label] >= MAX_DEATHS:
                error = ContractViolation(f"{MAX_DEATHS} workers died while they loaded it: {how}", by="model")
                may_have_it = any(other.label == label for other in self.workers if other is not state)
                self.cannot_load(state, label, may_have_it, error)
        state.label, state.is_loaded, state.is_busy = None, False, False
        if self.continues:
            self.replace_worker(state)

    def close_worker(self, state: WorkerState) -> None:
        """End a worker; one that a plugin cannot end is a finding, since its outcomes are stored."""
        try:
            state.worker.close()
        except UserError as error:
            self.warn(finding("worker-not-closed", str(error)))

    def retry(self, state: WorkerState, unit: Unit, key: str | None, how: str, deaths: int) -> None:
        """Leave the missing outcomes of a dead worker's unit to others; after MAX_DEATHS, fail its cell.

        key: of the cell that the worker computed; without any, all cells of the unit fail.
        deaths: the number of workers that the unit cost.
        """
        missing = {key: uncovered(spans, unit.span) for key, spans in self.stored_spans(unit).items()}
        self.tracker.check(state, unit, missing, self.queue.failed)
        keys = tuple(key for key, spans in missing.items() if spans)
        if deaths >= MAX_DEATHS:
            blamed = [key] if key is not None and key in keys else list(keys)
            examples = f"its examples {unit.span[0]} to {unit.span[1] - 1}"
            error = ContractViolation(f"{MAX_DEATHS} workers died over {examples}: {how}")
            for each in blamed:  # other spans of the cell may be harmless
                self.fail(self.queue.cells[unit.label][each], unit.span, error, is_given_up=False)
                self.queue.given_up.setdefault(each, []).append(unit.span)
            keys, deaths = tuple(each for each in keys if each not in blamed), 0
        if keys:
            self.queue.retries.append(replace(unit, keys=keys, deaths=deaths))

    def replace_worker(self, state: WorkerState) -> None:
        """Start a worker in the place of a dead one, or go on with fewer. Raises UserError if none is left."""
        if self.executor.can_respawn:
            try:
                state.worker = self.executor.spawn(self.plan, self.store, state.config)
                return
            except UserError as error:
                problem = str(error)
        else:
            again = self.plan.command("run")
            problem = f"the executor '{self.executor.name}' does not replace workers that died. Try: {again}"
        self.workers.remove(state)
        if not self.workers:
            raise UserError(f"no worker is left: {problem}")
        self.warn(finding("worker-not-replaced", f"the run goes on with {len(self.workers)} workers: {problem}"))

    def fail(
        self, cell: Cell, span: Span, error: ContractViolation, details: str = "", *, is_given_up: bool = True
    ) -> None:
        """Record a failure.

        details: the traceback, if another process has it.
        is_given_up: whether the cell is not computed for other spans either.
        """
        failure = Failure.of(cell, span, error)
        failure = replace(failure, traceback=details) if details else failure
        self.store.write_failure(cell.key, failure)
        self.cell_finished(cell, span, failure, is_given_up=is_given_up)

    def cannot_load(
        self, state: WorkerState, label: str, elsewhere: bool, error: ContractViolation, details: str = ""
    ) -> None:
        """Fail the model, or leave it to other workers.

        elsewhere: whether another worker has loaded the model, or may.
        """
        if elsewhere:
            state.unloadable.add(label)
            self.warn(finding("worker-cannot-load", f"one of the workers cannot load it: {error}", subject=label))
        else:
            self.fail_all(label, error, details)

    def fail_all(self, label: str, error: ContractViolation, details: str = "") -> None:
        """Fail all cells of a model that are not computed yet."""
        for unit in self.queue.withdraw_retries(label):
            for key in unit.keys:
                self.fail(self.queue.cells[label][key], unit.span, error, details)
        for key in self.queue.open_keys(label):
            self.fail(self.queue.cells[label][key], self.plan.span, error, details)

    # --- provenance --------------------------------------------------------------------------------------------

    def check_state(self, label: str, state: str) -> None:
        """Describe the model's cells in the store. Raises ContractViolation if other outcomes are of another network.

        state: hash of the network's parameters and buffers.
        """
        stored = stored_of_model(self.plan, self.store, label)
        recorded = {provenance.get("model_state") for provenance in stored}
        if not {*recorded, self.model_states.setdefault(label, state)} <= {state}:
            raise ContractViolation(
                "it builds another network than the one whose outcomes are stored, from the same weights and options. "
                f"Raise its `revision`, or compute its cells again. Try: {fresh_command(self.plan, label)}",
                by="model",
            )
        self.store.map(self.store.describe, self.queue.cells[label].values())
