"""Planning of models: their weights, their encoders, their trainings, and the features that trainings need."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robharness.errors import MissingResource, MissingResources, UserError, describe, exists, for_shell
from robharness.planning import artefacts
from robharness.planning.artefacts import PROVENANCE, Artefact
from robharness.planning.datasets import FixedDataset
from robharness.planning.files import content_digest, require_files
from robharness.planning.identity import call_plugin, canonical, data_identity, key_of, spec_identity
from robharness.planning.pixels import misfit
from robharness.planning.planned import PlannedData, PlannedFeatures, PlannedModel
from robharness.planning.weights import locate, missing_file, resolve
from robharness.plugins.calls import call_spec, plugin_code, returned, shown
from robharness.specs.protocols import Dataset
from robharness.specs.references import Encoder, encoders_of
from robharness.specs.sources import File
from robharness.suite import Data, Model, identity_fields

OpenData = Callable[[Data], FixedDataset]
FEATURES_REVISION = 1
"""Raised when the core computes other features than before."""


class ModelPlanner:
    """Plans the models of one suite; an encoder that several models share is planned once.

    data_root: the folder of data and weights.
    store: the folder of artefacts.
    open_data: opens a split of a data set.
    """

    def __init__(self, data_root: Path, store: Path, open_data: OpenData) -> None:
        self._data_root, self._store, self._open_data = data_root, store, open_data
        self._encoders: dict[str, PlannedModel | UserError] = {}

    def plan(self, ref: Model) -> PlannedModel:
        """Plan a model with its encoders. Raises UserError, e.g. if weights, files or training data are missing."""
        require_files(ref.entry, ref.params)
        ref, encoders = self._with_encoders(ref)
        common: dict[str, Any] = {"ref": ref, "encoders": encoders}
        base = self._base(ref) if ref.is_trained else None
        artefact = self._artefact(ref, base) if ref.is_trained else None
        weights = artefact.weights() if artefact else resolve(ref.entry, ref.weights, self._data_root)
        if artefact is not None and weights is None:
            features = self._features(ref, encoders, artefact)
            return PlannedModel(weights=None, identity={}, artefact=artefact, base=base, features=features, **common)
        if artefact is not None:
            require_same_encoders(artefact, encoders)
        artefact = artefact and dataclasses.replace(artefact, datasets={})  # trained already; the data may be large
        if any(encoder.is_untrained for encoder in encoders.values()):
            return PlannedModel(weights=weights, identity={}, artefact=artefact, **common)
        trained = {name: found for name, encoder in encoders.items() if (found := _trained_weights(encoder))}
        identity = {**_identity(ref), **({"weights": weights.sha256} if weights else {})}
        identity = canonical(identity | ({"encoders": trained} if trained else {}))
        return PlannedModel(weights=weights, identity=identity, artefact=artefact, **common)

    def _with_encoders(self, ref: Model) -> tuple[Model, dict[str, PlannedModel]]:
        """Return a model whose options have planned encoders, and these by option. Raises UserError."""
        encoders = {name: self._encoder(ref, encoder) for name, encoder in encoders_of(ref.params).items()}
        changes = {
            name: Encoder(getattr(ref.params, name).written, model=planned, identity=_encoder_identity(planned))
            for name, planned in encoders.items()
        }
        return (dataclasses.replace(ref, params=_replaced(ref, changes)) if changes else ref), encoders

    def _encoder(self, ref: Model, encoder: Encoder) -> PlannedModel:
        """Plan the encoder of a model, which is trained with the model's seed. Raises UserError."""
        if isinstance(encoder.model, PlannedModel):  # of the options from which the options of a base were made
            return encoder.model
        if encoder.model is None:
            raise UserError(f"the encoder {encoder.name} of {ref.label} is not resolved. Try: a suite with it")
        key = json.dumps([encoder.written, ref.seed], default=str, sort_keys=True)
        if key not in self._encoders:
            inner = dataclasses.replace(encoder.model, seed=ref.seed, label=f"{encoder.name} (encoder of {ref.label})")
            try:
                self._encoders[key] = call_plugin(inner.entry, self.plan, inner)
            except UserError as error:
                self._encoders[key] = _of_encoder(error, ref.label)
        planned = self._encoders[key]
        if isinstance(planned, UserError):
            raise planned
        return planned

    def _base(self, ref: Model) -> PlannedModel | None:
        """Plan the model whose weights a training starts from. Returns None if there is none. Raises UserError."""
        choose = ref.entry.spec.weights.base
        try:
            params = call_spec(choose, ref.params) if choose else None
            if params is not None and type(params) is not ref.entry.spec.params:
                raise TypeError(
                    f"its function `base` returned {shown(params)}, not {ref.entry.spec.params.__name__} or None"
                )
            params = copy.deepcopy(params)
        except Exception as error:  # a plugin's function may raise anything
            raise UserError(f"{ref.entry.name} ({ref.entry.origin}): {describe(error)}") from error
        if params is None:
            return None
        return self.plan(dataclasses.replace(ref, params=params))

    def _artefact(self, ref: Model, base: PlannedModel | None) -> Artefact:
        """Plan the artefact of a model that the suite trains. Raises UserError if its training data are missing."""
        datasets, data = dict[str, Dataset](), {}
        for role, split in ref.data.items():
            datasets[role] = dataset = self._open_data(split)
            data[role] = _data_identity(split, dataset)
        digest = ref.entry.origin.digest
        inputs = _training_inputs(ref, self._data_root)
        training_spec = {
            "model": ref.entry.name,
            **({"params": params} if (params := identity_fields(ref.params)) else {}),
            "seed": ref.seed,
            "revision": call_plugin(ref.entry, _revision, ref.entry.spec.weights.revision, ref.params),
            **({"source": digest} if digest else {}),
            "data": data,
            **({"inputs": {role: content_digest(path) for role, path in inputs.items()}} if inputs else {}),
            **({"base": base.artefact.hash} if base is not None and base.artefact is not None else {}),
        }
        training_spec = call_plugin(ref.entry, canonical, training_spec)
        return self._artefact_of(training_spec, datasets, inputs)

    def _artefact_of(
        self, spec: Mapping[str, Any], datasets: Mapping[str, Dataset], inputs: Mapping[str, Path] | None = None
    ) -> Artefact:
        folder = self._store / artefacts.FOLDER / key_of(dict(spec))
        return Artefact(folder=folder, training_spec=spec, datasets=datasets, inputs=inputs or {})

    def _features(
        self, ref: Model, encoders: Mapping[str, PlannedModel], artefact: Artefact
    ) -> dict[str, PlannedFeatures]:
        """Plan the features that the training of a model needs, by role of its data. Raises UserError."""
        declare = ref.entry.spec.weights.features
        wanted = call_plugin(ref.entry, call_spec, declare, ref.params) if declare else None
        if wanted is None:
            return {}
        encoder = next(
            (each for each in encoders.values() if isinstance(wanted, Encoder) and each is wanted.model), None
        )
        if encoder is None:
            raise UserError(
                f"{ref.entry.name} ({ref.entry.origin}): its function `features` returned {shown(wanted)}, which is "
                f"no encoder of its options. Try: robharness list models"
            )
        found = {}
        for role, split in ref.data.items():
            dataset = artefact.datasets[role]
            assert isinstance(dataset, FixedDataset)
            identity = _data_identity(split, dataset)
            spec = {"features": _encoder_identity(encoder), "data": identity, "revision": FEATURES_REVISION}
            order = range(len(dataset.ids))
            data = PlannedData(
                entry=split.entry,
                split=split.split,
                dataset=dataset,
                order=order,
                n=len(order),
                identity=identity,
            )
            require_fit(ref, {"features": encoder}, data)
            made = self._artefact_of(call_plugin(ref.entry, canonical, spec), {role: dataset})
            require_same_encoders(made, {"encoder": encoder})
            found[role] = PlannedFeatures(encoder=encoder, data=data, artefact=made)
        return found


