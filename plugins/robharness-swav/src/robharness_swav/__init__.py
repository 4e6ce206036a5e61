"""SwAV: the ResNet-50 of 800 epochs with the linear classifier that was trained on its features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robharness import Download, InputSpec, ModelSpec, Preprocessing, hookimpl

if TYPE_CHECKING:
    from torch import nn

_FILES = "https://dl.fbaipublicfiles.com/deepcluster"


@dataclass(frozen=True, kw_only=True)
class SwAVParams:
    """Parameters of SwAV's network.

    normalization: "swav" as in training, with a standard deviation of red of 0.228; "imagenet" with 0.229; or "none".
    """

    normalization: Literal["swav", "imagenet", "none"] = "swav"


def _build(params: SwAVParams, weights: Any) -> nn.Module:
    from robharness_swav.loading import load

    return load(weights, params.normalization)


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    yield ModelSpec(
        name="resnet50",
        summary="SwAV ResNet-50, 800 epochs, with its linear classifier, 224 px",
        input=InputSpec(shape=(3, 224, 224)),
        labels="imagenet-1k",
        build=_build,
        weights={
            "backbone": Download(url=f"{_FILES}/swav_800ep_pretrain.pth.tar"),
            "head": Download(url=f"{_FILES}/swav_800ep_eval_linear.pth.tar"),
        },
        preprocessing=Preprocessing(resize=256, crop=224),
        params=SwAVParams,
        features="1.avgpool",
        expected={"clean": 0.753},
        alternatives={
            "std 0.229": {"normalization": "imagenet"},
            "no normalisation": {"normalization": "none"},
        },
        licence="CC-BY-NC-4.0",
        paper="https://arxiv.org/abs/2006.09882",
    )
