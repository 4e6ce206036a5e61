"""Workers in this process, which compute alternately."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from robharness.engine.events import Event
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.units import Unit
from robharness.imports import large_import
from robharness.planning.cells import Plan
from robharness.store.store import Store


class InProcessWorker:
    """A worker in this process.

    events: of the current command; each step computes up to the next event.
    """

    def __init__(self, plan: Plan, store: Store, config: WorkerConfig) -> None:
        with large_import("torch"):
            from robharness.engine.worker import UnitRunner

        self._runner = UnitRunner(plan, store, config, threading.Event())
        self.events: Iterator[Event] = iter(())

    def load(self, label: str) -> None:
        self.events = self._runner.load(label)

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        self.events = self._runner.compute(unit, prefetch)

    def stop(self) -> None:
        self._runner.stopping.set()

    def close(self) -> None:
        self.events = iter(())
        self._runner.close()


class InProcessExecutor:
    """Workers in this process. Several of them take turns, event by event."""

    name = "in-process"
    can_respawn = False  # such a worker dies only with this process
    needs_request = False
    is_local = True

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> InProcessWorker:
        return InProcessWorker(plan, store, config)

    def wait(self, workers: Sequence[InProcessWorker]) -> Iterator[tuple[InProcessWorker, Event]]:
        for worker in workers:
            yield worker, next(worker.events)