def require_fit(ref: Model, encoders: Mapping[str, PlannedModel], data: PlannedData) -> None:
    """Raise UserError if the first images of the data do not fit an encoder of a model."""
    for encoder in encoders.values():
        if found := misfit(encoder.entry.spec, data.sizes):
            raise UserError(
                f"{data.name} does not fit {encoder.entry.name}, the encoder of {ref.label}: {found}. "
                f"Try: `preprocessing: {{resize: {encoder.entry.spec.input.shape[-1]}, "
                f"crop: {encoder.entry.spec.input.shape[-1]}}}` in the encoder"
            )


def require_same_encoders(artefact: Artefact, encoders: Mapping[str, PlannedModel]) -> None:
    """Raise UserError if an artefact was made with other weights of an encoder that the suite has trained again."""
    made_with = artefacts.read(artefact.folder / PROVENANCE).get("encoders", {})
    for name, encoder in encoders.items():
        sha256 = encoder.weights.sha256 if encoder.artefact is not None and encoder.weights is not None else None
        if sha256 is not None and made_with.get(name, sha256) != sha256:
            raise UserError(
                f"the artefact {artefact.folder} was made with other weights of {encoder.label}. To make it again, "
                f"remove it and run the suite. Try: rm -r {for_shell(artefact.folder)}"
            )


