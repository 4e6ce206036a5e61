"""One call of a model's trainer, and the records of its result."""

from __future__ import annotations

import copy
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from robharness.engine.listeners import TrainingListener
from robharness.errors import ContractViolation, UserError, describe
from robharness.planning.artefacts import Artefact, damage, sha256_of
from robharness.planning.files import content_digest
from robharness.planning.identity import canonical
from robharness.planning.models import encoder_weights
from robharness.planning.planned import PlannedFeatures, PlannedModel, Product
from robharness.plugins.calls import plugin_code
from robharness.plugins.provenance import (
    code_digest,
    code_of_options,
    dependency_versions,
    foreign_components,
)
from robharness.specs.sources import TrainingJob
from robharness.store.files import FileSystem
from robharness.suite import identity_fields


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of training one model of a suite, or of computing features.

    sha256: of the weights; empty if the training failed.
    seconds: the duration of the training; None if the model was trained before.
    error: why the training failed, and the distribution at fault; empty if it did not fail.
    """

    label: str
    artefact: Artefact
    sha256: str = ""
    seconds: float | None = None
    error: str = ""


def cause(product: Product, error: Exception) -> dict[str, str]:
    """Return the record of a failure: the distribution at fault, and a sentence.

    Sentences for the user are recorded without the type of the error. Components of other plugins are named, since
    their code may be at fault.
    """
    by = error.by if isinstance(error, ContractViolation) else "model"
    entry = product.at_fault("data") if by == "data" and isinstance(product, PlannedFeatures) else product.entry
    text = str(error) if isinstance(error, UserError | ContractViolation) else describe(error)
    if isinstance(product, PlannedModel) and by == "model":
        sentence, separator, command = text.partition(". Try: ")
        used = foreign_components(product.entry, product.ref.params)
        text = f"{sentence}{f'; it was trained with {used}' if used else ''}{separator}{command}"
    return {"blame": str(product.at_fault(by).origin), "error": f"{entry.name}: {text}"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware of a training.

    device: as torch names devices.
    threads: of the CPU; chosen if None.
    """

    device: str = "cpu"
    threads: int | None = None


def run_trainer(model: PlannedModel, listener: TrainingListener, machine: Machine) -> dict[str, Any]:
    """Call the trainer of a model, which writes into the staging folder. Return the provenance of the weights.

    Raises what the trainer raises, see `plugin_code`. The trainer begins with torch's modes of a fresh process, and the
    caller's are restored.
    """
    from robharness.evaluation.building import with_loaders
    from robharness.evaluation.features import feature_bank
    from robharness.evaluation.modes import neutral_modes

    artefact = model.artefact
    assert artefact is not None
    _check_options(model)
    with neutral_modes(machine.threads) as used_threads:
        provenance = _provenance(model, machine, used_threads, model.encoders)
        with suppress(PackageNotFoundError):
            provenance["versions"]["safetensors"] = version("safetensors")
        banks = {role: feature_bank(features) for role, features in model.features.items()}
        with plugin_code():
            model.entry.spec.weights.train(
                TrainingJob(
                    params=copy.deepcopy(with_loaders(model.ref.params)),
                    seed=model.ref.seed,
                    datasets=dict(artefact.datasets),
                    folder=artefact.unfinished,
                    base=model.base.artefact.folder if model.base and model.base.artefact else None,
                    inputs=dict(artefact.inputs),
                    features=banks,
                    device=machine.device,
                    message=lambda message: listener.message(f"{model.label}: {message}"),
                    progress=lambda progress: listener.trained(model.label, progress),
                )
            )
    for role, path in artefact.inputs.items():
        if content_digest(path) != artefact.training_spec["inputs"][role]:
            raise UserError(f"its input '{role}', {path}, changed during the training. Try: the same command again")
    _check_options(model)
    return provenance


def run_features(
    features: PlannedFeatures, files: FileSystem, listener: TrainingListener, machine: Machine
) -> dict[str, Any]:
    """Compute features into their staging folder. Return their provenance. Raises as `compute_features` does."""
    from robharness.evaluation.features import compute_features
    from robharness.evaluation.modes import neutral_modes

    with neutral_modes(machine.threads) as used_threads:
        compute_features(
            features,
            files,
            device=machine.device,
            message=lambda message: listener.message(f"{features.label}: {message}"),
            progress=lambda progress: listener.trained(features.label, progress),
        )
        return _provenance(features, machine, used_threads, {"encoder": features.encoder})


def _provenance(
    product: Product, machine: Machine, threads: int, encoders: Mapping[str, PlannedModel]
) -> dict[str, Any]:
    from robharness.evaluation.devices import device_name, library_versions

    origin, weights = product.entry.origin, encoder_weights(encoders)
    components = code_of_options(product.entry, product.ref.params) if isinstance(product, PlannedModel) else {}
    return {
        "device": device_name(machine.device),
        "machine": socket.gethostname(),
        "threads": threads,
        "versions": library_versions(),
        "plugin": str(origin),
        "source": code_digest(origin),
        "stands_on": dependency_versions(origin),
        **({"components": components} if components else {}),
        **({"encoders": weights} if weights else {}),
    }


def _check_options(model: PlannedModel) -> None:
    """Raise UserError if a file that the model's options or its encoders name changed since the plan."""
    from robharness.evaluation.unchanged import check_model

    assert model.artefact is not None
    found, planned = canonical(identity_fields(model.ref.params)), model.artefact.training_spec.get("params", {})
    if changed := [name for name in planned if found.get(name) != planned[name]]:
        raise UserError(
            f"the file or folder of its option '{changed[0]}' changed since the training was planned. "
            f"Try: the same command again"
        )
    for encoder in model.encoders.values():
        try:
            check_model(encoder)
        except ContractViolation as error:
            raise UserError(f"its encoder {encoder.entry.name}: {error}") from error


def stored_result(model: Product, artefact: Artefact) -> TrainingResult:
    """Return the result of a model that was trained before, with an error if its artefact is damaged."""
    if found := damage(artefact.folder):
        return TrainingResult(label=model.label, artefact=artefact, error=f"{artefact.folder} is damaged: {found}")
    return TrainingResult(label=model.label, artefact=artefact, sha256=sha256_of(artefact.folder))
