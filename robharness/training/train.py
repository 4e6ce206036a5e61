"""Train the models of a suite that are not there yet: one artefact after the other, each of them whole or not at all.

A trainer works in `<hash>.training`, which is renamed when all is in it; what is left there by a process that was
killed is what the next one goes on from. Two processes never train one artefact: a lock on a file, which the system
takes back from a dead process by itself, and not a note that somebody would have to tell is stale. Trade-off: file
systems without such locks (some of clusters) are noted, and there it is up to whoever starts two.

Under torchrun every process calls the trainer, rank 0 alone holds the lock, writes what the core writes and renames.
"""

from __future__ import annotations

import json
import socket
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robharness.engine.environment import Job
from robharness.engine.listeners import TrainingListener
from robharness.errors import Interrupted, UserError
from robharness.planning.artefacts import PROVENANCE, RECIPE, WEIGHTS, Artefact, damage, read, sha256_of
from robharness.planning.cells import Plan, PlannedModel
from robharness.planning.weights import file_digest
from robharness.plugins.provenance import code_digest, dependency_versions
from robharness.specs.sources import Progress, TrainingJob
from robharness.store.store import Store
from robharness.training.lock import POLL_SECONDS, held


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came of a model that the suite trains.

    sha256: of its weights, empty where it failed. seconds: of this training, None where the artefact was there. error:
    why it failed, and the distribution at fault.
    """

    label: str
    artefact: Artefact
    sha256: str = ""
    seconds: float | None = None
    error: str = ""


def train_models(
    plan: Plan,
    store: Store,
    listener: TrainingListener,
    *,
    device: str = "cpu",
    threads: int | None = None,
    stop_at_failure: bool = False,
) -> list[TrainingResult]:
    """Make the artefacts that cells of the plan wait for. A failure is recorded, and the other models go on.

    Gives a record per model that is trained, those that were before as well. Raises Interrupted after Ctrl-C, and
    StoreError where nothing can be written.
    """
    job = Job.here()
    found: list[TrainingResult] = []
    for model in plan.trained_models:
        assert model.artefact is not None
        if model.weights is not None:
            found.append(TrainingResult(label=model.label, artefact=model.artefact, sha256=str(model.weights.sha256)))
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


def untrained(plan: Plan) -> UserError:
    """What to say where a model ought to be trained by now."""
    labels = [model.label for model in plan.untrained]
    return UserError(f"{_all_of(labels)} not trained yet. Type first: robharness train {plan.suite.path_for_shell}")


def _all_of(labels: list[str]) -> str:
    return f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'}"


def _trained(
    model: PlannedModel, store: Store, listener: TrainingListener, device: str, threads: int | None, job: Job
) -> TrainingResult:
    artefact = model.artefact
    assert artefact is not None
    if model.base is not None and model.base.is_untrained and not artefact.folder.exists():
        based = _trained(model.base, store, listener, device, threads, job)
        if based.error:
            return TrainingResult(label=model.label, artefact=artefact, error=based.error)
    if not job.is_first:
        return _followed(model, artefact, listener, device, threads, job)
    store.make_folder(artefact.folder.parent)
    with held(artefact.lock, store, listener, model.label) as holder:
        if artefact.folder.exists():  # another process was faster
            return _found(model, artefact)
        if not damage(artefact.unfinished):  # whoever made it died just before the last step
            store.put_in_place(artefact.unfinished, artefact.folder)
            return _found(model, artefact)
        resumed = artefact.unfinished.exists()
        store.make_folder(artefact.unfinished)
        store.write_json(artefact.unfinished / RECIPE, artefact.recipe)
        holder(job)
        listener.message(f"{model.label}: its training {'goes on' if resumed else 'begins'} in {artefact.unfinished}")
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
    return TrainingResult(label=model.label, artefact=artefact, sha256=sha256, seconds=seconds)


def _taught(
    model: PlannedModel, artefact: Artefact, listener: TrainingListener, device: str, threads: int | None
) -> dict[str, Any]:
    """Let the trainer work, and give how it was done. What it raises is passed on, what it leaves changed put back."""
    from robharness.evaluation.devices import device_name, library_versions, torch_state_kept

    source = model.entry.origin
    with torch_state_kept(threads) as used_threads:
        how: dict[str, Any] = {
            "device": device_name(device),
            "machine": socket.gethostname(),
            "threads": used_threads,
            "versions": library_versions(),
            "plugin": str(source),
            "source": code_digest(source),
            "stands_on": dependency_versions(source),
        }
        with suppress(PackageNotFoundError):
            how["versions"]["safetensors"] = version("safetensors")
        model.entry.spec.weights.train(
            TrainingJob(
                params=model.ref.params,
                seed=model.ref.seed,
                datasets=artefact.datasets,
                folder=artefact.unfinished,
                base=model.base.artefact.folder if model.base is not None and model.base.artefact is not None else None,
                device=device,
                message=lambda message: listener.message(f"{model.label}: {message}"),
                progress=lambda progress: listener.trained(model.label, progress),
            )
        )
    return how


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


def _failed(
    model: PlannedModel, artefact: Artefact, store: Store, listener: TrainingListener, error: BaseException
) -> TrainingResult:
    """Record why there is no artefact; a sentence of the trainer's is taken as it is."""
    text = str(error) if isinstance(error, _Unwritten | UserError) else f"{type(error).__name__}: {error}"
    facts = {"label": model.label, "blame": str(model.entry.origin), "error": f"{model.entry.name}: {text}",
             "time": datetime.now(UTC).isoformat(timespec="seconds"),
             "traceback": "".join(traceback.format_exception(error))}  # fmt: skip
    store.write_json(artefact.failed, facts)
    listener.message(f"failed: the training of {model.label}: {artefact.failure}")
    return TrainingResult(label=model.label, artefact=artefact, error=artefact.failure)


def _found(model: PlannedModel, artefact: Artefact) -> TrainingResult:
    if trouble := damage(artefact.folder):
        return TrainingResult(label=model.label, artefact=artefact, error=f"{artefact.folder} is damaged: {trouble}")
    return TrainingResult(label=model.label, artefact=artefact, sha256=sha256_of(artefact.folder))


# --- several processes ----------------------------------------------------------------------------------------


def _followed(
    model: PlannedModel, artefact: Artefact, listener: TrainingListener, device: str, threads: int | None, job: Job
) -> TrainingResult:
    """What every process but the first does: it waits until that one begins, trains with it, and waits for its end."""
    while (holder := read(artefact.lock)).get("job") != job.name:
        if artefact.folder.exists():
            return _found(model, artefact)
        time.sleep(POLL_SECONDS)
    begun = time.perf_counter()
    try:
        _taught(model, artefact, listener, device, threads)
    except (Exception, SystemExit) as error:
        text = f"{model.entry.name}: {type(error).__name__}: {error} ({model.entry.origin}), in process {job.rank}"
        return TrainingResult(label=model.label, artefact=artefact, error=text)
    while read(artefact.lock) == holder:
        time.sleep(POLL_SECONDS)
    if not artefact.folder.exists():
        return TrainingResult(
            label=model.label, artefact=artefact, error=artefact.failure or "the first process gave it up"
        )
    return TrainingResult(
        label=model.label,
        artefact=artefact,
        sha256=sha256_of(artefact.folder),
        seconds=time.perf_counter() - begun,
    )


class _Silent:
    """What the other processes say."""

    def trained(self, label: str, progress: Progress) -> None: ...

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...
