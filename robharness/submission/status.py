"""The status of a suite: what is stored, what jobs compute, what failed and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robharness.planning.cells import Plan, matches, span_of
from robharness.store.failures import Failure
from robharness.store.speeds import seconds_per_pass
from robharness.store.store import Store
from robharness.submission import records
from robharness.submission.clusters import JobState, last_words
from robharness.submission.missing import MissingWork, seconds_of
from robharness.submission.records import SentJob, StoredSubmission, Submission
from robharness.submission.submit import active_spans, job_states
from robharness.submission.task import TaskState, read_state

State = Literal["done", "running", "pending", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "running", "pending", "failed", "missing")


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """The status of a shard or of a training.

    name: such as "3/8", or "training".
    span: the positions of its examples.
    state: "done" if nothing is missing in the store, whatever its job says; "missing" if it was never sent.
    stored, all: outcomes, cells times examples; 0 for a training.
    reason: why it failed, or why it is pending; empty if nothing is known.
    job: its id; empty without a job. `cluster` is that of the job.
    tries: the number of times that the job was started; 0 if it was not started yet.
    seconds_left: of a shard that is running; None if it is not known.
    log: absolute path; None without a job.
    """

    name: str
    span: tuple[int, int] = (0, 0)
    state: State
    stored: int = 0
    all: int = 0
    reason: str = ""
    job: str = ""
    cluster: str = ""
    tries: int = 0
    seconds_left: float | None = None
    log: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteStatus:
    """The status of a suite.

    stored, all: outcomes of all cells.
    cells, complete_cells: their number, and how many of them miss nothing.
    parts: shards of the last submission, and before them its training, and jobs of earlier submissions that run.
    seconds_left: until running and pending parts are done, without the time that they wait for machines; None if it is
        not known.
    seconds_of_work: that one worker needs for what is missing; None if it is not known.
    is_covered: whether jobs compute all that is missing.
    submission: the last one; None if there was none.
    others: the number of submissions of the suite's file with other values set.
    failures: recorded failures of cells, each with the cell's name.
    """

    stored: int
    all: int
    cells: int
    complete_cells: int
    parts: tuple[PartStatus, ...]
    seconds_left: float | None
    seconds_of_work: float | None
    is_covered: bool
    submission: StoredSubmission | None
    others: int
    failures: tuple[tuple[str, Failure], ...]

    @property
    def is_complete(self) -> bool:
        return self.stored == self.all

    def count(self, state: State) -> int:
        """Return the number of shards in a state."""
        return sum(part.state == state for part in self.parts if part.name != records.TRAINING)


def status_of(plan: Plan, store: Store) -> SuiteStatus:
    """Return the status of a plan, by the names of the stored files and the records of submissions.

    Raises UserError if a cluster does not answer.
    """
    every = [each for each in records.submissions(store) if each.content.suite == str(plan.suite.path)]
    known = [each for each in every if each.content.settings == plan.suite.settings]
    states = job_states(known)
    missing, speeds = MissingWork(plan, store), seconds_per_pass(store)
    whole = (0, plan.n)
    view = _View(plan, store, missing, speeds, states)
    parts = [*view.trainings(known), *view.shards(known)]
    stored = missing.all_outcomes(whole) - missing.outcomes(whole)
    return SuiteStatus(
        stored=stored,
        all=missing.all_outcomes(whole),
        cells=len(plan.cells) + len(plan.pending_cells),
        complete_cells=missing.complete_cells,
        parts=tuple(parts),
        seconds_left=_seconds_left(parts, known[0].content.throttle if known else None),
        seconds_of_work=seconds_of(missing.by_model(whole), speeds),
        is_covered=not missing.without(active_spans(known, states)).outcomes(whole),
        submission=known[0] if known else None,
        others=len(every) - len(known),
        failures=tuple((cell.name, failure) for cell in plan.cells for failure in store.failures(cell.key)[:1]),
    )


def _seconds_left(parts: Sequence[PartStatus], throttle: int | None) -> float | None:
    """Return the time of the part that ends last; None if a part has no estimate, as a training has none."""
    active = [part for part in parts if part.state in ("running", "pending")]
    left = [part.seconds_left for part in active]
    if not active or any(seconds is None for seconds in left):
        return None
    every = [seconds for seconds in left if seconds is not None]
    return max(*every, sum(every) / throttle if throttle else 0.0)


@dataclass(frozen=True)
class _View:
    """The facts that the parts of a status are made of."""

    plan: Plan
    store: Store
    missing: MissingWork
    speeds: dict[str, float]
    states: dict[tuple[Path, str], JobState]

    def trainings(self, known: Sequence[StoredSubmission]) -> list[PartStatus]:
        """The last training."""
        for each in known:
            for job in each.content.jobs:
                if job.name == records.TRAINING:
                    return [self._part(each, job)]
        return []

    def shards(self, known: Sequence[StoredSubmission]) -> list[PartStatus]:
        """The shards of the last submission, each by its last job, and what jobs of other partitions still compute."""
        if not known:
            return []
        last, found, others = known[0].content, dict[int, PartStatus](), list[PartStatus]()
        for each in known:
            for job in each.content.jobs:
                if job.part and each.content.partition == last.partition:
                    if job.part[0] not in found:
                        found[job.part[0]] = self._part(each, job)
                elif job.part and self.states[each.folder, job.name].is_active:
                    others.append(self._part(each, job))
        unsent = [index for index in range(1, last.shards + 1) if index not in found]
        found |= {index: self._unsent(last, index) for index in unsent}
        return [*sorted(others, key=lambda part: part.span), *(found[index] for index in sorted(found))]

    def _unsent(self, submission: Submission, index: int) -> PartStatus:
        span, only = span_of(submission.examples, (index, submission.shards)), submission.only
        every, missing = self.missing.all_outcomes(span, only), self.missing.outcomes(span, only)
        return PartStatus(
            name=f"{index}/{submission.shards}",
            span=span,
            state="missing" if missing else "done",
            stored=every - missing,
            all=every,
        )

    def _part(self, submission: StoredSubmission, job: SentJob) -> PartStatus:
        at, state = self.states[submission.folder, job.name], read_state(submission.state_file(job))
        only = submission.content.only
        every, missing = self.missing.all_outcomes(job.span, only), self.missing.outcomes(job.span, only)
        is_done = not missing if job.part else not self.plan.pending_cells
        phase: State = "done" if is_done else at.phase if at.is_active else "failed"  # type: ignore[assignment]
        if phase == "failed" and at.phase == "unknown":
            phase = "running" if state and state.state == "running" else "pending"
        reason = "" if is_done else at.reason
        if phase == "failed" and not reason:
            reason = self._why(submission, job, state)
        log = submission.log(job)
        return PartStatus(
            name=f"{job.part[0]}/{job.part[1]}" if job.part else job.name,
            span=job.span, state=phase, stored=every - missing, all=every,
            reason=reason,
            job=job.job, cluster=submission.content.cluster, tries=state.tries if state else 0,
            seconds_left=self._left(job, state, phase, only) if job.part else None,
            log=log if log.exists() else None,
        )  # fmt: skip

    def _why(self, submission: StoredSubmission, job: SentJob, state: TaskState | None) -> str:
        """Return why a job that is over did not do its work, if its cluster does not say it."""
        only = submission.content.only
        if state is None or state.state != "ended":
            said = last_words(submission, job)
            return said or ("it ended before it began" if state is None else "killed, perhaps for lack of memory")
        if state.code == 3:
            cells = [cell for cell in self.plan.cells if only is None or matches(cell, only)]
            for cell in cells:
                for failure in self.store.failures(cell.key):
                    if failure.start < job.span[1] and job.span[0] < failure.stop:
                        return f"{cell.model.label}, {cell.short_name}: {failure}"
            failed = next((model.failure for model in self.plan.untrained if model.failure), "")
            return failed or state.reason
        return state.reason or "the suite has other cells than when it was sent"

    def _left(self, job: SentJob, state: TaskState | None, phase: State, only: str | None) -> float | None:
        """Return the seconds that an active shard needs, by its progress, or else at the speeds of earlier runs."""
        if phase not in ("running", "pending"):
            return None
        left = self.missing.work(job.span, only)
        done, seconds = job.work - left, 0.0
        if state is not None:
            seconds = state.elapsed if phase == "running" else state.seconds
        if done > 0 and seconds > 0:
            return seconds * left / done
        return seconds_of(self.missing.by_model(job.span, only), self.speeds)
