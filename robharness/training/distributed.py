"""Training in several processes, as torchrun starts them.

Each process calls the trainer; the first process alone computes features. The first one, of rank 0, holds the lock,
stages and commits the artefact, and reports; the others follow the first one.
"""

from __future__ import annotations

import time

from robharness.engine.environment import Job
from robharness.engine.listeners import TrainingListener
from robharness.planning.artefacts import Artefact, read, sha256_of
from robharness.planning.planned import PlannedFeatures, Product
from robharness.specs.sources import Progress
from robharness.store.artefacts import ArtefactStore
from robharness.store.lock import POLL_SECONDS
from robharness.text import attributed
from robharness.training.trainer import Machine, TrainingResult, cause, run_trainer, stored_result


def follow(
    model: Product,
    artefact: Artefact,
    artefacts: ArtefactStore,
    listener: TrainingListener,
    machine: Machine,
    job: Job,
) -> TrainingResult:
    """Train a model in a process that is not the first one of its job, or wait for features.

    Waits until the first process holds the lock for this job, trains with it, and waits until it releases the lock.
    """
    if isinstance(model, PlannedFeatures):
        return _await_features(model, artefacts, job)
    while (holder := artefacts.holder(artefact)).get("job") != job.name:
        if artefact.folder.exists():
            return stored_result(model, artefact)
        time.sleep(POLL_SECONDS)
    begun = time.perf_counter()
    try:
        run_trainer(model, listener, machine)
    except Exception as error:  # a trainer may raise anything
        found = cause(model, error)
        text = attributed(found["error"], f"{found['blame']}, in process {job.rank}")
        return TrainingResult(label=model.label, artefact=artefact, error=text)
    seconds = time.perf_counter() - begun
    while artefacts.holder(artefact) == holder:
        time.sleep(POLL_SECONDS)
    if not artefact.folder.exists():
        error_text = artefact.failure or "the first process ended without weights"
        return TrainingResult(label=model.label, artefact=artefact, error=error_text)
    return TrainingResult(label=model.label, artefact=artefact, sha256=sha256_of(artefact.folder), seconds=seconds)


def _await_features(features: PlannedFeatures, artefacts: ArtefactStore, job: Job) -> TrainingResult:
    """Wait until the first process has computed features, or has recorded why it cannot."""
    artefact = features.artefact
    while not artefact.folder.exists():
        if read(artefact.failed).get("job") == job.name and artefacts.holder(artefact).get("job") != job.name:
            return TrainingResult(label=features.label, artefact=artefact, error=artefact.failure)
        time.sleep(POLL_SECONDS)
    return stored_result(features, artefact)


class SilentListener:
    """The listener of the processes that follow: the first one reports."""

    def trained(self, label: str, progress: Progress) -> None: ...

    def message(self, message: str) -> None: ...

    def finished(self) -> None: ...
