"""The function of a job: it runs a command of robharness in a subprocess, and records how the command ended.

    <folder>/shard-3-of-8.log     what the command printed, in all of its tries
    <folder>/shard-3-of-8.json    the state of the task

The command is a subprocess, since a signal of the cluster may come at any moment: the process of the job stays free to
stop the command, to put the job into the queue again, and to record that the command was killed, e.g. for its memory.
Running a command again resumes, so that a checkpoint is the same task.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from robharness.planning.files import read_record
from robharness.store.files import FileSystem

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) on Linux that sends a signal to a process when its parent dies."""


class TaskFailed(Exception):
    """The command of a task did not do all of its work. The cluster shows the job as failed."""


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """The state of a task, as its own process wrote it.

    state: "running"; "requeued", in the queue again; or "ended".
    since: the time of this state, in ISO format.
    seconds: of computation before this state, in all tries but those that were killed.
    tries: the number of times that the task was started.
    code: the exit code of its command, negative for a signal; None if it did not end by itself.
    reason: why a command that has ended is incomplete; empty for one that is complete.
    pid, machine: the process of the job.
    """

    state: Literal["running", "requeued", "ended"]
    since: str
    seconds: float = 0.0
    tries: int = 1
    code: int | None = None
    reason: str = ""
    pid: int = 0
    machine: str = ""

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.since)

    @property
    def elapsed(self) -> float:
        """Seconds of computation until now."""
        now = (datetime.now(UTC) - self.moment).total_seconds() if self.state == "running" else 0.0
        return self.seconds + max(0.0, now)


def read_state(path: Path) -> TaskState | None:
    """Return the state that a file records; None if there is no such file, or if it is damaged."""
    try:
        record = read_record(path)
        state = TaskState(**{name: record[name] for name in asdict(TaskState(state="ended", since=""))})
        is_valid = (
            state.state in ("running", "requeued", "ended")
            and state.moment.tzinfo is not None
            and all(type(value) is int and 0 <= value < 2**31 for value in (state.tries, state.pid))
            and isinstance(state.seconds, int | float)
            and 0 <= state.seconds < 2**31
            and (state.code is None or type(state.code) is int)
            and isinstance(state.reason, str)
            and isinstance(state.machine, str)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if is_valid else None


@dataclass(kw_only=True)
class Task:
    """A callable that runs a command of robharness in a job.

    name: of its files, such as "shard-3-of-8".
    words: the command without `robharness`.
    folder: of the submission; an absolute path.
    working_directory: of the command.
    stop_seconds: the longest time in which the command, once it is stopped, may finish its current cells.
    """

    name: str
    words: tuple[str, ...]
    folder: Path
    working_directory: Path
    stop_seconds: float
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _state: TaskState = field(default_factory=lambda: TaskState(state="running", since=_now()), init=False, repr=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def state_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def __call__(self) -> None:
        """Run the command. Raises TaskFailed if it does not do all of its work."""
        before = read_state(self.state_file)
        self._state = TaskState(
            state="running",
            since=_now(),
            seconds=before.seconds if before else 0.0,
            tries=before.tries + 1 if before else 1,
            pid=os.getpid(),
            machine=socket.gethostname(),
        )
        self._write()
        try:
            with self.log.open("ab") as log:
                code = self._run(log)
            reason = ending(code, self.log)
        except Exception as error:  # that of a signal handler of the cluster among others
            self._end(code=None, reason=str(error) or type(error).__name__)
            raise
        self._end(code=code, reason=reason)
        if reason:
            raise TaskFailed(f"{self.name}: {reason}; see {self.log}")

    def checkpoint(self) -> DelayedSubmission:
        """Stop the command, which stores what is whole, and return the same task, to be put into the queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + self.stop_seconds
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            self._process.kill()
        self._state = replace(self._state, state="requeued", since=_now(), seconds=self._state.elapsed)
        self._write()
        return DelayedSubmission(replace(self))

    def _run(self, log: BinaryIO) -> int:
        state = self._state
        log.write(f"--- {state.since}: try {state.tries}, process {state.pid} on {state.machine}\n".encode())
        log.flush()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "robharness", *self.words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.working_directory,
            preexec_fn=_Preparation(os.getpid()),
        )  # fmt: skip
        while (code := self._process.poll()) is None:  # a `wait` would hold a lock that `checkpoint` needs
            time.sleep(POLL_SECONDS)
        return code

    def _end(self, *, code: int | None, reason: str) -> None:
        elapsed = self._state.elapsed
        self._state = replace(self._state, state="ended", since=_now(), seconds=elapsed, code=code, reason=reason)
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        FileSystem().write(self.state_file, json.dumps(asdict(self._state), indent=1).encode())


def ending(code: int, log: Path) -> str:
    """Return why a command that ended with this code is incomplete; empty for code 0.

    log: its last line is quoted for an error.
    """
    if code == 0:
        return ""
    if code < 0:
        name = signal.Signals(-code).name if -code in {*signal.Signals} else str(-code)
        return f"killed by {name}{', perhaps for lack of memory' if -code == signal.SIGKILL else ''}"
    if code == 3:
        return "some cells failed, or a training"
    return f"exit code {code}: {_last_line(log)}"


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.path.getsize(path) - 10_000))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "its log cannot be read"
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


class _Preparation:
    """A function for the subprocess, before its program begins.

    The cluster's signals reach all processes of a job; this process acts on them alone. The subprocess dies when this
    process does, so that no command runs of which the cluster knows nothing.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._prctl: Any = getattr(ctypes.CDLL(None), "prctl", None)  # before the fork, which must not load a library

    def __call__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._prctl is not None:
            self._prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != self._parent:
                os._exit(1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
