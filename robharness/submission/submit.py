"""Send what is missing of a suite to a cluster: a training first, then an array of shards."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from robharness.errors import UserError
from robharness.planning.cells import span_of
from robharness.planning.planner import refresh
from robharness.session import Session
from robharness.submission import records
from robharness.submission.clusters import Cluster, JobState, Predecessor, local_state, slurm_states
from robharness.submission.missing import Covered, MissingWork
from robharness.submission.records import TRAINING, SentJob, StoredSubmission, Submission
from robharness.submission.task import Task


@dataclass(frozen=True, kw_only=True)
class Request:
    """The work that is to be sent.

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
    """The shards that were sent, and why the others were not.

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


def send(session: Session, request: Request, cluster: Cluster, on_wait: Callable[[str], None]) -> Sent:
    """Send the shards that miss outcomes which no job computes, after a training if models are not trained yet.

    on_wait: called once with a description of another process that sends jobs, if this one has to wait for it.
    Raises UserError if the cluster refuses the jobs, StoreError if nothing can be written.
    """
    with records.sending(session.store, on_wait) as has_waited:
        if has_waited:
            session.plan = refresh(session.plan)
        return _send_missing(session, request, cluster)


def _send_missing(session: Session, request: Request, cluster: Cluster) -> Sent:
    plan, folder = session.selected, records.home(session.store)
    known = records.of_plan(plan, session.store)
    states = job_states(known)  # before the store is read: a job that ends meanwhile has stored its outcomes
    missing = MissingWork(plan, session.store)
    uncovered = missing.without(active_spans(known, states))
    sent, wanted = Sent(shards=request.shards), list[int]()
    for index in range(1, request.shards + 1):
        span = span_of(plan.n, (index, request.shards))
        if not missing.outcomes(span):
            sent.complete.append(index)
        elif not uncovered.outcomes(span):
            sent.covered.append(index)
        else:
            wanted.append(index)
    if not wanted:
        return sent
    content = Submission(
        time=datetime.fromtimestamp(folder.files.time(), UTC).isoformat(timespec="microseconds"),
        cluster=request.cluster, machine=socket.gethostname(), suite=str(plan.suite.path),
        store=records.url_of(session.store), settings=plan.suite.settings, words=request.typed,
        working_directory=str(plan.suite.working_directory), only=session.only, examples=plan.n,
        shards=request.shards, throttle=request.throttle,
    )  # fmt: skip
    sent.submission = records.new_submission(folder, content)
    try:
        _send(sent, wanted, session, request, cluster, _active_training(known, states, request.cluster), missing)
    except UserError:
        if not sent.submission.content.jobs:  # nothing was sent that a record could name
            shutil.rmtree(sent.submission.folder, ignore_errors=True)
        raise
    return sent


def _send(
    sent: Sent,
    wanted: Sequence[int],
    session: Session,
    request: Request,
    cluster: Cluster,
    training: Predecessor | None,
    missing: MissingWork,
) -> None:
    """Send a training if one is needed, and then shards, and record each job as soon as it is sent.

    training: the one that is active already.
    """
    assert sent.submission is not None
    plan, folder = session.selected, records.home(session.store)
    name, place = f"robharness-{plan.suite.name}", sent.submission.folder

    def make_task(name: str, words: tuple[str, ...]) -> Task:
        return Task(
            name=name, words=words, folder=place, working_directory=plan.suite.working_directory,
            stop_seconds=cluster.options.stop_seconds,
        )  # fmt: skip

    if plan.pending_cells:
        if training is None:
            ((id,),) = cluster.send(f"{name}-training", place, [make_task(TRAINING, request.train)], None)
            job = SentJob(name=TRAINING, job=id)
            sent.submission = sent.submission.with_jobs(folder, job)
            training = Predecessor(submission=sent.submission, job=job)
        sent.after = training
    tasks = [
        make_task(shard_name(index, request.shards), (*request.run, "--shard", f"{index}/{request.shards}"))
        for index in wanted
    ]
    left = iter(zip(wanted, tasks, strict=True))
    for ids in cluster.send(name, place, tasks, sent.after):
        group = []
        for id, (index, task) in zip(ids, left, strict=False):
            part = (index, request.shards)
            span = span_of(plan.n, part)
            group.append(SentJob(name=task.name, job=id, part=part, span=span, work=missing.work(span)))
        sent.submission = sent.submission.with_jobs(folder, *group)


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


def _active_training(
    known: Sequence[StoredSubmission], states: dict[tuple[Path, str], JobState], cluster: records.ClusterName
) -> Predecessor | None:
    """Return the training that is active on a cluster. Jobs of one cluster cannot wait for those of another."""
    return next(
        (
            Predecessor(submission=each, job=job)
            for each in known
            if each.content.cluster == cluster
            for job in each.content.jobs
            if job.name == TRAINING and states[each.folder, job.name].is_active
        ),
        None,
    )
