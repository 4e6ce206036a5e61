"""Train the models of a suite that are not there yet: one artefact after the other, each of them whole or not at all.

A trainer works in `<hash>.training`, which is renamed when all is in it; what is left there by a process that was
killed is what the next one goes on from. Two processes never train one artefact: a lock on a file, which the system
takes back from a dead process by itself, and not a note that somebody would have to tell is stale. Trade-off: file
systems without such locks (some of clusters) are noted, and there it is up to whoever starts two.

Under torchrun every process calls the trainer, rank 0 alone holds the lock, writes what the core writes and renames.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from robharness.artefacts import PROVENANCE, RECIPE, WEIGHTS, Artefact, damage, read, sha256_of
from robharness.cells import Plan, PlannedModel
from robharness.errors import Interrupted, UserError
from robharness.plugins import source_digest, stands_on
from robharness.rng import global_kept
from robharness.specs import Progress, Training
from robharness.store import Store
from robharness.weights import file_digest

POLL_SECONDS = 0.5
"""How often a process that waits for another one looks up."""
_TAKEN = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class Listener(Protocol):
    """What is told of a training's progress."""

    def trained(self, label: str, progress: Progress) -> None:
        """How far the training of the model with this label is."""

    def say(self, message: str) -> None: ...

    def finished(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a model that the suite trains.

    sha256: of its weights, empty where it failed. seconds: of this training, None where the artefact was there. error:
    why it failed, and the distribution at fault.
    """

    label: str
    artefact: Artefact
    sha256: str = ""
    seconds: float | None = None
    error: str = ""


def train(
    plan: Plan,
    store: Store,
    listener: Listener,
    *,
    device: str = "cpu",
    threads: int | None = None,
    stop_at_failure: bool = False,
) -> list[Trained]:
    """Make the artefacts that cells of the plan wait for. A failure is recorded, and the other models go on.

    Gives a record per model that is trained, those that were before as well. Raises Interrupted after Ctrl-C, and
    StoreError where nothing can be written.
    """
    job = Job.here()
    found: list[Trained] = []
    for model in plan.taught:
        assert model.artefact is not None
        if model.weights is not None:
            found.append(Trained(label=model.label, artefact=model.artefact, sha256=str(model.weights.sha256)))
            continue
        try:
            found.append(_trained(model, store, listener if job.is_first else _Silent(), device, threads, job))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted while {model.label} was trained; what its trainer left is kept") from None
        finally:
            listener.finished()
        if found[-1].error and (stop_at_failure or job.size > 1):  # the other processes would wait for this one
            break
    return found


def stale(plan: Plan) -> list[str]:
    """What was trained by other code than its plugin has now, a sentence per plugin."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for model in plan.taught:
        if model.artefact is not None and model.weights is not None:
            before, now = read(model.artefact.folder / PROVENANCE).get("source"), source_digest(model.entry.source)
            if before is not None and now is not None and before != now:
                labels.setdefault((str(model.entry.source), str(before), now), []).append(model.label)
    return [
        f"{plugin}: its source was {before} when {', '.join(some)} {'was' if len(some) == 1 else 'were'} trained, "
        f"now it is {now}; to train again, remove what this shows: robharness list artefacts"
        for (plugin, before, now), some in labels.items()
    ]


def untrained(plan: Plan) -> UserError:
    """What to say where a model ought to be trained by now."""
    labels = [model.label for model in plan.untrained]
    return UserError(f"{_all_of(labels)} not trained yet. Type first: robharness train {plan.suite.typed}")


def _all_of(labels: list[str]) -> str:
    return f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'}"


# --- one artefact ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """The processes that train together, as torchrun says it in the environment. name: the same in all of them."""

    rank: int = 0
    size: int = 1
    name: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @classmethod
    def here(cls) -> Job:
        """Raises UserError where RANK or WORLD_SIZE is no number."""
        try:
            rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError:
            raise UserError("$RANK and $WORLD_SIZE are numbers, as torchrun sets them. See: torchrun --help") from None
        words = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
        name = " ".join(os.environ.get(word, "") for word in words) if size > 1 else ""
        return cls(rank=rank, size=size, name=name)


def _trained(
    model: PlannedModel, store: Store, listener: Listener, device: str, threads: int | None, job: Job
) -> Trained:
    artefact = model.artefact
    assert artefact is not None
    if model.base is not None and model.base.is_untrained and not artefact.folder.exists():
        based = _trained(model.base, store, listener, device, threads, job)
        if based.error:
            return Trained(label=model.label, artefact=artefact, error=based.error)
    if not job.is_first:
        return _followed(model, artefact, listener, device, threads, job)
    store.make_folder(artefact.folder.parent)
    with _held(artefact.lock, store, listener, model.label) as holder:
        if artefact.folder.exists():  # another process was faster
            return _found(model, artefact)
        if not damage(artefact.unfinished):  # whoever made it died just before the last step
            store.put_in_place(artefact.unfinished, artefact.folder)
            return _found(model, artefact)
        resumed = artefact.unfinished.exists()
        store.make_folder(artefact.unfinished)
        store.write_json(artefact.unfinished / RECIPE, artefact.recipe)
        holder(job)
        listener.say(f"{model.label}: its training {'goes on' if resumed else 'begins'} in {artefact.unfinished}")
        begun = time.perf_counter()
        try:
            provenance = _taught(model, artefact, listener, device, threads)
            _check(artefact.unfinished)
        except (Exception, SystemExit) as error:  # a trainer may raise anything
            return _failed(model, artefact, store, listener, error)
        seconds = time.perf_counter() - begun
        sha256 = file_digest(artefact.unfinished / WEIGHTS)
        facts = {"sha256": sha256, "label": model.label, "time": datetime.now(UTC).isoformat(timespec="seconds"),
                 "seconds": seconds, "resumed": resumed, "processes": job.size}  # fmt: skip
        store.write_json(artefact.unfinished / PROVENANCE, facts | provenance)
        store.put_in_place(artefact.unfinished, artefact.folder)
        artefact.failed.unlink(missing_ok=True)
    return Trained(label=model.label, artefact=artefact, sha256=sha256, seconds=seconds)


def _taught(
    model: PlannedModel, artefact: Artefact, listener: Listener, device: str, threads: int | None
) -> dict[str, Any]:
    """Let the trainer work, and give how it was done. What it raises is passed on, what it leaves changed put back."""
    import torch

    source = model.entry.source
    with _as_it_was(threads):
        how: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine() or "cpu",
            "machine": socket.gethostname(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("robharness", "torch", "torchvision", "numpy")},
            "plugin": str(source),
            "source": source_digest(source),
            "stands_on": stands_on(source),
        }
        with suppress(PackageNotFoundError):
            how["versions"]["safetensors"] = version("safetensors")
        model.entry.spec.weights.train(
            Training(
                params=model.ref.params,
                seed=model.ref.seed,
                datasets=artefact.datasets,
                folder=artefact.unfinished,
                base=model.base.artefact.folder if model.base is not None and model.base.artefact is not None else None,
                device=device,
                say=lambda message: listener.say(f"{model.label}: {message}"),
                progress=lambda progress: listener.trained(model.label, progress),
            )
        )
    return how


