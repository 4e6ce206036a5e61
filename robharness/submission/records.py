"""Records of submissions: which parts of a suite were sent to which jobs of a cluster.

    submissions/<time>-<random>/submission.json    the record
    submissions/<time>-<random>/shard-3-of-8.log   what the job of a shard printed, see `robharness.submission.task`
    submissions/<time>-<random>/jobs/              files of the library that sends the jobs
    submissions.lock                               the process that sends jobs now

A record names jobs; what is done follows from the store alone. Records are checked when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field, TypeAdapter, ValidationError

from robharness.findings import finding
from robharness.locations import local_folder
from robharness.planning.cells import Plan
from robharness.planning.commands import DEFAULT_STORE
from robharness.planning.files import LARGEST_RECORD, json_object
from robharness.reading import read_regular
from robharness.store.files import FileSystem
from robharness.store.folder import StoreFolder
from robharness.store.lock import LockFile, describe_holder
from robharness.text import printable

FOLDER, FILE = "submissions", "submission.json"
SCHEMA: Literal[1] = 1
Position = Annotated[int, Field(ge=0, le=2**40)]
JobId = Annotated[str, Field(pattern=r"^[0-9]{1,18}(_[0-9]{1,9})?$")]
ClusterName = Literal["slurm", "local"]
TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class SentJob:
    """A job of a submission.

    name: of its files, such as "shard-3-of-8".
    job: its id at the cluster; for a local one, that of the process that watches it.
    part: (i, k), the i-th of k parts of the examples, from 1; None for a training.
    span: the positions of these examples.
    work: passes of one example that were missing when it was sent.
    """

    name: Annotated[str, Field(pattern=r"^(training|shard-[0-9]+-of-[0-9]+)$")]
    job: JobId
    part: tuple[Position, Position] | None = None
    span: tuple[Position, Position] = (0, 0)
    work: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The record of what one command has sent.

    time: in ISO format with its time zone.
    machine: that sent it, which alone knows its local jobs.
    suite: the absolute path of the suite's file; `settings` are the values that were set in it.
    store: the URL of a store that is no folder; None for the folder that has the record.
    words: the command as it was typed, without `robharness`, in `working_directory`.
    only: the glob of its cells; None for all.
    examples: their number; `shards` is the number of parts of them.
    throttle: the largest number of jobs that run at once; None for no limit.
    jobs: those that were sent, a training first.
    """

    schema: Literal[1] = SCHEMA
    time: str
    cluster: ClusterName
    machine: str
    suite: str
    settings: tuple[str, ...]
    words: tuple[str, ...]
    working_directory: str
    only: str | None
    examples: Position
    shards: Annotated[int, Field(ge=1, le=2**20)]
    throttle: Annotated[int, Field(ge=1)] | None = None
    store: str | None = None
    jobs: tuple[SentJob, ...] = ()

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.time)

    @property
    def partition(self) -> tuple[int, int, str | None]:
        """Examples, shards and cells; the shards of two submissions with the same partition are the same work."""
        return self.examples, self.shards, self.only


@dataclass(frozen=True, kw_only=True)
class StoredSubmission:
    """A submission in the folder of a store.

    folder: its absolute path.
    """

    folder: Path
    content: Submission

    def with_jobs(self, store: StoreFolder, *jobs: SentJob) -> StoredSubmission:
        """Add jobs that were sent, and write the record. Raises StoreError."""
        content = replace(self.content, jobs=(*self.content.jobs, *jobs))
        store.write_json(self.folder / FILE, asdict(content))
        return replace(self, content=content)

    def log(self, job: SentJob) -> Path:
        return self.folder / f"{job.name}.log"

    def state_file(self, job: SentJob) -> Path:
        return self.folder / f"{job.name}.json"


