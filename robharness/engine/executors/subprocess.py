"""Hands that do units: this process, or others that may die.

A hand takes one command at a time, to load a model or to do a unit, and tells of it in events; the last one is Ready,
Refused, Finished, Died or Broken. `stop` ends a unit after the cell in hand.

Each other process is a fresh interpreter (no fork: torch's threads and CUDA do not survive one) that makes the plan
again from its recipe and writes its outcomes into the store itself; only commands and events pass between the two. It
ignores Ctrl-C, which is for the engine to handle, and ends as soon as the engine is gone.
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
from robharness.engine.executors.inprocess import InProcessWorker
from robharness.engine.units import Unit
from robharness.errors import UserError
from robharness.planning import planner
from robharness.planning.cells import Plan
from robharness.plugins.discovery import discover
from robharness.store.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

POLL_SECONDS = 0.2
"""How often the engine looks up from waiting, to notice Ctrl-C."""


class SubprocessWorker:
    """Another process. Raises UserError where it cannot even begin."""

    def __init__(self, plan: Plan, store: Store, setup: WorkerConfig) -> None:
        self._plan, self._store, self._setup = plan, store, setup
        self._pipe, theirs = connection.Pipe()
        code = f"from robharness.engine.executors.subprocess import main; main({theirs.fileno()})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_number(sys.stderr) else None,
                start_new_session=True,  # out of the reach of the terminal's Ctrl-C
            )
        except OSError as error:
            raise UserError(f"no worker process can be started: {error.strerror}. Try fewer: --workers 1") from error
        theirs.close()
        keys = frozenset((cell.model.label, cell.key) for cell in plan.cells)
        self._send((list(sys.path), plan.request, plan.part, keys, store.root, setup))

    @property
    def pipe(self) -> Connection:
        return self._pipe

    def load(self, label: str) -> None:
        self._send(("load", label))

    def do(self, unit: Unit, ahead: Unit | None) -> None:
        self._send(("do", unit, ahead))

    def stop(self) -> None:
        self._send(("stop",))

    def next_event(self) -> Event:
        """The next event; waits for it."""
        ended = self.has_ended()  # asked first: what it said before is in the pipe by then
        with suppress(EOFError, OSError):
            if not ended or self._pipe.poll():
                event: Event = self._pipe.recv()
                return event
        return WorkerDied(how=_ending(self._process.wait()))

    def has_ended(self) -> bool:
        """Whether the process is gone; a child of its own may keep the pipe open all the same."""
        return self._process.poll() is not None

    def close(self) -> None:
        """End the process, at once if it is busy."""
        self._pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, command: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it has died, as the next event will tell
            self._pipe.send(command)


def events(hands: Sequence[Any]) -> Iterator[tuple[Any, Event]]:
    """What the busy hands have to tell now; waits a moment for it."""
    for hand in hands:
        if isinstance(hand, InProcessWorker):
            yield hand, next(hand.events)
            return
    ready = connection.wait([hand.pipe for hand in hands], timeout=POLL_SECONDS)
    for hand in hands:
        if hand.pipe in ready or hand.has_ended():
            yield hand, hand.next_event()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def _has_number(stream: Any) -> bool:
    try:
        return isinstance(stream.fileno(), int)
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file, as in a notebook
        return False


def main(number: int) -> None:
    """What the other process does. number: of the file that the engine listens at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = connection.Connection(number)
    try:
        sys.path[:], recipe, part, keys, root, setup = pipe.recv()
    except EOFError:
        return
    commands: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(pipe, commands, stopping), daemon=True).start()
    try:
        registry = discover(recipe.options)
        plan = planner.plan(suite.load(recipe.suite, registry), recipe.data_root, recipe.limit, root).shard(*part)
        if not keys <= {(cell.model.label, cell.key) for cell in plan.cells}:
            raise UserError("the suite, a plugin or the weights changed while the run began; type the command again")
        from robharness.engine.worker import UnitRunner

        work = UnitRunner(plan, Store(root), setup, stopping)
        while True:
            name, *arguments = commands.get()
            for event in getattr(work, name)(*arguments):
                pipe.send(event)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        is_bug = not isinstance(error, UserError)
        pipe.send(WorkerFailed(error=traceback.format_exc() if is_bug else str(error), is_bug=is_bug))


def _listen(pipe: Connection, commands: queue.SimpleQueue[tuple[Any, ...]], stopping: threading.Event) -> None:
    """Take commands while the work goes on; end the process when nobody gives any more."""
    while True:
        try:
            command = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the store is safe at any moment
        if command[0] == "stop":
            stopping.set()
        else:
            commands.put(command)
