"""Clusters that run jobs: Slurm, and this machine. Both send jobs by submitit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from robharness.errors import UserError, describe, for_shell
from robharness.submission.options import JobOptions
from robharness.submission.records import SentJob, StoredSubmission
from robharness.submission.task import Task, read_state
from robharness.text import printable

if TYPE_CHECKING:
    from submitit import Job

JOBS = "jobs"
"""The folder of submitit's files in that of a submission."""
POLL_SECONDS = 0.2
NO_LIMIT_MINUTES = 60 * 24 * 365
Phase = Literal["pending", "running", "over", "unknown"]


@dataclass(frozen=True, kw_only=True)
class JobState:
    """The state of a job at its cluster.

    reason: why a job is pending, or how it came to be over; empty if the cluster does not say.
    """

    phase: Phase
    reason: str = ""

    @property
    def is_active(self) -> bool:
        """Whether the job computes, or will compute without another command."""
        return self.phase in ("pending", "running")


@dataclass(frozen=True, kw_only=True)
class Predecessor:
    """A job that must end with success before others begin.

    submission: the one that it was sent by.
    """

    submission: StoredSubmission
    job: SentJob


class Cluster(Protocol):
    """A cluster that jobs are sent to, and the options of its jobs."""

    @property
    def options(self) -> JobOptions: ...

    def send(self, name: str, folder: Path, tasks: Sequence[Task], after: Predecessor | None) -> Iterator[list[str]]:
        """Send tasks, and yield the ids of their jobs, in order, in groups that are sent at once.

        name: of the jobs, for people.
        folder: of the submission.
        Raises UserError if the cluster refuses them, or if the predecessor fails while this process waits for it.
        """
        ...


# --- Slurm ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A cluster with Slurm. Several tasks are one array.

    gpus: of each job.
    """

    options: JobOptions
    gpus: int

    def send(self, name: str, folder: Path, tasks: Sequence[Task], after: Predecessor | None) -> Iterator[list[str]]:
        submitit = import_submitit()
        options = self.options
        if options.time is None:
            raise UserError("jobs need a time limit. Try: --slurm time=4:00:00, or `time: 4:00:00` in a profile")
        try:
            executor = submitit.SlurmExecutor(folder / JOBS, max_num_timeout=options.timeouts, python=python())
        except RuntimeError:
            raise UserError(
                "Slurm's commands, such as sbatch and srun, are not on this machine. Type the command on a login node. "
                "Try: which sbatch, or --cluster local"
            ) from None
        sbatch: dict[str, Any] = {"requeue": True, **options.sbatch}
        if self.gpus and not {"gres", "gpus-per-node", "gpus-per-task"} & sbatch.keys():
            sbatch["gpus-per-node"] = self.gpus
        if after is not None:
            sbatch |= {"dependency": f"afterok:{after.job.job}", "kill-on-invalid-dep": "yes"}
        # srun has not read sbatch's number of cores since Slurm 22.05, and gives a task one core without it
        cores = sbatch.get("cpus-per-task")
        executor.update_parameters(
            srun_args=None if cores is None else [f"--cpus-per-task={cores}"],
            job_name=name, time=options.time, signal_delay_s=options.grace, wckey=None,
            setup=list(options.setup) or None, additional_parameters=sbatch,
            array_parallelism=options.throttle or len(tasks),
        )  # fmt: skip
        printed = StringIO()
        try:
            with submitit.helpers.clean_env(), redirect_stderr(printed):  # a job may send jobs
                jobs: list[Job[None]] = executor.submit_array(list(tasks))
        except Exception as error:
            text = " ".join(str(error).split()) or " ".join(printed.getvalue().split())
            raise UserError(f"sbatch refused the jobs: {printable(text, 1000)}. Try: sbatch --help") from None
        yield [job.job_id for job in jobs]


def slurm_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return the states of jobs by their ids: those of squeue, and of sacct for jobs that squeue knows no more.

    Raises UserError if squeue does not answer.
    """
    ids = list(jobs)
    arrays = sorted({job.partition("_")[0] for job in ids}, key=int)
    found = {job: _of_queue(state, reason) for job, state, reason in _rows(_squeue(arrays))}
    over = [job for job in ids if job not in found]
    ended = {job: state for job, state, _ in _rows(_sacct(sorted({job.partition("_")[0] for job in over}, key=int)))}
    return {
        job: found.get(job) or JobState(phase="over", reason=_ENDINGS.get(_word(ended.get(job, "")), "")) for job in ids
    }


def _squeue(arrays: Sequence[str]) -> str:
    """Return the lines "id|state|reason" of jobs that are not over, an array's tasks one by one."""
    if not arrays:
        return ""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise UserError("squeue is not on this machine. Type the command on a login node. Try: which squeue") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"squeue does not answer: {describe(error)}. Try: squeue") from None
    if done.returncode and "Invalid job id" not in done.stderr:  # said of one job that Slurm has forgotten
        raise UserError(f"squeue does not answer: {printable(' '.join(done.stderr.split()))}. Try: squeue")
    return done.stdout


