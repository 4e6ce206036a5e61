"""SimCLR: the encoders of v1 and v2, each with the linear classifier that was trained on its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robharness import Conversion, Download, File, InputSpec, ModelSpec, Preprocessing, hookimpl

if TYPE_CHECKING:
    from torch import nn

_ZIPS = "https://storage.googleapis.com/simclr-gcs/checkpoints"
_V2 = "https://storage.googleapis.com/simclr-checkpoints/simclrv2/pretrained"
_V2_FILES = {"checkpoint": "model.ckpt-250228.index", "data": "model.ckpt-250228.data-00000-of-00001"}
"""The files of a v2 checkpoint that hold variables. Source of the address and the names: download.py of
Separius/SimCLRv2-Pytorch, which fetches them; these variables include the linear classifier."""

# Width, top-1 of the converted checkpoint, top-1 of the original. Source: the table in tonylins/simclr-converter,
# README.md.
_FIRST = ((1, 0.689, 0.691), (2, 0.741, 0.742), (4, 0.764, 0.766))

# Depth, width, selective kernels, top-1. Source: the column "Linear eval" in google-research/simclr, README.md.
_SECOND = (
    *((50, 1, False, 0.717), (50, 1, True, 0.746), (50, 2, False, 0.756), (50, 2, True, 0.777)),
    *((101, 1, False, 0.736), (101, 1, True, 0.763), (101, 2, False, 0.770), (101, 2, True, 0.790)),
    *((152, 1, False, 0.745), (152, 1, True, 0.772), (152, 2, False, 0.774), (152, 2, True, 0.794)),
    (152, 3, True, 0.798),
)


@dataclass(frozen=True, kw_only=True)
class SimCLRParams:
    """Differences between the converted network and the trained network.

    padding: padding of the pooling layers: "same" as in training with TensorFlow, "torch" as in the converted network.
    """

    padding: Literal["torch", "same"] = "torch"


@dataclass(frozen=True, kw_only=True)
class ConvertedParams(SimCLRParams):
    """Parameters of a converted v1 checkpoint.

    padding: as in `SimCLRParams`.
    bias: "keep" uses the file's bias of the classifier, which is random if the converter lost it; "zero" sets it to 0.
    """

    bias: Literal["keep", "zero"] = "keep"


@dataclass(frozen=True, kw_only=True)
class OriginalParams(SimCLRParams):
    """Parameters of an original TensorFlow checkpoint.

    padding: as in `SimCLRParams`.
    """

    padding: Literal["torch", "same"] = "same"


def _build(depth: int, width: int, selective: bool, params: SimCLRParams, weights: Any) -> nn.Module:
    from robharness_simclr.loading import load
    from robharness_simclr.networks import ResNet

    return load(
        lambda: ResNet(depth, width, selective=selective, padding=params.padding),
        weights,
        bias=getattr(params, "bias", "keep"),
    )


def _convert(depth: int, width: int, selective: bool, sources: Mapping[str, Path], path: Path) -> None:
    from robharness_simclr.converting import convert

    convert(depth, width, selective, sources, path)


def _converted(path: str, depth: int, width: int, selective: bool, **sources: Download) -> File:
    convert = partial(_convert, depth, width, selective)
    return File(path=path, origin=Conversion(sources=sources, convert=convert))


def _spec(depth: int, width: int, selective: bool = False, **fields: Any) -> ModelSpec:
    return ModelSpec(
        labels="imagenet-1k",
        build=partial(_build, depth, width, selective),
        features="avgpool",
        licence="Apache-2.0",
        **fields,
    )


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for width, converted, original in _FIRST:
        name = "resnet50" + _times(width)
        published = Download(url=f"{_ZIPS}/ResNet50_{width}x.zip")
        yield _spec(
            50,
            width,
            name=name,
            summary=f"SimCLR ResNet-50 {width}x, converted to PyTorch, evaluated at 256 px",
            input=InputSpec(shape=(3, 256, 256)),
            preprocessing=Preprocessing(resize=256, crop=256),
            weights=_converted(f"weights/resnet50-{width}x.pth", 50, width, False, checkpoint=published),
            params=ConvertedParams,
            expected={"clean": converted},
            alternatives={
                "224 px": {"preprocessing": {"crop": 224}},
                "bias: zero": {"bias": "zero"},
                "padding: same": {"padding": "same"},
            },
            paper="https://arxiv.org/abs/2002.05709",
        )
        yield _spec(
            50,
            width,
            name=f"{name}-tf",
            summary=f"SimCLR ResNet-50 {width}x, TensorFlow's original checkpoint, 224 px",
            input=InputSpec(shape=(3, 224, 224)),
            preprocessing=Preprocessing(resize=256, crop=224, interpolation="bicubic", antialias=False),
            weights=published,
            params=OriginalParams,
            expected={"clean": original},
            alternatives={"padding: torch": {"padding": "torch"}},
            paper="https://arxiv.org/abs/2002.05709",
        )
    for depth, width, selective, accuracy in _SECOND:
        file = f"r{depth}_{width}x_sk{int(selective)}"
        parts = {role: Download(url=f"{_V2}/{file}/{part}", name=f"{file}/{part}") for role, part in _V2_FILES.items()}
        yield _spec(
            depth,
            width,
            selective,
            name=f"v2-resnet{depth}{_times(width)}{'-sk' if selective else ''}",
            summary=f"SimCLRv2 {file}, converted to PyTorch, 224 px",
            input=InputSpec(shape=(3, 224, 224)),
            preprocessing=Preprocessing(resize=256, crop=224),
            weights=_converted(f"weights/{file}.pth", depth, width, selective, **parts),
            params=SimCLRParams,
            expected={"clean": accuracy},
            alternatives={"padding: same": {"padding": "same"}},
            paper="https://arxiv.org/abs/2006.10029",
        )


def _times(width: int) -> str:
    return "" if width == 1 else f"-{width}x"
