"""Published self-supervised encoders, alone and with the linear classifiers that their publishers trained on them.

`NAME` is the encoder, whose output is the input of the publisher's linear evaluation. `NAME-linear` is the classifier.
Encoders of adversarial contrastive training on CIFAR-10 are in `adversarial`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from robharness import InputSpec, ModelSpec, hookimpl
from robharness.specs import conventions
from robharness_ssl import adversarial, table

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Parameters of a vision transformer of DINO or iBOT.

    representation: "linear" is the input of the publisher's linear evaluation; "knn" that of its k-NN evaluation, the
        class token of the last block.
    """

    representation: Literal["linear", "knn"] = "linear"


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Parameters of DINOv2's linear classifiers.

    layers: number of last blocks whose class tokens the classifier takes, beside the mean of the last patch tokens.
    """

    layers: Literal[1, 4] = 4


@dataclass(frozen=True, kw_only=True)
class LayeredRepresentation(Layers):
    """Parameters of DINOv2's encoders.

    representation: "linear" is the input of the publisher's linear evaluation; "knn" that of its k-NN evaluation, the
        class token of the last block.
    layers: number of last blocks whose class tokens are taken, beside the mean of the last patch tokens, if the
        representation is "linear".
    """

    representation: Literal["linear", "knn"] = "linear"


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for encoder in table.ENCODERS:
        yield _encoder(encoder)
        if encoder.head is not None:
            yield _classifier(encoder)
    for tuned in table.FINETUNED:
        yield _finetuned(tuned)
    yield from adversarial.specs()


def _encoder(entry: table.Encoder) -> ModelSpec:
    params = LayeredRepresentation if _is_layered(entry) else Representation if entry.linear else None
    return ModelSpec(
        name=entry.name,
        summary=f"{entry.title}: the encoder alone, 224 px",
        input=InputSpec(shape=(3, 224, 224)),
        labels=conventions.NO_LABELS,
        build=partial(_build_encoder, entry),
        weights=entry.encoder,
        preprocessing=entry.preprocessing,
        params=params,
        features="",
        licence=entry.licence,
        paper=entry.paper,
    )


def _classifier(entry: table.Encoder) -> ModelSpec:
    return ModelSpec(
        name=f"{entry.name}-linear",
        summary=f"{entry.title}, with the publisher's linear classifier, 224 px",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build=partial(_build_classifier, entry),
        weights=entry.classifier_weights,
        preprocessing=entry.preprocessing,
        params=Layers if _is_layered(entry) else None,
        given=partial(_given, entry) if _is_layered(entry) else None,
        features="1.encoder",
        expected={"clean": round(entry.top1 / 100, 5)},
        licence=entry.licence,
        paper=entry.paper,
    )


def _finetuned(entry: table.Finetuned) -> ModelSpec:
    return ModelSpec(
        name=entry.name,
        summary=f"{entry.title} with labels, 224 px",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build=partial(_build_finetuned, entry),
        weights=entry.file,
        preprocessing=entry.preprocessing,
        features="1.encoder",
        expected={"clean": round(entry.top1 / 100, 5)},
        licence=entry.licence,
        paper=entry.paper,
    )


def _is_layered(entry: table.Encoder) -> bool:
    return entry.publisher.startswith("dinov2")


def _given(entry: table.Encoder, params: Layers) -> Mapping[str, Any]:
    return {"weights": _with_layers(entry, params).classifier_weights}


def _with_layers(entry: table.Encoder, params: Any) -> table.Encoder:
    return table.one_layer(entry) if isinstance(params, Layers) and params.layers == 1 else entry


def _build_encoder(entry: table.Encoder, params: Any, weights: Any) -> nn.Module:
    from robharness_ssl import loading

    entry = _with_layers(entry, params)
    if entry.linear and params.representation == "knn":
        entry = replace(entry, linear=table.Tokens())
    return loading.encoder(entry, weights)


def _build_classifier(entry: table.Encoder, params: Any, weights: Any) -> nn.Module:
    from robharness_ssl import loading

    return loading.classifier(_with_layers(entry, params), weights)


def _build_finetuned(entry: table.Finetuned, params: None, weights: Any) -> nn.Module:
    from robharness_ssl import loading

    return loading.finetuned(entry, weights)
