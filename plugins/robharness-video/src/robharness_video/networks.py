"""torchvision's video networks filled with published checkpoints, TCLR's dilated last stage included."""

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

ARCHITECTURES = {"r2plus1d-18": video.r2plus1d_18, "r3d-18": video.r3d_18}
MEAN_STD = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "kinetics-400": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # torchvision's VideoClassification
}
CLASSES = 101
OUTPUTS = 102
"""Of TCLR's classifiers: they count classes from 1, as the official list does, and leave output 0 unused."""
WIDTH = 512

State = dict[str, torch.Tensor]


def build_kinetics(architecture: str, mean_std: str, weights: Path | Mapping[str, Path]) -> nn.Module:
    """torchvision's network of 400 classes: (N, 3, T, H, W) in [0, 1] -> logits (N, 400).

    Raises UserError where the file does not fit it to the letter.
    """
    if isinstance(weights, Mapping):
        raise UserError(f"weights of Kinetics are one file, not {_names(weights)}. Write: weights: FILE")
    net = _network(architecture, 400)
    load(net, weights, [Layout(name="torchvision", prefixes=("module.",))])
    return normalized(net, *MEAN_STD[mean_std])


def build_ucf101(architecture: str, dilation: bool, mean_std: str, weights: Path | Mapping[str, Path]) -> nn.Module:
    """A network of the 101 classes of UCF101, counted from 0: (N, 3, T, H, W) in [0, 1] -> logits (N, 101).

    weights: one file with a classifier of 102 outputs (of which 0 is left out) or 101, as TCLR's linear_eval writes it;
    or a "backbone", as tclr_pretraining writes it, and its "head". Raises UserError where they do not fit to the
    letter.
    """
    if isinstance(weights, Mapping) and set(weights) != {"backbone", "head"}:
        raise UserError(
            f"weights on UCF101 are one file, or a backbone and its head, not {_names(weights)}. "
            f"Write: weights: {{backbone: FILE, head: FILE}}"
        )
    of_network = weights["backbone"] if isinstance(weights, Mapping) else weights
    content = read(of_network, _ALLOWED)
    is_full = architecture == "r2plus1d-18" and _has_full_convolution(content)
    if is_full and not dilation:
        raise UserError(
            f"{of_network} has one convolution through space and time at {FULL}, as only TCLR's dilated R(2+1)D has. "
            f"Write: dilation: true"
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
    with torch.device("meta"):  # no initial weights: they would draw from the global generator, to be overwritten
        return ARCHITECTURES[architecture](weights=None, num_classes=classes)


FULL = "layer4.0.conv1.0.weight"


def _has_full_convolution(content: Any) -> bool:
    """Whether R(2+1)D's last stage begins with a convolution of 3 x 3 x 3, as in TCLR's nn_retrieval/model.py."""
    states = [content, *content.values()] if isinstance(content, Mapping) else []
    return any(str(key).endswith(FULL) for state in states if isinstance(state, Mapping) for key in state)


def _dilate(block: Any, is_full: bool) -> None:
    """Steps of 2 through time become a dilation of 2, with the same weights: TCLR's linear_eval/model.py.

    is_full: R(2+1)D with the convolution of R3D in this place. Without it, R(2+1)D is changed by analogy, in the half
    of its convolution that goes through time; no published code does this.
    """
    if is_full:
        block.conv1[0] = nn.Conv3d(WIDTH // 2, WIDTH, 3, stride=2, padding=1, bias=False, device="meta")
    through_time = block.conv1[0] if isinstance(block.conv1[0], nn.Conv3d) else block.conv1[0][-1]
    for convolution in (through_time, block.downsample[0]):
        convolution.stride = (1, *convolution.stride[1:])
    through_time.dilation = (2, *through_time.dilation[1:])
    through_time.padding = (2, *through_time.padding[1:])


def _load_whole(net: nn.Module, content: Any, path: Path) -> None:
    """As TCLR's linear_eval/train.py saves a network with its classifier."""
    try:
        _load(net, content, path, "classifier", prefixes=("module.",), convert=_from_0)
    except UserError:
        if _is_backbone(net, content, path):
            raise UserError(
                f"{path} holds a backbone without its classifier. Write: weights: {{backbone: {path}, head: FILE}}"
            ) from None
        raise


def _load_parts(net: nn.Module, content: Any, paths: Mapping[str, Path]) -> None:
    """As pre-training saves Sequential(backbone, MLP); of the backbone TCLR's loader takes no `fc`, either."""
    net.fc = nn.Identity()
    _load(net, content, paths["backbone"], "backbone and MLP", prefixes=("module.", "0."), drop=(r"1\.", r"fc\."))
    net.fc = nn.Linear(WIDTH, CLASSES, device="meta")
    head, prefixes = read(paths["head"]), ("module.", "fc.", "linear.")
    _load(net.fc, head, paths["head"], "head", prefixes=prefixes, convert=_from_0)


def _is_backbone(net: nn.Module, content: Any, path: Path) -> bool:
    net.fc = nn.Identity()
    try:
        _load(net, content, path, "backbone and MLP", prefixes=("module.", "0."), drop=(r"1\.",))
    except UserError:
        return False
    return True


def _load(net: nn.Module, content: Any, path: Path, name: str, **rules: Any) -> None:
    """TCLR's scripts save {"epoch", "state_dict", "optimizer", ...} and read "bb_state_dict", too."""
    keys = [key for key in ("state_dict", "bb_state_dict") if isinstance(content, Mapping) and key in content]
    try:
        load(net, content, [Layout(name=name, inside=tuple(keys[:1]), **rules)])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_0(state: State) -> State:
    """The state without output 0 of a classifier that counts from 1."""
    heads = ("fc.weight", "fc.bias", "weight", "bias")
    return {name: value[1:] if name in heads and len(value) == OUTPUTS else value for name, value in state.items()}


_REFRESH = grad_scaler._refresh_per_optimizer_state
# tclr_pretraining saves its gradient scaler beside the weights.
_ALLOWED = (
    GradScaler,
    torch.amp.GradScaler,
    defaultdict,
    _REFRESH,
    (_REFRESH, "torch.cuda.amp.grad_scaler._refresh_per_optimizer_state"),
)


def _names(weights: Mapping[str, Path]) -> str:
    return ", ".join(sorted(weights)) or "none"
