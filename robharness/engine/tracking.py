"""Tracking of a run's progress by the events of workers and, where these say too little, by the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robharness.engine.events import CellFinished
from robharness.engine.listeners import ProgressListener, RunListener, Silent
from robharness.engine.progress import RunProgress
from robharness.engine.state import WorkerState
from robharness.engine.units import Unit
from robharness.planning.cells import Cell, Plan
from robharness.store.failures import Failure
from robharness.store.parts import Counts
from robharness.store.spans import Span
from robharness.store.store import Store


class Tracker:
    """Keeps a `RunProgress` up to date, for listeners alone: no decision of the scheduler depends on it.

    stored: counts by key, at the begin of the run.
    missing: spans to compute, by key.
    workers: their number.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        listener: RunListener,
        stored: Mapping[str, Counts],
        missing: Mapping[str, Sequence[Span]],
        workers: int,
    ) -> None:
        self._plan, self._store = plan, store
        self._listener = listener if isinstance(listener, ProgressListener) else Silent()
        self._progress = RunProgress.of(plan.cells, plan.n, stored, missing, workers)
        self._listener.follow(self._progress)

    def work_on(self, state: WorkerState, key: str | None) -> None:
        """Note the cell that a worker computes now; None if there is none."""
        for each, note in ((state.key, self._progress.left), (key, self._progress.started)):
            if each is not None and state.label is not None:
                note(state.label, self._progress.name_of[state.label, each])
        state.key = key

    def finished(self, state: WorkerState, event: CellFinished) -> None:
        """Note that a worker has finished a cell."""
        assert state.label is not None
        self.work_on(state, None)
        if event.failure is None:
            self._progress.stored(
                state.label, self._progress.name_of[state.label, event.key], event.span, event.right, event.seconds
            )
            if event.right is not None:
                state.counted[event.key] += event.span[1] - event.span[0]

    def failed(self, cell: Cell, span: Span, failure: Failure, *, is_given_up: bool) -> None:
        """Note that a cell has failed for a span; see `RunProgress.failed`."""
        self._progress.failed(cell.model.label, cell.short_name, span, failure, is_given_up=is_given_up)

    def check(self, state: WorkerState, unit: Unit, missing: Mapping[str, Sequence[Span]], failed: set[str]) -> None:
        """Count the outcomes of cells again if the events of a unit differ from the store, e.g. after a crash.

        missing: by key, the spans of the unit that the store misses.
        failed: keys of cells that are not computed again.
        """
        start, stop = self._plan.span
        for key, spans in missing.items():
            stored = unit.span[1] - unit.span[0] - sum(b - a for a, b in spans)
            if state.counted[key] != stored:
                counts = self._store.verify(key, self._plan.n)
                left = 0 if key in failed else sum(b - a for a, b in self._store.missing(key, stop, start))
                self._progress.recounted(unit.label, self._progress.name_of[unit.label, key], counts, left)
        state.counted.clear()

    def unit_done(self, unit: Unit, seconds: float) -> None:
        """Note the duration of a unit, and show it."""
        self._progress.unit_done(unit.label, seconds)
        self._listener.unit_done(unit, seconds)
