"""Heads that are trained on the features of any encoder: linear, neighbours, class means, fine-tuning, retrieval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from robharness import DataRef, Encoder, InputSpec, ModelSpec, Train, hookimpl
from robharness.specs.conventions import INSTANCES
from robharness_probe import params

__all__ = ["robharness_models"]

_TRAINING = "robharness_probe.training"
_ROCL = "https://arxiv.org/abs/2006.07589"
_ACL = "https://arxiv.org/abs/2010.13337"
_DYNACL = "https://arxiv.org/abs/2303.01289"


@dataclass(frozen=True)
class _Entry:
    """A head.

    options: the class of its options.
    summary: for lists.
    protocol: name of its protocol in reports; empty for a head without labels.
    paper: its source.
    """

    options: type
    summary: str
    protocol: str
    paper: str = ""


_HEADS: Mapping[str, _Entry] = {
    "linear": _Entry(params.Linear, "Linear classifier on the features of an encoder", "linear"),
    "knn": _Entry(
        params.Neighbours, "Weighted vote of the nearest neighbours", "kNN", "https://arxiv.org/abs/1805.01978"
    ),
    "centroid": _Entry(params.Centroid, "Nearest class mean of the features", "nearest class mean"),
    "finetune": _Entry(params.Finetune, "Encoder and linear classifier, trained together", "fine-tuning"),
    "adversarial": _Entry(
        params.Adversarial, "Linear classifier that is trained on attacked images", "adversarial linear", _ROCL
    ),
    "slf": _Entry(params.SLF, "Standard linear fine-tuning (SLF), on augmented images", "SLF", _DYNACL),
    "alf": _Entry(params.ALF, "Adversarial linear fine-tuning (ALF), on attacked images", "ALF", _DYNACL),
    "aff": _Entry(params.AFF, "Adversarial full fine-tuning (AFF) of encoder and classifier by TRADES", "AFF", _ACL),
    "le": _Entry(params.LE, "Linear evaluation (LE) of RoCL", "LE", _ROCL),
    "rle": _Entry(params.RLE, "Robust linear evaluation (r-LE) of RoCL, on attacked images", "r-LE", _ROCL),
    "retrieval": _Entry(params.Retrieval, "Retrieval of every example by its features, without labels", ""),
}
"""By the model's name."""


def protocol(name: str, options: params.Head) -> str:
    """Return the name of a protocol, with the options that differ from its own: "SLF", "SLF with lr=0.05".

    Values are written as in a suite.
    """
    own = type(options)(encoder=options.encoder, data=options.data)
    changed = [
        f"{item.name}={_text(getattr(options, item.name))}"
        for item in fields(options)
        if getattr(options, item.name) != getattr(own, item.name)
    ]
    return f"{name} with {', '.join(changed)}" if name and changed else name


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def _given(head: params.Head) -> Mapping[str, Any]:
    encoder = head.encoder
    if encoder.input.kind == "video" and isinstance(head, params.Images):
        raise ValueError(
            f"{encoder.name} takes videos, and this head is trained on images; write `model: probe/linear`"
        )
    [entry] = [each for each in _HEADS.values() if each.options is type(head)]
    return {
        "input": encoder.input,
        "preprocessing": encoder.preprocessing,
        "labels": INSTANCES if isinstance(head, params.Retrieval) else head.data.labels,
        "protocol": protocol(entry.protocol, head),
    }


def _data(head: params.Head) -> Mapping[str, DataRef]:
    return {"train": head.data}


def _encoder(head: params.Head) -> Encoder | None:
    return None if isinstance(head, params.Images) else head.encoder


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, entry in _HEADS.items():
        yield ModelSpec(
            name=name,
            summary=entry.summary,
            input=InputSpec(shape=(3, 224, 224)),  # as the encoder says, see `_given`
            labels=INSTANCES if name == "retrieval" else "of the data",
            build=f"{_TRAINING}:build",
            weights=Train(data=_data, train=f"{_TRAINING}:train", features=_encoder),
            params=entry.options,
            given=_given,
            features="features",
            protocol=entry.protocol,
            paper=entry.paper,
        )
