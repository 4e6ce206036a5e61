"""R(2+1)D-18 and R3D-18: torchvision's weights on Kinetics-400, and supervised, TCLR and CVRL on UCF101.

Source of the preprocessing on UCF101: TCLR's public code, DAVEISHAN/TCLR at 850efa9. Its README says that all of its
models take BGR frames, and its supervised baseline uses the same loader and network. The paper's weights are available
from TCLR's authors (appendix B.4); this plugin assumes the same preprocessing for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robharness import Clips, Download, File, InputSpec, ModelSpec, Page, Preprocessing, hookimpl

if TYPE_CHECKING:
    from torch import nn

SIDE = 112
FRAMES = 16
_INPUT = InputSpec(kind="video", shape=(3, FRAMES, SIDE, SIDE))
FEATURES = "1.avgpool"
"""Submodule of the features: the average over time and space, 512 numbers. Submodule "0" is the normalisation."""

KINETICS = Preprocessing(
    resize=(128, 171),
    crop=SIDE,
    antialias=False,
    clips=Clips(length=FRAMES, stride=2, count=5),
)
"""Preprocessing of torchvision's weights and video reference: 15 frames per second, every second of 30."""

UCF101 = Preprocessing(
    first="crop",
    crop=192,  # int(0.8 * 240) for frames of 240 x 320
    resize=(SIDE, SIDE),
    channel_order="bgr",
    clips=Clips(length=FRAMES, stride=2, margin=10),
)
"""Preprocessing of TCLR's test, with PIL. Source: linear_eval/dl_linear.py. Published accuracies use 10 clips, which a
suite can set; one clip is ten times cheaper to attack."""

MeanStd = Literal["none", "kinetics-400"]


@dataclass(frozen=True, kw_only=True)
class KineticsParams:
    """Parameters of a network on Kinetics-400.

    mean_std: normalisation of the red, green and blue channel.
    """

    mean_std: MeanStd = "kinetics-400"


@dataclass(frozen=True, kw_only=True)
class Ucf101Params:
    """Parameters of a network on UCF101.

    dilation: whether the last stage dilates in time instead of striding, as in TCLR. The weights load either way, so
        only the accuracy shows a wrong choice.
    mean_std: as in `KineticsParams`; TCLR uses none.
    """

    dilation: bool = True
    mean_std: MeanStd = "none"


_TITLES = {"r2plus1d-18": "R(2+1)D-18", "r3d-18": "R3D-18"}
_PAPER = "https://arxiv.org/abs/1711.11248"
# File name in the url, which ends with the first digits of the sha256, and published top-1 accuracy. Source: the enums
# of torchvision.models.video, version 0.29.
_TORCHVISION = {
    "r2plus1d-18": ("r2plus1d_18-91a641e6.pth", 0.67463),
    "r3d-18": ("r3d_18-b3b3357e.pth", 0.632),
}
_TCLR = "https://github.com/DAVEISHAN/TCLR"
_ASK = Page(url=_TCLR, reason="TCLR's authors, who trained the model for the paper, send the file")
_DRIVE = "https://drive.google.com/file/d/1wGr6KsC4TcRweAGOFwmOYBPeZe0oGV7r/view"
_TRAIN = "python train.py --run_id=ucf101"


@dataclass(frozen=True, kw_only=True)
class _OnUcf101:
    """A model on UCF101.

    name: name of the model and stem of its file.
    clean: published accuracy, or None.
    origin: the page where a person gets the file.
    """

    name: str
    architecture: str
    method: str
    paper: str
    clean: float | None = None
    origin: Page = _ASK


# Source of clean: Table 2 of the paper; for R3D-18, the linear evaluation in TCLR's README.
_ON_UCF101 = (
    _OnUcf101(name="r2plus1d-18", architecture="r2plus1d-18", method="supervised", paper=_PAPER, clean=0.594),
    _OnUcf101(
        name="r3d-18",
        architecture="r3d-18",
        method="supervised",
        paper=_PAPER,
        origin=Page(
            url=_TCLR,
            reason=f"only the program that trains it: `{_TRAIN}` in its folder linear_eval",
        ),
    ),
    _OnUcf101(
        name="tclr-r2plus1d-18",
        architecture="r2plus1d-18",
        method="TCLR",
        paper="https://arxiv.org/abs/2101.07974",
        clean=0.755,
    ),
    _OnUcf101(
        name="tclr-r3d-18",
        architecture="r3d-18",
        method="TCLR",
        paper="https://arxiv.org/abs/2101.07974",
        clean=0.699,
        origin=Page(
            url=_DRIVE,
            reason=f"only the backbone; the program that trains the rest is {_TCLR}: "
            f"`{_TRAIN} --linear --saved_model=BACKBONE` in its folder linear_eval",
        ),
    ),
    _OnUcf101(
        name="cvrl-r2plus1d-18",
        architecture="r2plus1d-18",
        method="CVRL",
        paper="https://arxiv.org/abs/2008.03800",
        clean=0.602,
    ),
)


def _build_kinetics(architecture: str, params: KineticsParams, weights: Path | Mapping[str, Path]) -> nn.Module:
    from robharness_video.networks import build_kinetics

    return build_kinetics(architecture, params.mean_std, weights)


def _build_ucf101(architecture: str, params: Ucf101Params, weights: Path | Mapping[str, Path]) -> nn.Module:
    from robharness_video.networks import build_ucf101

    return build_ucf101(architecture, params.dilation, params.mean_std, weights)


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for name, (file, accuracy) in _TORCHVISION.items():
        yield ModelSpec(
            name=f"{name}-kinetics",
            summary=f"{_TITLES[name]}, supervised on Kinetics-400, torchvision's weights",
            input=_INPUT,
            labels="kinetics-400",
            build=partial(_build_kinetics, name),
            weights=Download(
                url=f"https://download.pytorch.org/models/{file}", sha256=Path(file).stem.rpartition("-")[2]
            ),
            preprocessing=KINETICS,
            params=KineticsParams,
            features=FEATURES,
            expected={"clean": accuracy},
            alternatives={
                "BGR": _order("bgr"),
                "no mean and std": {"mean_std": "none"},
                "antialias": {"preprocessing": {"antialias": True}},
            },
            licence="BSD-3-Clause (torchvision); trained on Kinetics-400, under its terms",
            paper=_PAPER,
        )
    for model in _ON_UCF101:
        yield ModelSpec(
            name=model.name,
            summary=f"{_TITLES[model.architecture]}, {model.method} on UCF101",
            input=_INPUT,
            labels="ucf-101",
            build=partial(_build_ucf101, model.architecture),
            weights=File(path=f"weights/{model.name}-ucf101.pth", origin=model.origin),
            preprocessing=UCF101,
            params=Ucf101Params,
            features=FEATURES,
            expected={} if model.clean is None else {"clean": model.clean},
            alternatives={
                "RGB": _order("rgb"),
                "no dilation": {"dilation": False},
                "RGB, no dilation": {**_order("rgb"), "dilation": False},
                "RGB, mean and std": {**_order("rgb"), "mean_std": "kinetics-400"},
                "RGB, mean and std, no dilation": {**_order("rgb"), "mean_std": "kinetics-400", "dilation": False},
            },
            licence="not stated for the weights; MIT (TCLR's code)",
            paper=model.paper,
        )


def _order(channels: str) -> Mapping[str, Any]:
    return {"preprocessing": {"channel_order": channels}}