@contextmanager
def _as_it_was(threads: int | None) -> Iterator[None]:
    """What is measured afterwards, in this process, must not depend on what was trained before it."""
    import torch

    count, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with global_kept():
            yield
    finally:
        torch.set_num_threads(count)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Unwritten(Exception):
    """The trainer came to its end and left no weights."""


def _check(folder: Path) -> None:
    """Raises _Unwritten where the weights are not there, or are no safetensors: a length, and JSON of that length."""
    try:
        with (folder / WEIGHTS).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not isinstance(json.loads(file.read(min(length, 10**8))), dict):
                raise ValueError
    except FileNotFoundError:
        raise _Unwritten(f"its trainer came to an end and wrote no {WEIGHTS}") from None
    except ValueError:
        raise _Unwritten(f"what its trainer wrote as {WEIGHTS} is no safetensors file") from None


def _failed(model: PlannedModel, artefact: Artefact, store: Store, listener: Listener, error: BaseException) -> Trained:
    """Record why there is no artefact; a sentence of the trainer's is taken as it is."""
    text = str(error) if isinstance(error, _Unwritten | UserError) else f"{type(error).__name__}: {error}"
    facts = {"label": model.label, "blame": str(model.entry.source), "error": f"{model.entry.name}: {text}",
             "time": datetime.now(UTC).isoformat(timespec="seconds"),
             "traceback": "".join(traceback.format_exception(error))}  # fmt: skip
    store.write_json(artefact.failed, facts)
    listener.say(f"failed: the training of {model.label}: {artefact.failure}")
    return Trained(label=model.label, artefact=artefact, error=artefact.failure)


