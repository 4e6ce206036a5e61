"""torchvision's video networks with published weights, optionally with TCLR's dilated last stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import grad_scaler
from torch.cuda.amp.grad_scaler import GradScaler
from torchvision.models import video

from robharness import UserError, normalized
from robharness.checkpoints import Layout, load, read
from robharness.specs.conventions import NORMALIZATIONS

ARCHITECTURES = {"r2plus1d-18": video.r2plus1d_18, "r3d-18": video.r3d_18}
MEAN_STD = {
    "none": NORMALIZATIONS["none"],
    "kinetics-400": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # torchvision's VideoClassification
}
CLASSES = 101
OUTPUTS = 102
"""Outputs of TCLR's classifiers, which number classes from 1 like the official list; output 0 is unused."""
WIDTH = 512

State = dict[str, torch.Tensor]


def build_kinetics(architecture: str, mean_std: str, weights: Path | Mapping[str, Path]) -> nn.Module:
    """Build torchvision's network, which maps (N, 3, T, H, W) in [0, 1] to logits (N, 400).

    architecture: "r2plus1d-18" or "r3d-18".
    mean_std: key of MEAN_STD.
    weights: path of a checkpoint.
    Raises UserError if the checkpoint does not match the network exactly.
    """
    if isinstance(weights, Mapping):
        raise UserError(
            f"weights on Kinetics-400 are one file, not {_names(weights)}. Try: set `weights: FILE` in the suite"
        )
    net = _network(architecture, 400)
    load(net, weights, [Layout(name="torchvision", prefixes=("module.",))])
    return normalized(net, *MEAN_STD[mean_std])


def build_ucf101(architecture: str, dilation: bool, mean_std: str, weights: Path | Mapping[str, Path]) -> nn.Module:
    """Build a network for UCF101, which maps (N, 3, T, H, W) in [0, 1] to logits (N, 101), with classes from 0.

    architecture: "r2plus1d-18" or "r3d-18".
    dilation: whether the last stage dilates in time instead of striding.
    mean_std: key of MEAN_STD.
    weights: path of a checkpoint of TCLR's linear_eval, with a classifier of 101 outputs or of 102, whose output 0 is
        dropped; or paths {"backbone": ..., "head": ...}, with a backbone of tclr_pretraining.
    Raises UserError if the checkpoints do not match the network exactly.
    """
    if isinstance(weights, Mapping) and set(weights) != {"backbone", "head"}:
        raise UserError(
            f"weights on UCF101 are one file, or a backbone and its head, not {_names(weights)}. "
            f"Try: set `weights: {{backbone: FILE, head: FILE}}` in the suite"
        )
    main_file = weights["backbone"] if isinstance(weights, Mapping) else weights
    content = read(main_file, _ALLOWED)
    is_full = architecture == "r2plus1d-18" and _has_full_convolution(content)
    if is_full and not dilation:
        raise UserError(
            f"{main_file} has a spatio-temporal convolution at {FULL}, which only TCLR's dilated R(2+1)D has. "
            f"Try: set `dilation: true` in the suite"
        )
    net = _network(architecture, CLASSES)
    if dilation:
        _dilate(net.layer4[0], is_full)
    if isinstance(weights, Mapping):
        _load_parts(net, content, weights)
    else:
        _load_whole(net, content, weights)
    return normalized(net, *MEAN_STD[mean_std])


def _network(architecture: str, classes: int) -> video.VideoResNet:
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        return ARCHITECTURES[architecture](weights=None, num_classes=classes)


FULL = "layer4.0.conv1.0.weight"


def _has_full_convolution(content: Any) -> bool:
    """Return whether R(2+1)D's last stage begins with a 3 x 3 x 3 convolution, as in TCLR's nn_retrieval/model.py."""
    states = [content, *content.values()] if isinstance(content, Mapping) else []
    return any(str(key).endswith(FULL) for state in states if isinstance(state, Mapping) for key in state)


def _dilate(block: Any, is_full: bool) -> None:
    """Replace the temporal stride of 2 by a dilation of 2, with the same weights, as in TCLR's linear_eval/model.py.

    block: first block of the last stage.
    is_full: whether R(2+1)D has R3D's convolution in this block. Otherwise its temporal convolution is changed by
        analogy; no published code does this.
    """
    if is_full:
        block.conv1[0] = nn.Conv3d(WIDTH // 2, WIDTH, 3, stride=2, padding=1, bias=False, device="meta")
    temporal = block.conv1[0] if isinstance(block.conv1[0], nn.Conv3d) else block.conv1[0][-1]
    for convolution in (temporal, block.downsample[0]):
        convolution.stride = (1, *convolution.stride[1:])
    temporal.dilation = (2, *temporal.dilation[1:])
    temporal.padding = (2, *temporal.padding[1:])


def _load_whole(net: nn.Module, content: Any, path: Path) -> None:
    """Load a network with its classifier, as saved by TCLR's linear_eval/train.py."""
    try:
        _load(net, content, path, "classifier", prefixes=("module.",), convert=_drop_output_0)
    except UserError:
        if _is_backbone(net, content, path):
            raise UserError(
                f"{path} contains a backbone without a classifier. "
                f"Try: set `weights: {{backbone: {path}, head: FILE}}` in the suite"
            ) from None
        raise


def _load_parts(net: nn.Module, content: Any, paths: Mapping[str, Path]) -> None:
    """Load a backbone, saved as Sequential(backbone, MLP), and a head. Like TCLR's loader, drop the backbone's `fc`."""
    net.fc = nn.Identity()
    _load(net, content, paths["backbone"], "backbone and MLP", prefixes=("module.", "0."), drop=(r"1\.", r"fc\."))
    net.fc = nn.Linear(WIDTH, CLASSES, device="meta")
    head, prefixes = read(paths["head"]), ("module.", "fc.", "linear.")
    _load(net.fc, head, paths["head"], "head", prefixes=prefixes, convert=_drop_output_0)


def _is_backbone(net: nn.Module, content: Any, path: Path) -> bool:
    """Return whether the content is a backbone of the network without a classifier."""
    net.fc = nn.Identity()
    try:
        _load(net, content, path, "backbone and MLP", prefixes=("module.", "0."), drop=(r"1\.",))
    except UserError:
        return False
    return True


def _load(net: nn.Module, content: Any, path: Path, name: str, **rules: Any) -> None:
    """Load a state dict, directly or under the key "state_dict" or "bb_state_dict", as TCLR's scripts save it.

    name, rules: fields of the layout.
    """
    keys = [key for key in ("state_dict", "bb_state_dict") if isinstance(content, Mapping) and key in content]
    load(net, content, [Layout(name=name, inside=tuple(keys[:1]), **rules)], where=path)


def _drop_output_0(state: State) -> State:
    """Return the state dict without output 0 of a classifier that numbers classes from 1."""
    heads = ("fc.weight", "fc.bias", "weight", "bias")
    return {name: value[1:] if name in heads and len(value) == OUTPUTS else value for name, value in state.items()}


_REFRESH = grad_scaler._refresh_per_optimizer_state
# tclr_pretraining saves its gradient scaler with the weights.
_ALLOWED = (
    GradScaler,
    torch.amp.GradScaler,
    defaultdict,
    _REFRESH,
    (_REFRESH, "torch.cuda.amp.grad_scaler._refresh_per_optimizer_state"),
)


def _names(weights: Mapping[str, Path]) -> str:
    return ", ".join(sorted(weights)) or "none"
