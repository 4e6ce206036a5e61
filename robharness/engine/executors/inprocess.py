"""A worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from robharness.engine.events import Event
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.units import Unit
from robharness.planning.cells import Plan
from robharness.store.store import Store


class InProcessWorker:
    """This process."""

    def __init__(self, plan: Plan, store: Store, setup: WorkerConfig) -> None:
        from robharness.engine.worker import UnitRunner

        self._work = UnitRunner(plan, store, setup, threading.Event())
        self.events: Iterator[Event] = iter(())

    def load(self, label: str) -> None:
        self.events = self._work.load(label)

    def do(self, unit: Unit, ahead: Unit | None) -> None:
        self.events = self._work.do(unit, ahead)

    def stop(self) -> None:
        self._work.stopping.set()

    def close(self) -> None:
        self._work.close()
