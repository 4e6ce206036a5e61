"""R(2+1)D-18 and R3D-18: torchvision's on Kinetics-400, and supervised, TCLR and CVRL on UCF101.

What is known of the weights on UCF101 comes from TCLR's public code, DAVEISHAN/TCLR at 850efa9: its README says that
all of its models take BGR frames, and its supervised baseline has the same loader and the same network. The paper's own
files are to be had from TCLR's authors (its appendix B.4), and nothing says that they were made in another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robharness import Clips, Download, File, InputSpec, ModelSpec, Preprocessing, hookimpl

if TYPE_CHECKING:
    from torch import nn

SIDE = 112
FRAMES = 16
_INPUT = InputSpec(kind="video", shape=(3, FRAMES, SIDE, SIDE))
FEATURES = "1.avgpool"
"""The average over time and space, 512 numbers; "0" is the normalisation."""

KINETICS = Preprocessing(
    resize=(128, 171),
    crop=SIDE,
    antialias=False,
    clips=Clips(length=FRAMES, stride=2, count=5),
)
"""Of torchvision's weights and its reference for videos: 15 frames a second are every second one of 30."""

UCF101 = Preprocessing(
    first="crop",
    crop=192,  # int(0.8 * 240), the central part of frames of 240 x 320
    resize=(SIDE, SIDE),
    channel_order="bgr",
    clips=Clips(length=FRAMES, stride=2, margin=10),
)
"""TCLR's test: linear_eval/dl_linear.py, by PIL. Published accuracies take 10 clips, which a suite may ask for; one is
ten times cheaper to attack."""

MeanStd = Literal["none", "kinetics-400"]


@dataclass(frozen=True, kw_only=True)
class KineticsParams:
    """mean_std: what is subtracted and divided by, of red, green and blue."""

    mean_std: MeanStd = "kinetics-400"


@dataclass(frozen=True, kw_only=True)
class Ucf101Params:
    """dilation: the last stage keeps all its frames, as TCLR's does; weights fit both ways, so only accuracy tells.

    mean_std: as of `KineticsParams`; TCLR uses none.
    """

    dilation: bool = True
    mean_std: MeanStd = "none"


_TITLES = {"r2plus1d-18": "R(2+1)D-18", "r3d-18": "R3D-18"}
_PAPER = "https://arxiv.org/abs/1711.11248"
# url's last part (its end is the first digits of the sha256), published top-1 accuracy: the enums of
# torchvision.models.video, as of 0.29.
_TORCHVISION = {
    "r2plus1d-18": ("r2plus1d_18-91a641e6.pth", 0.67463),
    "r3d-18": ("r3d_18-b3b3357e.pth", 0.632),
}
_TCLR = "https://github.com/DAVEISHAN/TCLR"
_ASK = f"ask the authors of TCLR, who made it for the paper ({_TCLR}), and put their file there"
_DRIVE = "https://drive.google.com/file/d/1wGr6KsC4TcRweAGOFwmOYBPeZe0oGV7r/view"
_TRAIN = "python train.py --run_id=ucf101"


@dataclass(frozen=True, kw_only=True)
class _OnUcf101:
    """name: of the model, and of its file. clean: published accuracy, if any. get: the file."""

    name: str
    architecture: str
    method: str
    paper: str
    clean: float | None = None
    get: str = _ASK


# clean: Table 2 of the paper; of R3D-18, the linear evaluation in TCLR's README.
_ON_UCF101 = (
    _OnUcf101(name="r2plus1d-18", architecture="r2plus1d-18", method="supervised", paper=_PAPER, clean=0.594),
    _OnUcf101(
        name="r3d-18",
        architecture="r3d-18",
        method="supervised",
        paper=_PAPER,
        get=f"clone {_TCLR} and type, in linear_eval: {_TRAIN}",
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
        get=f"get the backbone from {_DRIVE}, clone {_TCLR} and type, in linear_eval: {_TRAIN} --linear "
        "--saved_model=FILE",
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
            licence="BSD-3-Clause (torchvision); trained on Kinetics-400, whose terms apply",
            paper=_PAPER,
        )
    for model in _ON_UCF101:
        yield ModelSpec(
            name=model.name,
            summary=f"{_TITLES[model.architecture]}, {model.method} on UCF101",
            input=_INPUT,
            labels="ucf-101",
            build=partial(_build_ucf101, model.architecture),
            weights=File(path=f"weights/{model.name}-ucf101.pth", get=model.get),
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