def _sacct(arrays: Sequence[str]) -> str:
    """Return the lines "id|state|" of jobs that are over; empty without accounting, which not each cluster has."""
    if not arrays:
        return ""
    command = [
        "sacct",
        "--noheader",
        "--allocations",
        "--parsable",
        "--format=JobID,State",
        f"--jobs={','.join(arrays)}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def last_words(submission: StoredSubmission, job: SentJob) -> str:
    """Return the last line that Slurm itself wrote into the log of a job, e.g. that it was cancelled; empty without."""
    path = submission.folder / JOBS / f"{job.job}_0_log.err"
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = (line.partition("error:")[2].strip(" *") for line in reversed(lines) if line.startswith("slurmstepd"))
    return printable(next(said, ""))


def _rows(text: str) -> Iterator[tuple[str, str, str]]:
    for line in text.splitlines():
        job, *facts = line.strip().split("|")
        if re.fullmatch(r"[0-9]+(_[0-9]+)?", job) and len(facts) >= 2:
            yield job, facts[0], facts[1]


_RUNNING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
_OVER = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
)
_ENDINGS = {
    "TIMEOUT": "the time limit was reached", "OUT_OF_MEMORY": "out of memory", "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start", "CANCELLED": "cancelled", "PREEMPTED": "preempted",
    "DEADLINE": "its deadline has passed",
}  # fmt: skip
"""State of a job that is over -> its reason, if the state says more than the task itself."""


def _of_queue(state: str, reason: str) -> JobState:
    word = _word(state)
    if word in _RUNNING:
        return JobState(phase="running")
    if word in _OVER:
        return JobState(phase="over", reason=_ENDINGS.get(word, ""))
    return JobState(phase="pending", reason="" if reason in ("None", "") else printable(reason))


def _word(state: str) -> str:
    return state.split(" ")[0].rstrip("+")


# --- this machine ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Local:
    """This machine, with a process for each job.

    Of the options, `time`, `grace`, `timeouts` and `throttle` count. While more jobs are to be sent than may run at
    once, or a training is to end first, `send` waits.
    gpus: whether a job gets a GPU; jobs that run at once get different ones.
    """

    options: JobOptions
    gpus: int

    def send(self, name: str, folder: Path, tasks: Sequence[Task], after: Predecessor | None) -> Iterator[list[str]]:
        submitit = import_submitit()
        if after is not None:
            _wait_for_success(after)
        executor = submitit.LocalExecutor(folder / JOBS, max_num_timeout=self.options.timeouts, python=python())
        executor.update_parameters(
            timeout_min=self.options.time or NO_LIMIT_MINUTES, signal_delay_s=self.options.grace,
            gpus_per_node=self.gpus,
        )  # fmt: skip
        slots: dict[int, Job[None] | None] = dict.fromkeys(range(min(len(tasks), self.options.throttle or len(tasks))))
        for task in tasks:
            while (slot := _free(slots)) is None:
                time.sleep(POLL_SECONDS)
            if self.gpus:
                executor.update_parameters(visible_gpus=(slot,))
            with _detached():
                job = executor.submit(task)
            slots[slot] = job
            yield [job.job_id]


def _free(slots: Mapping[int, Job[None] | None]) -> int | None:
    return next((slot for slot, job in slots.items() if job is None or job.done()), None)


def local_state(job: str, folder: Path, state_file: Path) -> JobState:
    """Return the state of a job of this machine.

    job: the id of the process that watches it.
    folder: of the submission, which the processes of its jobs have among their arguments.
    """
    state = read_state(state_file)
    if state is not None and state.state == "running" and _is_process_of(state.pid, folder):
        return JobState(phase="running")
    if _is_process_of(int(job), folder):
        return JobState(phase="pending" if state is None or state.state == "requeued" else "running")
    return JobState(phase="over")


def _is_process_of(pid: int, folder: Path) -> bool:
    """Return whether a process lives that has the folder among its arguments, and is no other process of this id."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        if Path("/proc/self").exists():
            return False
        command = ["ps", "-o", "args=", "-p", str(pid)]
        arguments = subprocess.run(command, capture_output=True, check=False).stdout
    return os.fsencode(folder) in arguments


def _wait_for_success(after: Predecessor) -> None:
    """Wait until a job of this machine has ended. Raises UserError if it failed."""
    submission, job = after.submission, after.job
    path = submission.state_file(job)
    while local_state(job.job, submission.folder, path).is_active:
        time.sleep(POLL_SECONDS)
    state = read_state(path)
    if state is None or state.code != 0:
        log = submission.log(job)
        reason = state.reason if state and state.reason else "it ended without a word"
        raise UserError(f"{job.name} failed, and nothing that needs it was sent: {reason}. Try: tail {for_shell(log)}")


@contextmanager
def _detached() -> Iterator[None]:
    """Give processes that start in this block no standard stream, since they outlive the command and its pipes."""
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for number in range(3):
            os.dup2(null, number)
        yield
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)


# --- both -----------------------------------------------------------------------------------------------------------


def import_submitit() -> Any:
    """Return submitit. Raises UserError if it is not installed."""
    try:
        import submitit
        import submitit.helpers
    except ImportError:
        raise UserError(
            "jobs are sent by submitit, which is not installed. Try: pip install 'robharness[slurm]'"
        ) from None
    return submitit


def python() -> str:
    """Return the words of a shell that start this Python; with `-P`, a file of the working directory is no module."""
    return f"{shlex.quote(sys.executable)} -P"
