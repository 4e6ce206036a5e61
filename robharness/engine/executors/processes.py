"""Processes of workers. They may start before there is a plan, and then import torch while it is made.

Each one is a fresh interpreter, since torch's threads and CUDA do not survive a fork. It ignores Ctrl-C, which the main
process handles, and ends as soon as the main process is gone. This module imports nothing that takes long.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from robharness.imports import declare_own_process, large_import
from robharness.streams import divert_stdout, make_robust

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


STOP = b"stop"
"""The message that ends a unit after its current cell; it needs no unpickling."""


class WorkerProcess:
    """A process that imports what a worker needs, and waits for a StartMessage and then for commands.

    pipe: the connection to it.
    Raises OSError if it cannot be started.
    """

    def __init__(self) -> None:
        self._circumstances = _circumstances()
        self.pipe, far_end = connection.Pipe()
        code = f"from robharness.engine.executors.processes import main; main({far_end.fileno()})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that the terminal's Ctrl-C does not reach it
            )
        finally:
            far_end.close()
        self.send(list(sys.path))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_current(self) -> bool:
        """Whether it lives, and would have the same environment and working directory if it started now."""
        return self.exit_code is None and self._circumstances == _circumstances()

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it lives. A child of it may hold the pipe open longer."""
        return self._process.poll()

    def send(self, message: Any) -> None:
        """Send a message; nothing happens if the process is gone."""
        with suppress(OSError):
            self.pipe.send_bytes(pickle.dumps(message))

    def stop(self) -> None:
        """Ask for the end of the current command."""
        with suppress(OSError):
            self.pipe.send_bytes(STOP)

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return self._process.wait()

    def close(self) -> None:
        """End the process, by a signal if it lives for two more seconds."""
        self.pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.pipe.close()
        self._process.kill()
        self._process.wait()


def _circumstances() -> tuple[dict[str, str], str]:
    """Return the environment and the working directory, which a process has from its start."""
    with suppress(OSError):
        return dict(os.environ), os.getcwd()
    return dict(os.environ), ""  # the folder was removed


# --- before there is a plan ----------------------------------------------------------------------------------------

_ready: list[WorkerProcess] = []
"""Processes that started early and have no worker yet."""


def processes_of_run(workers: Any, device: Any, executor: Any) -> int:
    """Return the number of processes that a run will start, at most one per core; 0 if they are not known yet.

    workers, device, executor: as a user gave them, perhaps wrongly.
    """
    if executor not in (None, "subprocess"):
        return 0
    devices = device.count(",") + 1 if isinstance(device, str) else 1
    count = workers if type(workers) is int else devices if devices > 1 else int(executor is not None)
    return max(0, min(count, os.cpu_count() or 1))


@contextmanager
def prepared_processes(count: int) -> Iterator[None]:
    """Start processes for the workers of a block, which import while the block plans; end those that it does not use.

    One that cannot be started is left to `take_process`, which tells why.
    """
    try:
        with suppress(OSError):
            _ready.extend(WorkerProcess() for _ in range(count))
        yield
    finally:
        release_processes()


def take_process() -> WorkerProcess:
    """Return a process that started early, or else start one. Raises OSError if it cannot be started."""
    while _ready:
        process = _ready.pop(0)
        if process.is_current:
            return process
        process.kill()  # e.g. a plugin set a variable that libraries read when they are imported
    return WorkerProcess()


def release_processes() -> None:
    """End the processes that started early and that no worker has, since it has nothing to do, or not for long."""
    while _ready:
        _ready.pop().kill()


# --- in the process ------------------------------------------------------------------------------------------------


def main(number: int) -> None:
    """Run a process of a worker: import, receive a StartMessage, execute commands until the main process is gone.

    number: file descriptor of the pipe to the main process.
    """
    declare_own_process()
    make_robust()
    divert_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = connection.Connection(number)
    try:
        sys.path[:] = pickle.loads(pipe.recv_bytes())
    except EOFError:
        return
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(pipe, messages, stopping), daemon=True).start()
    from robharness.engine.executors.serving import WorkerService, failure

    try:
        with large_import("torch"):
            import robharness.engine.worker  # noqa: F401, while the main process makes the plan
        service = WorkerService(pickle.loads(messages.get()), stopping)
        while True:
            name, *arguments = pickle.loads(messages.get())
            for event in getattr(service, name)(*arguments):
                pipe.send(event)
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        pipe.send(failure(error))


def _listen(pipe: Connection, messages: queue.SimpleQueue[bytes], stopping: threading.Event) -> None:
    """Queue messages while the process computes, and end the process when the main process is gone.

    Another thread unpickles them, since that imports modules, which two threads must not do at once.
    """
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)  # the store is whole at any moment
        if message == STOP:
            stopping.set()
        else:
            messages.put(message)