def _found(model: PlannedModel, artefact: Artefact) -> Trained:
    if trouble := damage(artefact.folder):
        return Trained(label=model.label, artefact=artefact, error=f"{artefact.folder} is damaged: {trouble}")
    return Trained(label=model.label, artefact=artefact, sha256=sha256_of(artefact.folder))


# --- several processes ----------------------------------------------------------------------------------------


def _followed(
    model: PlannedModel, artefact: Artefact, listener: Listener, device: str, threads: int | None, job: Job
) -> Trained:
    """What every process but the first does: it waits until that one begins, trains with it, and waits for its end."""
    while (holder := read(artefact.lock)).get("job") != job.name:
        if artefact.folder.exists():
            return _found(model, artefact)
        time.sleep(POLL_SECONDS)
    begun = time.perf_counter()
    try:
        _taught(model, artefact, listener, device, threads)
    except (Exception, SystemExit) as error:
        text = f"{model.entry.name}: {type(error).__name__}: {error} ({model.entry.source}), in process {job.rank}"
        return Trained(label=model.label, artefact=artefact, error=text)
    while read(artefact.lock) == holder:
        time.sleep(POLL_SECONDS)
    if not artefact.folder.exists():
        return Trained(label=model.label, artefact=artefact, error=artefact.failure or "the first process gave it up")
    return Trained(
        label=model.label,
        artefact=artefact,
        sha256=sha256_of(artefact.folder),
        seconds=time.perf_counter() - begun,
    )


@contextmanager
def _held(lock: Path, store: Store, listener: Listener, label: str) -> Iterator[Callable[[Job], None]]:
    """Hold the lock, once whoever has it gives it back or dies. Gives a function that writes down who holds it."""
    import fcntl  # which is not everywhere, and nobody needs it to compute

    told = False
    while True:
        file = _open(lock, store)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in _TAKEN:
                if error.errno not in _NO_LOCKS:
                    raise
                store.notes.append(f"the file system of {store} has no locks: train with one process at a time")
                file = _open(lock, store)
                break
            if not told:
                who = read(lock)
                by = (
                    f"process {who['process']} on {who['machine']}"
                    if {"process", "machine"} <= who.keys()
                    else "another"
                )
                listener.say(f"{label}: {by} trains it; this one waits for that")
                told = True
            time.sleep(POLL_SECONDS)
            continue
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # it was given back, and taken away, between the two calls

    def holder(job: Job) -> None:
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname(), "job": job.name}))
        file.flush()

    try:
        holder(Job(name="not yet"))
        yield holder
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


def _open(lock: Path, store: Store) -> Any:
    with store.saying():
        return lock.open("a+")


class _Silent:
    """What the other processes say."""

    def trained(self, label: str, progress: Progress) -> None: ...

    def say(self, message: str) -> None: ...

    def finished(self) -> None: ...
