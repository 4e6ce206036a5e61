"""Send what is missing of a suite to a cluster: a training first, then an array of shards."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from robharness.session import Session
from robharness.store.folder import StoreFolder
from robharness.submission import records
from robharness.submission.clusters import Cluster, JobState, Predecessor, local_state, slurm_states
from robharness.submission.missing import Covered, MissingWork
from robharness.submission.records import TRAINING, SentJob, StoredSubmission, Submission
from robharness.submission.task import Task


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be sent.

    shards: the number of parts of the examples, each of which is a job.
    run: the words of the command of a shard, without `--shard`.
    train: the words of the command that trains.
    typed: the words of the command as it was typed, for its record.
    throttle: the largest number of jobs that run at once; None for no limit.
    """

    shards: int
    run: tuple[str, ...]
    train: tuple[str, ...]
    typed: tuple[str, ...]
    cluster: records.ClusterName
    throttle: int | None = None


@dataclass(kw_only=True)
class Sent:
    """What was sent, and why the other shards were not.

    complete: shards that miss nothing; `covered` are those whose missing outcomes other jobs compute.
    submission: None if nothing was sent.
    after: the training that the shards wait for.
    """

    shards: int
    complete: list[int] = field(default_factory=list)
    covered: list[int] = field(default_factory=list)
    submission: StoredSubmission | None = None
    after: Predecessor | None = None

    @property
    def jobs(self) -> list[SentJob]:
        """The shards that were sent."""
        return [job for job in self.submission.content.jobs if job.part] if self.submission else []


def home(store: StoreFolder) -> StoreFolder:
    """Return the folder that holds the submissions of a store."""
    return StoreFolder(str(store), store.files)


def send(session: Session, request: Request, cluster: Cluster) -> Sent:
    """Send the shards that miss outcomes which no job computes, after a training if models are not trained yet.

    Raises UserError if the cluster refuses the jobs, StoreError if nothing can be written.
    """
    plan, folder = session.selected, home(session.store)
    missing = MissingWork(plan, session.store)
    sent = Sent(shards=request.shards)
    known = records.of_plan(plan, folder)
    states = job_states(known)
    covered = active_spans(known, states)
    wanted: list[int] = []
    for index in range(1, request.shards + 1):
        span = plan.shard(index, request.shards).span
        if not missing.outcomes(span):
            sent.complete.append(index)
        elif missing.is_covered(span, covered):
            sent.covered.append(index)
        else:
            wanted.append(index)
    if not wanted:
        return sent
    content = Submission(
        time=datetime.fromtimestamp(folder.files.time(), UTC).isoformat(timespec="microseconds"),
        cluster=request.cluster, machine=socket.gethostname(), suite=str(plan.suite.path),
        settings=plan.suite.settings, words=request.typed, working_directory=str(plan.suite.working_directory),
        only=session.only, shards=request.shards, throttle=request.throttle,
    )  # fmt: skip
    sent.submission = records.new_submission(folder, content)
    name, place = f"robharness-{plan.suite.name}", sent.submission.folder

    def make_task(name: str, words: tuple[str, ...]) -> Task:
        return Task(name=name, words=words, folder=place, working_directory=plan.suite.working_directory)

    if plan.pending_cells:
        sent.after = _active_training(known, states)
        if sent.after is None:
            ((job,),) = cluster.send(f"{name}-training", place, [make_task(TRAINING, request.train)], None)
            training = SentJob(name=TRAINING, job=job)
            sent.submission = sent.submission.with_jobs(folder, training)
            sent.after = Predecessor(submission=sent.submission, job=training)
    tasks = [
        make_task(shard_name(index, request.shards), (*request.run, "--shard", f"{index}/{request.shards}"))
        for index in wanted
    ]
    left = iter(zip(wanted, tasks, strict=True))
    for ids in cluster.send(name, place, tasks, sent.after):
        group = []
        for id, (index, task) in zip(ids, left, strict=False):
            span, part = plan.shard(index, request.shards).span, (index, request.shards)
            group.append(SentJob(name=task.name, job=id, part=part, span=span, work=missing.work(span)))
        sent.submission = sent.submission.with_jobs(folder, *group)
    return sent


def shard_name(index: int, count: int) -> str:
    """Return the name of a shard's files, such as "shard-03-of-16"; names in order are shards in order."""
    return f"shard-{index:0{len(str(count))}}-of-{count}"


def job_states(known: Sequence[StoredSubmission]) -> dict[tuple[Path, str], JobState]:
    """Ask the clusters for the states of all jobs, by the folder of the submission and the name of the job.

    Raises UserError if squeue does not answer.
    """
    found: dict[tuple[Path, str], JobState] = {}
    slurm = [(each.folder, job) for each in known if each.content.cluster == "slurm" for job in each.content.jobs]
    states = slurm_states(job.job for _, job in slurm)
    found |= {(folder, job.name): states[job.job] for folder, job in slurm}
    here = socket.gethostname()
    for each in known:
        for job in each.content.jobs if each.content.cluster == "local" else ():
            if each.content.machine == here:
                found[each.folder, job.name] = local_state(job.job, each.folder, each.state_file(job))
            else:
                found[each.folder, job.name] = JobState(phase="unknown", reason=f"only {each.content.machine} knows it")
    return found


def active_spans(known: Sequence[StoredSubmission], states: dict[tuple[Path, str], JobState]) -> list[Covered]:
    """Return the positions that jobs compute, or will compute."""
    return [
        Covered(span=job.span, only=each.content.only)
        for each in known
        for job in each.content.jobs
        if job.part and states[each.folder, job.name].is_active
    ]


def _active_training(known: Sequence[StoredSubmission], states: dict[tuple[Path, str], JobState]) -> Predecessor | None:
    return next(
        (
            Predecessor(submission=each, job=job)
            for each in known
            for job in each.content.jobs
            if job.name == TRAINING and states[each.folder, job.name].is_active
        ),
        None,
    )
