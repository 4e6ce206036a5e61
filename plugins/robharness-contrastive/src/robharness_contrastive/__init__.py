"""Encoders that are trained by a recipe, most of them contrastively, and metrics and figures of their features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robharness import DataRef, InputSpec, ModelSpec, Train, hookimpl
from robharness_contrastive import params
from robharness_contrastive.metrics import robharness_figures, robharness_metrics

__all__ = ["RECIPES", "robharness_figures", "robharness_metrics", "robharness_models"]

RECIPES: Mapping[str, tuple[type, str, str]] = {
    "cross-entropy": (params.Supervised, "Supervised by cross-entropy", ""),
    "supcon": (params.Contrastive, "Supervised contrastive", "https://arxiv.org/abs/2004.11362"),
    "simclr": (params.SimCLR, "SimCLR, with or without removal of false negatives", "https://arxiv.org/abs/2002.05709"),
    "clusters": (params.Clusters, "Supervised contrastive, with clusters of SimCLR features as classes", ""),
    "swav": (params.SwAV, "SwAV", "https://arxiv.org/abs/2006.09882"),
    "moco": (params.MoCo, "MoCo v2", "https://arxiv.org/abs/2003.04297"),
    "simsiam": (params.SimSiam, "SimSiam, without negatives", "https://arxiv.org/abs/2011.10566"),
    "cvrl": (params.CVRL, "CVRL, SimCLR on clips of videos", "https://arxiv.org/abs/2008.03800"),
    "tclr": (params.TCLR, "TCLR, temporal contrast within a video", "https://arxiv.org/abs/2101.07974"),
}
"""By the model's name: the class of its recipe, a summary, and its paper."""


def declared_input(recipe: params.Recipe) -> Mapping[str, Any]:
    """Return the input, label space and preprocessing that a recipe gives its model."""
    spec = InputSpec(kind="video" if recipe.is_video else "image", shape=recipe.shape)
    return {"input": spec, "labels": recipe.label_space, "preprocessing": recipe.preprocessing}


def _data(recipe: params.Recipe) -> Mapping[str, DataRef]:
    return {"train": DataRef(name=recipe.data, split=recipe.split)}


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, (recipe, summary, paper) in RECIPES.items():
        yield ModelSpec(
            name=name,
            summary=f"{summary}; trained by a recipe",
            build="robharness_contrastive.loop:build",
            weights=Train(data=_data, train="robharness_contrastive.loop:train", base=params.base, revision=2),
            params=recipe,
            given=declared_input,
            features="features",
            paper=paper,
            **declared_input(recipe()),
        )
