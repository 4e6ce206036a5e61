"""Train the models of a suite that are not trained yet, one after the other, each completely or not at all.

What a training needs is made before it in the same way: the model that it starts from, encoders, and features.
"""

from __future__ import annotations

import json
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from robharness.engine.environment import Job
from robharness.engine.listeners import TrainingListener
from robharness.errors import Interrupted, UserError
from robharness.planning.artefacts import WEIGHTS
from robharness.planning.cells import Plan
from robharness.planning.planned import PlannedFeatures, PlannedModel, Product
from robharness.store.artefacts import ArtefactStore
from robharness.store.store import Store
from robharness.training.distributed import SilentListener, follow
from robharness.training.trainer import Machine, TrainingResult, cause, run_features, run_trainer, stored_result

__all__ = ["TrainingResult", "train_models", "untrained"]


def train_models(
    plan: Plan,
    store: Store,
    listener: TrainingListener,
    *,
    device: str = "cpu",
    threads: int | None = None,
    stop_at_failure: bool = False,
) -> list[TrainingResult]:
    """Train the models that cells of the plan wait for. A failure is recorded, and the other models are trained.

    device: as torch names devices.
    threads: of the CPU; chosen if None.
    stop_at_failure: whether the first failure ends the training of the other models, too.
    Returns one record per model that the suite trains, including those that were trained before.
    Raises Interrupted after Ctrl-C, and StoreError if the store cannot be written.
    """
    job = Job.here()
    machine = Machine(device=device, threads=threads)
    listener = listener if job.is_first else SilentListener()
    results: list[TrainingResult] = []
    failures: dict[Path, str] = {}
    for model in plan.trained_models:
        assert model.artefact is not None
        if model.weights is not None and not model.is_untrained:
            sha256 = str(model.weights.sha256)
            results.append(TrainingResult(label=model.label, artefact=model.artefact, sha256=sha256))
            continue
        try:
            results.append(_train(model, store, listener, machine, job, failures))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted while {model.label} was trained; its unfinished files are kept") from None
        finally:
            listener.finished()
        if results[-1].error and (stop_at_failure or job.size > 1):  # the other processes would wait for this one
            break
    return results


def untrained(plan: Plan) -> UserError:
    """Return the error for cells that wait for a training, to be raised where nothing is trained."""
    labels = [model.label for model in plan.untrained]
    be = "is" if len(labels) == 1 else "are"
    failures = [f"the training of {m.label} failed: {found}" for m in plan.untrained if (found := m.failure)]
    if failures:
        return UserError(f"{'; '.join(failures)}. Correct the cause. Try: {plan.command('train')}")
    return UserError(f"{', '.join(labels)} {be} not trained yet. Try: {plan.command('train')}")


def _train(
    product: Product,
    store: Store,
    listener: TrainingListener,
    machine: Machine,
    job: Job,
    failures: dict[Path, str],
) -> TrainingResult:
    """Train a model or compute features, after all that this needs. An artefact that is there already is not remade.

    failures: by the folder of an artefact, why it could not be made, so that it is tried once.
    """
    artefact = product.artefact
    assert artefact is not None
    if error := failures.get(artefact.folder):
        return TrainingResult(label=product.label, artefact=artefact, error=error)
    for each in product.prerequisites:
        is_for_training = isinstance(each, PlannedFeatures) or (
            isinstance(product, PlannedModel) and each is product.base
        )
        if each.is_untrained and not (artefact.folder.exists() and is_for_training):
            result = _train(each, store, listener, machine, job, failures)
            if result.error:
                return TrainingResult(label=product.label, artefact=artefact, error=result.error)
    result = _made(product, store, listener, machine, job)
    if result.error:
        failures[artefact.folder] = result.error
    return result


def _made(product: Product, store: Store, listener: TrainingListener, machine: Machine, job: Job) -> TrainingResult:
    """Train a model or compute features whose prerequisites are made."""
    artefact, artefacts = product.artefact, ArtefactStore(store)
    assert artefact is not None
    if not job.is_first:
        return follow(product, artefact, artefacts, listener, machine, job)

    def on_wait(holder: str) -> None:
        verb = "trains it" if isinstance(product, PlannedModel) else "computes them"
        listener.message(f"{product.label}: {holder} {verb}; this process waits")

    with artefacts.lock(artefact, on_wait) as lock:
        if artefacts.is_complete(artefact):  # another process was faster, or died just before the last step
            return stored_result(product, artefact)
        is_resumed = artefacts.stage(artefact)
        lock.record(job.name)
        verb = "goes on" if is_resumed else "begins"
        what = "its training" if isinstance(product, PlannedModel) else "their computation"
        listener.message(f"{product.label}: {what} {verb} in {store.shown(artefact.unfinished)}")
        begun = time.perf_counter()
        try:
            if isinstance(product, PlannedFeatures):
                provenance = run_features(product, artefacts.local_files, listener, machine)
            else:
                provenance = run_trainer(product, listener, machine)
                _check_weights(artefact.unfinished / WEIGHTS)
        except Exception as error:  # a trainer may raise anything
            return _record_failure(product, artefacts, listener, job, error)
        seconds = time.perf_counter() - begun
        facts = {
            "label": product.label,
            "time": _now(),
            "seconds": seconds,
            "resumed": is_resumed,
            "processes": job.size,
        }
        sha256 = artefacts.commit(artefact, facts | provenance)
    return TrainingResult(label=product.label, artefact=artefact, sha256=sha256, seconds=seconds)


def _check_weights(path: Path) -> None:
    """Raise UserError unless the file begins as safetensors do: with a length, and JSON of that length."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not isinstance(json.loads(file.read(min(length, 10**8))), dict):
                raise ValueError
    except FileNotFoundError:
        raise UserError(f"its trainer came to an end and wrote no {WEIGHTS}") from None
    except ValueError:
        raise UserError(f"the {WEIGHTS} that its trainer wrote is no safetensors file") from None


def _record_failure(
    product: Product, artefacts: ArtefactStore, listener: TrainingListener, job: Job, error: Exception
) -> TrainingResult:
    """Record why a training failed."""
    artefact = product.artefact
    assert artefact is not None
    artefacts.fail(
        artefact,
        {
            "label": product.label,
            **cause(product, error),
            "time": _now(),
            "job": job.name,
            "traceback": "".join(traceback.format_exception(error)),
        },
    )
    what = "the training of" if isinstance(product, PlannedModel) else "the computation of the"
    listener.message(f"failed: {what} {product.label}: {artefact.failure}")
    return TrainingResult(label=product.label, artefact=artefact, error=artefact.failure)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
