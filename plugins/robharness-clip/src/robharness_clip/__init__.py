"""CLIP and its robust forms: zero-shot classifiers and image encoders of open_clip's and RobustVLM's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from robharness import InputSpec, ModelSpec, hookimpl
from robharness_clip import options

ALTERNATIVES: Mapping[str, Mapping[str, Any]] = {
    "QuickGELU": {"quickgelu": True},
    "GELU": {"quickgelu": False},
    "CLIP's mean and std": {"normalize": "clip"},
    "ImageNet's mean and std": {"normalize": "imagenet"},
    "no normalisation": {"normalize": "none"},
}
"""Mistakes with own checkpoints that loading does not reveal."""


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="zero-shot",
        summary="CLIP as a zero-shot classifier: {model: clip/zero-shot, name: ViT-B-32, pretrained: openai}",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build="robharness_clip.networks:zero_shot",
        trunk="robharness_clip.networks:encoder",
        params=options.ZeroShot,
        given=options.zero_shot_fields,
        features="1.unit",
        alternatives=ALTERNATIVES,
        licence="differs by weights, see `robharness show clip/zero-shot`",
        paper="https://arxiv.org/abs/2103.00020",
    )
    yield ModelSpec(
        name="visual",
        summary="CLIP's image tower as an encoder for probes: {model: clip/visual, name: ViT-L-14, pretrained: fare2}",
        input=InputSpec(shape=(3, 224, 224)),
        labels="none",
        build="robharness_clip.networks:encoder",
        params=options.Visual,
        given=options.encoder_fields,
        features="",
        licence="differs by weights",
        paper="https://arxiv.org/abs/2103.00020",
    )
