"""Networks of the running process as models of a suite."""

from __future__ import annotations

import copy
import dataclasses
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robharness import suite
from robharness.errors import UserError, describe
from robharness.findings import Finding, finding
from robharness.planning.data import plan_data
from robharness.planning.identity import call_plugin
from robharness.plugins.calls import plugin_code
from robharness.plugins.registry import PluginOrigin, Registry
from robharness.specs.inputs import InputSpec
from robharness.specs.records import ModelSpec
from robharness.specs.sources import Train
from robharness.text import NAME_LENGTH, is_printable, printable

if TYPE_CHECKING:
    from torch import nn


def live_model(
    label: str, model: nn.Module | ModelSpec, loaded: suite.Suite, registry: Registry, root: Path
) -> tuple[suite.Model, list[Finding]]:
    """Return a network of this process as a model of the suite, and findings about it.

    Its identity is the digest of all that the network reaches: state, attributes, closures, code. If some of that
    cannot be read, the identity is a new one at every call, so that no stored outcome is taken for its own.

    label: of the model in the suite.
    model: a network, which takes the input of the suite's first model or else the shape of the data, or a ModelSpec.
    loaded: the suite that the model is added to.
    registry: gets an entry for the model.
    root: the folder of data and weights.
    Raises UserError for anything else, for a label that cannot be shown, and if a network alone does not determine its
    input.
    """
    from robharness.evaluation.digest import Unidentified, network_digest
    from robharness.evaluation.modes import neutral_modes

    if not label.strip() or len(label) > NAME_LENGTH or not is_printable(label):
        what = f"the label '{printable(label)}' is not one line of at most {NAME_LENGTH} visible characters"
        raise UserError(f"{what}. Try: another label for the network")
    spec = model if isinstance(model, ModelSpec) else _spec_of(label, model, loaded, root)
    findings = []
    with neutral_modes():
        try:
            digest = network_digest(*_determining(model))
        except Unidentified as error:
            digest = f"not identified {uuid.uuid4().hex}"
            message = f"{error}, so that its outcomes are computed in every run and are never reused"
            findings.append(finding("live-not-identified", message, subject=label))
    origin = PluginOrigin(namespace=f"live.{label}", distribution="a live network", digest=digest)
    entry = registry.add("models", spec, origin)
    found = suite.Model(entry=entry, params=None, label=label, reference=False, weights=None)
    if found.is_trained:
        found = dataclasses.replace(found, seed=loaded.seed, data=suite.trained_on(entry, None, registry))
    return found, findings


def _determining(model: nn.Module | ModelSpec) -> list[Any]:
    """Return the objects that determine the behaviour of a live model."""
    if not isinstance(model, ModelSpec):
        return [model]
    trains = isinstance(model.weights, Train)
    functions = [model.build, model.given, *([model.weights.train] if isinstance(model.weights, Train) else [])]
    try:
        with plugin_code():
            return [*functions, *([model.build(None, None)] if model.weights is None and not trains else [])]  # type: ignore[operator]
    except Exception:  # the run names the error
        return functions


def _spec_of(label: str, model: Any, loaded: suite.Suite, root: Path) -> ModelSpec:
    from torch import nn

    if not isinstance(model, nn.Module):
        is_class = isinstance(model, type)
        noun = f"the class {model.__name__}" if is_class else f"a {type(model).__name__}"
        remedy = "an instance of the class" if is_class else "a torch.nn.Module whose forward calls it, or a ModelSpec"
        raise UserError(f"the live model '{label}' is {noun}, not a torch.nn.Module. Try: {remedy}")
    first = loaded.models[0].entry.spec if loaded.models else None
    return ModelSpec(
        name="network",
        summary=f"a live {type(model).__name__}",
        input=first.input if first else _input_of_data(loaded, root),
        preprocessing=first.preprocessing if first else None,
        labels=loaded.data.entry.spec.labels,
        build=lambda params, weights: _copied(model),  # the caller may continue to train the original
    )


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of the network. Raises UserError, with a remedy, if it cannot be copied."""
    import torch

    from robharness.evaluation.digest import Unidentified, shared_objects

    try:
        with (
            plugin_code(),
            torch.no_grad(),
        ):  # else parameters of a copied TorchScript module would be results of an operation
            copied = copy.deepcopy(model)
    except Exception as error:
        raise UserError(
            f"the live network cannot be copied: {describe(error)}. Causes are kept activations, open files, locks, "
            f"and the old weight_norm and spectral_norm of torch.nn.utils (newer ones are in "
            f"torch.nn.utils.parametrizations). Try: a ModelSpec whose `build` makes the network"
        ) from error
    with suppress(Unidentified):
        if copied is not model and shared_objects(copied, model):
            raise UserError(
                "a copy of the live network calls the original, e.g. by a function that replaces its forward. "
                "Try: a ModelSpec whose `build` makes the network"
            )
    return copied


def _input_of_data(loaded: suite.Suite, root: Path) -> InputSpec:
    """Return an input with the shape of the canvas, or else of the first readable image.

    Raises UserError for videos, and if no image can be read.
    """
    spec = loaded.data.entry.spec
    if spec.kind == "video":
        raise UserError(
            "a network alone does not determine the frames of a video that it sees; give a ModelSpec with "
            "`preprocessing=Preprocessing(clips=Clips(...))`. Try: python -m pydoc robharness.Clips"
        )
    data = plan_data(loaded, root)
    sizes = data.sizes
    if sizes.sizes:
        shape: tuple[int, ...] = (*sizes.sizes[0], min(sizes.channels))
    else:
        shape = call_plugin(loaded.data.entry, _first_image, loaded, root).shape
    *sides, channels = shape
    if isinstance(data.canvas, int):
        sides = [data.canvas, data.canvas]
    return InputSpec(kind=spec.kind, shape=(channels, *sides))


def _first_image(loaded: suite.Suite, root: Path) -> np.ndarray:
    """Return the first image that can be read. Raises UserError if there is none."""
    from robharness.evaluation.decoding import as_unreadable

    dataset, reason = loaded.data.open(root), "it has no examples"
    for index, id in enumerate(dataset.ids):
        try:
            with plugin_code():
                image = np.asarray(dataset.read(index))
            if image.ndim == 3:
                return image
            reason = f"the image {id} has the shape {image.shape}, not (height, width, channels)"
        except Exception as error:
            broken = as_unreadable(error)
            if broken is None:
                raise
            reason = f"none of its images can be read, such as {id}: {broken}"
    raise UserError(
        f"a network alone takes the shape of the data, but of {loaded.data.entry.name} {reason}. "
        f"Try: robharness list datasets"
    )
