"""The class of the actor that is a worker. It keeps its loaded model from unit to unit."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robharness.engine.executors import Event


class WorkerActor:
    """Executes the commands of a worker in one thread; the other methods are called in another thread meanwhile.

    path: the folders of Python modules of the main process.
    start: a pickled StartMessage.
    """

    def __init__(self, path: Sequence[str], start: bytes) -> None:
        sys.path[:] = path
        self._start = start
        self._service: Any = None
        self._is_stopping = False

    def execute(self, name: str, *arguments: Any) -> Iterator[Event]:
        """Yield the events of a command, "load" or "compute"."""
        if self._service is None:
            from robharness.engine.executors import WorkerService

            self._service = WorkerService(pickle.loads(self._start))
            if self._is_stopping:
                self._service.stop()
        yield from getattr(self._service, name)(*arguments)

    def place(self) -> None:
        """Return as soon as the actor has a place."""

    def stop(self) -> None:
        """End the current unit after its current cell."""
        self._is_stopping = True
        if self._service is not None:
            self._service.stop()
