"""Workers in subprocesses, which may crash.

A subprocess makes the plan again and writes its outcomes into the store itself; only commands and events pass between
processes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import TYPE_CHECKING

from robharness.engine.events import Event, WorkerDied
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.executors.processes import take_process
from robharness.engine.executors.serving import StartMessage
from robharness.engine.units import Unit
from robharness.errors import UserError
from robharness.planning.cells import Plan
from robharness.store.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLL_SECONDS = 0.2
"""The longest wait for events, after which the main process notices Ctrl-C."""


class SubprocessWorker:
    """A worker in a subprocess. Raises UserError if the subprocess cannot be started."""

    def __init__(self, plan: Plan, store: Store, config: WorkerConfig) -> None:
        start = StartMessage.of(plan, store, config)
        try:
            self._process = take_process()
        except OSError as error:
            raise UserError(f"no worker process can be started: {error.strerror}. Try: fewer workers") from error
        self._process.send(start)

    @property
    def pid(self) -> int:
        """The id of the subprocess."""
        return self._process.pid

    @property
    def pipe(self) -> Connection:
        """The connection to the subprocess, to wait on."""
        return self._process.pipe

    @property
    def has_ended(self) -> bool:
        """Whether the subprocess is gone. A child of the subprocess may still hold the pipe open."""
        return self._process.exit_code is not None

    def load(self, label: str) -> None:
        self._process.send(("load", label))

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        self._process.send(("compute", unit, prefetch))

    def stop(self) -> None:
        self._process.stop()

    def next_event(self) -> Event:
        """Wait for the next event and return it; WorkerDied if the subprocess is gone."""
        has_ended = self.has_ended  # read first: all that the subprocess sent is in the pipe by then
        with suppress(EOFError, OSError):
            if not has_ended or self.pipe.poll():
                event: Event = self.pipe.recv()
                return event
        return WorkerDied(how=_ending(self._process.wait()))

    def close(self) -> None:
        self._process.close()


class SubprocessExecutor:
    """Workers in subprocesses, which compute at the same time. A worker that died is replaced."""

    name = "subprocess"
    can_respawn = True
    needs_request = True
    is_local = True

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> SubprocessWorker:
        return SubprocessWorker(plan, store, config)

    def wait(self, workers: Sequence[SubprocessWorker]) -> Iterator[tuple[SubprocessWorker, Event]]:
        ready = connection.wait([worker.pipe for worker in workers], timeout=POLL_SECONDS)
        for worker in workers:
            if worker.pipe in ready or worker.has_ended:
                yield worker, worker.next_event()


def _ending(code: int) -> str:
    """Describe an exit code; negative codes are signals."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