@contextmanager
def sending(store: StoreFolder, on_wait: Callable[[str], None]) -> Iterator[bool]:
    """Let one process at a time send jobs, since what is missing depends on the jobs that the others have sent.

    Yields whether this process had to wait, so that models may have been trained since it made its plan.
    on_wait: called once with a description of the other process, if this one has to wait.
    Raises StoreError if nothing can be written.
    """
    folder, holders = home(store), list[str]()

    def wait_for(holder: Mapping[str, Any]) -> None:
        holders.append(describe_holder(holder))
        on_wait(holders[0])

    with folder.translate_os_errors():
        _root(folder).mkdir(parents=True, exist_ok=True)
        lock = LockFile.acquire(_root(folder).with_suffix(".lock"), FileSystem(), wait_for)
    if not lock.is_supported:
        message = f"the file system of {folder} has no locks: submit from one process at a time"
        folder.add_finding(finding("no-locks", message))
    try:
        yield bool(holders)
    finally:
        lock.release()


def new_submission(store: StoreFolder, content: Submission) -> StoredSubmission:
    """Write the record of a submission that has no jobs yet, into a folder of its own. Raises StoreError.

    The names of the folders are in the order of sending, even of two submissions within a second.
    """
    stamp = content.moment.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = _root(store) / f"{stamp}-{uuid4().hex[:6]}"
    store.write_json(folder / FILE, asdict(content))
    return StoredSubmission(folder=folder, content=content)


def home(store: StoreFolder) -> StoreFolder:
    """Return the folder that holds the submissions of a store: of one that is no folder, the default one here.

    Logs and the files of jobs need a file system that all machines see. Its findings are those of the store.
    """
    found = StoreFolder(str(store) if isinstance(store.root, Path) else DEFAULT_STORE)
    found.findings = store.findings
    return found


def url_of(store: StoreFolder) -> str | None:
    """Return the URL of a store that is no folder; None for a folder."""
    return None if isinstance(store.root, Path) else str(store.root)


def _root(store: StoreFolder) -> Path:
    return local_folder(store.root) / FOLDER


def parse(content: bytes) -> Submission:
    """Return the submission that a file records. Raises ValueError, with the reason, for anything else."""
    record = json_object(content)
    if type(record.get("schema")) is int and record["schema"] > SCHEMA:
        raise ValueError(f"it has schema {record['schema']}, and this version of robharness reads schema {SCHEMA}")
    try:
        found = _adapter().validate_json(json.dumps(record))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {printable(first['msg'])}") from None
    try:
        has_zone = found.moment.tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise ValueError("time: it is no time with a time zone")
    for job in found.jobs:
        if (job.part is None) != (job.name == TRAINING) or job.span[0] > job.span[1]:
            raise ValueError(f"jobs: {job.name} has a part or positions that are none")
        if job.part is not None and not 1 <= job.part[0] <= job.part[1]:
            raise ValueError(f"jobs: there is no part {job.part[0]}/{job.part[1]}")
    return found


@cache
def _adapter() -> TypeAdapter[Submission]:
    return TypeAdapter(Submission)


def submissions(store: StoreFolder) -> list[StoredSubmission]:
    """List the submissions of a store, the latest first. Those that cannot be read are left out, with a finding."""
    found, folder = [], home(store)
    for name in folder.names(_root(folder)):
        path = _root(folder) / name / FILE
        try:
            found.append(StoredSubmission(folder=path.parent, content=parse(read_regular(path, LARGEST_RECORD))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            folder.add_damage(path, reason, "its jobs are not known, so that its work may be done twice")
    found = [each for each in found if each.content.store == url_of(store)]
    return sorted(found, key=lambda each: (each.content.moment, each.folder.name), reverse=True)


def of_plan(plan: Plan, store: StoreFolder) -> list[StoredSubmission]:
    """List the submissions of a plan's suite with the same values set in it, the latest first."""
    return [
        each
        for each in submissions(store)
        if each.content.suite == str(plan.suite.path) and each.content.settings == plan.suite.settings
    ]
