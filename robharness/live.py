"""Networks of the running process as models of a suite."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robharness import suite
from robharness.errors import UserError
from robharness.plugins.registry import PluginOrigin, Registry
from robharness.specs.inputs import InputSpec
from robharness.specs.records import ModelSpec

if TYPE_CHECKING:
    from torch import nn


def live_model(
    label: str, model: nn.Module | ModelSpec, loaded: suite.Suite, registry: Registry, root: Path
) -> suite.Model:
    """Return a network of this process as a model of the suite; the digest of its state is its identity.

    label: of the model in the suite.
    model: a network, which takes the input of the suite's first model or else the shape of the data, or a ModelSpec.
    loaded: the suite that the model is added to.
    registry: gets an entry for the model.
    root: the folder of data and weights.
    Raises UserError if a network alone does not determine its input.
    """
    from robharness.evaluation.digest import state_digest

    if isinstance(model, ModelSpec):
        build: Any = model.build
        built = build(None, None) if model.weights is None else None  # nothing else identifies it
        spec, digest = model, state_digest(built) if built is not None else None
    else:
        first = loaded.models[0].entry.spec if loaded.models else None
        spec = ModelSpec(
            name="network",
            summary=f"a live {type(model).__name__}",
            input=first.input if first else _input_of_data(loaded, root),
            preprocessing=first.preprocessing if first else None,
            labels=loaded.dataset.spec.labels,
            build=lambda params, weights: copy.deepcopy(model),  # the caller may continue to train the original
        )
        digest = f"{state_digest(model)} {model!r}"
    origin = PluginOrigin(namespace=f"live.{label}", distribution="a live network", digest=digest)
    entry = registry.add("models", spec, origin)
    found = suite.Model(entry=entry, params=None, label=label, reference=False, weights=None)
    if not found.is_trained:
        return found
    return dataclasses.replace(found, seed=loaded.seed, data=suite.trained_on(entry, None, registry))


def _input_of_data(loaded: suite.Suite, root: Path) -> InputSpec:
    """Return an input with the shape of the canvas, or else of the first readable image.

    Raises UserError for videos, and if no image can be read.
    """
    spec = loaded.dataset.spec
    if spec.kind == "video":
        raise UserError(
            "a network alone does not determine the frames of a video that it sees; give a ModelSpec with "
            "`preprocessing=Preprocessing(clips=Clips(...))`. Try: python -m pydoc robharness.Clips"
        )
    *sides, channels = _first_image(loaded, root).shape
    if loaded.canvas is not None:
        sides[-2:] = [loaded.canvas, loaded.canvas]
    return InputSpec(kind=spec.kind, shape=(channels, *sides))


def _first_image(loaded: suite.Suite, root: Path) -> np.ndarray:
    """Return the first image that can be read. Raises UserError if there is none."""
    from robharness.evaluation.decoding import as_unreadable

    dataset, reason = loaded.dataset.spec.open(root, loaded.data.split), "it has no examples"
    for index, id in enumerate(dataset.ids):
        try:
            return np.asarray(dataset.read(index))
        except Exception as error:
            broken = as_unreadable(error)
            if broken is None:
                raise
            reason = f"none of its images can be read, such as {id}: {broken}"
    raise UserError(
        f"a network alone takes the shape of the data, but of {loaded.dataset.name} {reason}. "
        f"Try: robharness list datasets"
    )
