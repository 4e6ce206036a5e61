"""Workers in subprocesses, which may crash.

Each subprocess is a fresh interpreter, since torch's threads and CUDA do not survive a fork. It makes the plan again
from the plan's request and writes its outcomes into the store itself; only commands and events pass between processes.
A subprocess ignores Ctrl-C, which the main process handles, and ends as soon as the main process is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from robharness import suite
from robharness.engine.events import Event, WorkerDied, WorkerFailed
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.units import Unit
from robharness.errors import UserError
from robharness.imports import declare_own_process, large_import
from robharness.planning import planner
from robharness.planning.cells import Plan
from robharness.plugins.discovery import discover
from robharness.store.store import Store
from robharness.streams import divert_stdout, make_robust

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLL_SECONDS = 0.2
"""The longest wait for events, after which the main process notices Ctrl-C."""


class SubprocessWorker:
    """A worker in a subprocess. Raises UserError if the subprocess cannot be started."""

    def __init__(self, plan: Plan, store: Store, config: WorkerConfig) -> None:
        self._pipe, far_end = connection.Pipe()
        code = f"from robharness.engine.executors.subprocess import main; main({far_end.fileno()})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=plan.request.working_directory if plan.request else None,
                start_new_session=True,  # so that the terminal's Ctrl-C does not reach it
            )
        except OSError as error:
            raise UserError(f"no worker process can be started: {error.strerror}. Try: fewer workers") from error
        finally:
            far_end.close()
        keys = frozenset((cell.model.label, cell.key) for cell in plan.cells)
        self._send((list(sys.path), plan.request, plan.part, keys, store.root, config))

    @property
    def pid(self) -> int:
        """The id of the subprocess."""
        return self._process.pid

    @property
    def pipe(self) -> Connection:
        """The connection to the subprocess, to wait on."""
        return self._pipe

    @property
    def has_ended(self) -> bool:
        """Whether the subprocess is gone. A child of the subprocess may still hold the pipe open."""
        return self._process.poll() is not None

    def load(self, label: str) -> None:
        self._send(("load", label))

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        self._send(("compute", unit, prefetch))

    def stop(self) -> None:
        self._send(("stop",))

    def next_event(self) -> Event:
        """Wait for the next event and return it; WorkerDied if the subprocess is gone."""
        has_ended = self.has_ended  # read first: all that the subprocess sent is in the pipe by then
        with suppress(EOFError, OSError):
            if not has_ended or self._pipe.poll():
                event: Event = self._pipe.recv()
                return event
        return WorkerDied(how=_ending(self._process.wait()))

    def close(self) -> None:
        """End the subprocess, by a signal if it is busy for two more seconds."""
        self._pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, command: tuple[Any, ...]) -> None:
        with suppress(OSError):  # the subprocess died, which the next event reports
            self._pipe.send(command)


class SubprocessExecutor:
    """Workers in subprocesses, which compute at the same time. A worker that died is replaced."""

    name = "subprocess"
    can_respawn = True
    needs_request = True

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


def main(number: int) -> None:
    """Run a subprocess: receive the plan's request, then execute commands until the main process is gone.

    number: file descriptor of the pipe to the main process.
    """
    declare_own_process()
    make_robust()
    divert_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = connection.Connection(number)
    try:
        sys.path[:], request, part, keys, root, config = pipe.recv()
    except EOFError:
        return
    commands: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(pipe, commands, stopping), daemon=True).start()
    try:
        registry = discover(request.options)
        loaded = suite.load(request.suite, registry, settings=request.settings)
        plan = planner.plan(loaded, request.data_root, request.limit, root).shard(*part)
        if not keys <= {(cell.model.label, cell.key) for cell in plan.cells}:
            raise UserError(
                "the suite, a plugin or the weights changed while the run began, so that workers have other cells. "
                f"Try: {plan.command('run')}"
            )
        with large_import("torch"):
            from robharness.engine.worker import UnitRunner

        runner = UnitRunner(plan, Store(root), config, stopping)
        while True:
            name, *arguments = commands.get()
            for event in getattr(runner, name)(*arguments):
                pipe.send(event)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        is_bug = not isinstance(error, UserError)
        pipe.send(WorkerFailed(error=traceback.format_exc() if is_bug else str(error), is_bug=is_bug))


def _listen(pipe: Connection, commands: queue.SimpleQueue[tuple[Any, ...]], stopping: threading.Event) -> None:
    """Queue commands while the subprocess computes; end the subprocess when the main process is gone."""
    while True:
        try:
            command = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the store is whole at any moment
        if command[0] == "stop":
            stopping.set()
        else:
            commands.put(command)
