"""Encoders that are trained by a recipe, most of them contrastively, and metrics and figures of their features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from robharness import ComponentSpec, DataRef, InputSpec, ModelSpec, Train, hookimpl
from robharness.specs.conventions import NO_LABELS
from robharness_contrastive import components, params
from robharness_contrastive.components import augmentation, linear_probe, network, objective
from robharness_contrastive.metrics import robharness_figures, robharness_metrics
from robharness_contrastive.options import TwoBranches
from robharness_contrastive.steps import Augmentation

if TYPE_CHECKING:
    from robharness_contrastive.augment import Draws
    from robharness_contrastive.objectives import Context, FirstStage, Loss, Objective, TrainingStep
    from robharness_contrastive.probe import Probe, ProbeTask

__all__ = [
    "RECIPES",
    "Augmentation",
    "Context",
    "Draws",
    "FirstStage",
    "Loss",
    "Objective",
    "Probe",
    "ProbeTask",
    "TrainingStep",
    "TwoBranches",
    "augmentation",
    "linear_probe",
    "network",
    "objective",
    "robharness_components",
    "robharness_figures",
    "robharness_metrics",
    "robharness_models",
]

_WITH_TORCH = {
    **dict.fromkeys(("Context", "FirstStage", "Loss", "Objective", "TrainingStep"), "objectives"),
    **dict.fromkeys(("Probe", "ProbeTask"), "probe"),
    "Draws": "augment",
}
"""Public name -> its module, which is imported at the first use, since it imports torch."""

RECIPES: Mapping[str, type[params.Recipe]] = {
    recipe.OBJECTIVE: recipe
    for recipe in (
        params.Supervised,
        params.Contrastive,
        params.SimCLR,
        params.Clusters,
        params.SwAV,
        params.MoCo,
        params.SimSiam,
        params.CVRL,
        params.TCLR,
        params.RoCL,
        params.ACL,
        params.DynACL,
    )
}
"""By the name of a model with one objective, which the objective has, too: the class of its recipe."""


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


def declared_input(recipe: params.Recipe) -> Mapping[str, Any]:
    """Return the input, label space, preprocessing and protocol that a recipe gives its model."""
    spec = InputSpec(kind="video" if recipe.is_video else "image", shape=recipe.shape)
    labels = NO_LABELS if recipe.is_encoder_alone else recipe.label_space
    return {"input": spec, "labels": labels, "preprocessing": recipe.preprocessing, "protocol": recipe.protocol}


def _data(recipe: params.Recipe) -> Mapping[str, DataRef]:
    return {"train": DataRef(name=recipe.data, split=recipe.split)}


def _revision(recipe: params.Recipe) -> int:
    """Return the revision of the training.

    Revision 3 has other learning rates and another mean of the last gradients under `accumulate`. Under mixed precision
    it leaves views in float32, and "16-mixed" is float16 on CPUs, too. Other recipes have the weights of revision 2.
    """
    return 3 if recipe.accumulate > 1 or recipe.precision.endswith("-mixed") else 2


def _model(name: str, recipe: type[params.Recipe], summary: str, paper: str = "") -> ModelSpec:
    return ModelSpec(
        name=name,
        summary=f"{summary}; trained by a recipe",
        build="robharness_contrastive.loop:build",
        trunk="robharness_contrastive.loop:trunk",
        weights=Train(data=_data, train="robharness_contrastive.loop:train", base=params.base, revision=_revision),
        params=recipe,
        given=declared_input,
        features="features",
        paper=paper,
        **declared_input(recipe()),
    )


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, recipe in RECIPES.items():
        spec = recipe().training_objective.spec
        yield _model(name, recipe, spec.summary, spec.paper)
    yield _model("encoder", params.Encoder, "Any objective, `objective: NAME`")


@hookimpl
def robharness_components() -> Iterable[ComponentSpec]:
    return components.OWN