def encoder_weights(encoders: Mapping[str, PlannedModel]) -> dict[str, Any]:
    """Return the sha256 of the weights of each encoder, trained ones included, for the provenance of an artefact."""
    found = {name: each.weights or (each.artefact and each.artefact.weights()) for name, each in encoders.items()}
    return {name: weights.sha256 for name, weights in found.items() if weights}


def _identity(ref: Model) -> dict[str, Any]:
    """Return what determines a network beside its weights, as plain data."""
    params = identity_fields(ref.params)
    identity = {
        "name": ref.entry.name,
        **spec_identity(ref.entry, leave_out=("name",)),
        **({"params": params} if params else {}),
        **{key: value for key in ("inside", "strip") if (value := getattr(ref, key)) is not None},
    }
    found: dict[str, Any] = call_plugin(ref.entry, canonical, identity)
    return found


def _trained_weights(encoder: PlannedModel) -> dict[str, Any]:
    """Return the weights of an encoder, and of its own encoders, that the suite has trained; empty for files."""
    own = {"weights": encoder.identity["weights"]} if encoder.artefact is not None else {}
    inner = encoder.identity.get("encoders")
    return {**own, **({"encoders": inner} if inner else {})}


def _encoder_identity(encoder: PlannedModel) -> dict[str, Any]:
    """Return what determines the features of an encoder, as plain data: its files, or the recipe that trains it.

    The identity is the same before and after the training.
    """
    spec = encoder.entry.spec
    found = {**_identity(encoder.ref), **({"trunk": True} if spec.trunk else {"features": spec.features or ""})}
    if encoder.artefact is not None:
        return {**found, "recipe": encoder.artefact.hash}
    return {**found, **({"weights": encoder.weights.sha256} if encoder.weights is not None else {})}


def _data_identity(data: Data, dataset: FixedDataset) -> dict[str, Any]:
    """Return the identity of a split of training data."""
    found: dict[str, Any] = call_plugin(data.entry, canonical, data_identity(data))
    return {**found, "fingerprint": dataset.fingerprint}


def _replaced(ref: Model, changes: Mapping[str, Any]) -> Any:
    with plugin_code():
        return dataclasses.replace(ref.params, **changes)


def _of_encoder(error: UserError, label: str) -> UserError:
    """Return the error of an encoder with the label of its model."""
    if isinstance(error, MissingResource):
        found = {"source": error.source, "place": error.place, "licence": error.licence}
        return MissingResource(error.what, where=error.where, get=error.get, encoder_of=label, **found)  # type: ignore[arg-type]
    if isinstance(error, MissingResources):
        return MissingResources([_of_encoder(each, label) for each in error.errors])  # type: ignore[misc]
    return error


def _revision(declared: int | Callable[[Any], int], params: Any) -> int:
    """Return the revision of a training. Raises TypeError if the plugin returned something else."""
    found = call_spec(declared, params) if callable(declared) else declared
    if type(found) is not int:
        raise TypeError(f"its function `revision` returned {shown(found)}, not an integer")
    return found


def _training_inputs(ref: Model, data_root: Path) -> dict[str, Path]:
    """Return the files that the model's training reads, by role. Raises UserError, e.g. if one is missing."""
    declare = ref.entry.spec.weights.inputs
    declared = call_plugin(ref.entry, _inputs, declare, ref.params) if declare else {}
    found = {}
    for role, source in declared.items():
        path = source if isinstance(source, Path) else locate(source, data_root)
        if path is None or not exists(path):
            file = File(path=str(source)) if isinstance(source, Path) else source
            what = f"the training input '{role}' of {ref.entry.name}"
            raise missing_file(file, path, what, get="correct the options in the suite")
        found[role] = path
    return found


def _inputs(declare: Callable[[Any], Any], params: Any) -> dict[str, File | Path]:
    """Return the declared inputs of a training. Raises TypeError if the plugin returned something else."""
    declared = {str(role): source for role, source in returned("inputs", call_spec(declare, params), Mapping).items()}
    for role, source in declared.items():
        if not isinstance(source, File | Path):
            raise TypeError(f"its function `inputs` returned {shown(source)} for '{role}', not a File or a Path")
    return declared
