"""The state of one worker, as the scheduler keeps it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from robharness.engine.executors.base import Worker, WorkerConfig
from robharness.engine.units import Unit


@dataclass
class WorkerState:
    """A worker, and its assignments.

    label: of the model that it loads or has loaded.
    unit: that it computes.
    prefetched: the unit after that, reserved for this worker.
    key: of the cell that it computes.
    counted: by key, the number of outcomes of the unit whose right predictions its events have counted.
    load_deaths: by label, the number of its predecessors that died while they loaded the model.
    unloadable: labels of models that this worker cannot load, although others can.
    """

    config: WorkerConfig
    worker: Worker
    label: str | None = None
    is_loaded: bool = False
    is_busy: bool = False
    unit: Unit | None = None
    prefetched: Unit | None = None
    key: str | None = None
    counted: Counter[str] = field(default_factory=Counter)
    load_deaths: Counter[str] = field(default_factory=Counter)
    unloadable: set[str] = field(default_factory=set)
