"""Protocols of executors and workers, and the configuration of a worker.

A worker takes one command at a time, `load` or `compute`, and reports by events, which its executor's `wait` yields.
The last event of a command is ModelLoaded, ModelLoadFailed, UnitFinished, WorkerFailed or WorkerDied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from robharness.engine.events import Event
from robharness.engine.units import Unit
from robharness.planning.cells import Plan
from robharness.store.store import Store


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Settings of one worker.

    device: as torch names it, e.g. "cuda:1".
    batch_size: examples per pass; chosen by input size and device if None.
    threads: of the CPU; torch's default if None.
    workers: the number of workers of the run.
    """

    device: str = "cpu"
    batch_size: int | None = None
    threads: int | None = None
    workers: int = 1


class Worker(Protocol):
    """A process, or this one, that computes units and writes their outcomes into the store."""

    def load(self, label: str) -> None:
        """Begin to load the model with this label. The last event is ModelLoaded or ModelLoadFailed."""

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        """Begin to compute a unit of the loaded model. The last event is UnitFinished.

        prefetch: the next unit, whose examples are read meanwhile.
        """

    def stop(self) -> None:
        """End the current unit after its current cell; may be called again."""

    def close(self) -> None:
        """End the worker, at once if it is busy or has died."""


W = TypeVar("W")
"""The executor's own class of workers."""


class Executor(Protocol[W]):
    """A starter of workers.

    name: as messages show it.
    can_respawn: whether a worker that died may be replaced by a new one.
    needs_request: whether workers make the plan again from `Plan.request`, which is None for a plan with live networks.
    is_local: whether workers compute on this machine, so that its devices are checked and its cores are shared. An
        executor of a plugin may leave it out if they do.
    """

    name: str
    can_respawn: bool
    needs_request: bool
    is_local: bool

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> W:
        """Start a worker. Raises UserError if none can be started."""

    def wait(self, workers: Sequence[W]) -> Iterator[tuple[W, Event]]:
        """Yield the next events of busy workers.

        The iterator ends after some events, or after a fraction of a second without any, so that Ctrl-C is noticed.
        """


ATTRIBUTES = ("name", "can_respawn", "needs_request", "spawn", "wait")
"""The attributes that an object of a plugin needs to be an `Executor`."""

AnyExecutor = Executor[Any]
