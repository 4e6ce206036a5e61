"""Heads that are trained on the features of any encoder: linear, neighbours, class means, fine-tuning, retrieval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robharness import DataRef, Encoder, InputSpec, ModelSpec, Train, hookimpl
from robharness.specs.conventions import INSTANCES
from robharness_probe import params

__all__ = ["robharness_models"]

_TRAINING = "robharness_probe.training"
_HEADS: Mapping[str, tuple[type, str, str]] = {
    "linear": (params.Linear, "Linear classifier on the features of an encoder", ""),
    "knn": (params.Neighbours, "Weighted vote of the nearest neighbours", "https://arxiv.org/abs/1805.01978"),
    "centroid": (params.Centroid, "Nearest class mean of the features", ""),
    "finetune": (params.Finetune, "Encoder and linear classifier, trained together", ""),
    "adversarial": (
        params.Adversarial,
        "Linear classifier that is trained on attacked images",
        "https://arxiv.org/abs/2006.07589",
    ),
    "retrieval": (params.Retrieval, "Retrieval of every example by its features, without labels", ""),
}
"""By the model's name: the class of its options, a summary, and its paper."""


def _given(head: params.Head) -> Mapping[str, Any]:
    encoder = head.encoder
    if encoder.input.kind == "video" and isinstance(head, params.Images):
        raise ValueError(
            f"{encoder.name} takes videos, and this head is trained on images; write `model: probe/linear`"
        )
    labels = INSTANCES if isinstance(head, params.Retrieval) else head.data.labels
    return {"input": encoder.input, "preprocessing": encoder.preprocessing, "labels": labels}


def _data(head: params.Head) -> Mapping[str, DataRef]:
    return {"train": head.data}


def _encoder(head: params.Head) -> Encoder | None:
    return None if isinstance(head, params.Images) else head.encoder


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, (options, summary, paper) in _HEADS.items():
        yield ModelSpec(
            name=name,
            summary=summary,
            input=InputSpec(shape=(3, 224, 224)),  # as the encoder says, see `_given`
            labels=INSTANCES if name == "retrieval" else "of the data",
            build=f"{_TRAINING}:build",
            weights=Train(data=_data, train=f"{_TRAINING}:train", features=_encoder),
            params=options,
            given=_given,
            features="features",
            paper=paper,
        )
