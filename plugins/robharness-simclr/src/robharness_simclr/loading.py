"""Loading SimCLR checkpoints: the converted files of v1 and v2, and TensorFlow's original files."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robharness import UserError, checkpoints
from robharness.checkpoints import Layout
from robharness_simclr import bundle
from robharness_simclr.networks import ResNet

_BLOCK = r"(layer\d\.\d+)\."
LAYOUTS = (
    Layout(name="simclr-converter", inside=("state_dict",), prefixes=("module.",)),
    Layout(name="torchvision", prefixes=("module.",)),
    Layout(
        name="SimCLRv2-Pytorch",
        inside=("resnet",),
        rename=(
            (r"^net\.0\.0\.", "conv1."),
            (r"^net\.0\.1\.0\.", "bn1."),
            (r"^net\.(\d)\.blocks\.", r"layer\1."),
            (_BLOCK + r"projection\.shortcut\.", r"\1.downsample.0."),
            (_BLOCK + r"projection\.bn\.0\.", r"\1.downsample.1."),
            (_BLOCK + r"net\.0\.", r"\1.conv1."),
            (_BLOCK + r"net\.1\.0\.", r"\1.bn1."),
            (_BLOCK + r"net\.2\.", r"\1.conv2."),
            (_BLOCK + r"net\.3\.0\.", r"\1.bn2."),
            (_BLOCK + r"net\.4\.", r"\1.conv3."),
            (_BLOCK + r"net\.5\.0\.", r"\1.bn3."),
        ),
    ),
    Layout(
        name="SimCLRv2-Pytorch, selective kernels",
        inside=("resnet",),
        rename=(
            (r"^net\.0\.0\.", "conv1.0."),
            (r"^net\.0\.1\.0\.", "conv1.1."),
            (r"^net\.0\.2\.", "conv1.3."),
            (r"^net\.0\.3\.0\.", "conv1.4."),
            (r"^net\.0\.4\.", "conv1.6."),
            (r"^net\.0\.5\.0\.", "bn1."),
            (r"^net\.(\d)\.blocks\.", r"layer\1."),
            (_BLOCK + r"projection\.shortcut\.2\.", r"\1.downsample.1."),
            (_BLOCK + r"projection\.bn\.0\.", r"\1.downsample.2."),
            (_BLOCK + r"net\.0\.", r"\1.conv1."),
            (_BLOCK + r"net\.1\.0\.", r"\1.bn1."),
            (_BLOCK + r"net\.2\.main_conv\.0\.", r"\1.conv2.conv."),
            (_BLOCK + r"net\.2\.main_conv\.1\.0\.", r"\1.conv2.bn."),
            (_BLOCK + r"net\.2\.mixing_conv\.0\.", r"\1.conv2.mix.0."),
            (_BLOCK + r"net\.2\.mixing_conv\.1\.0\.", r"\1.conv2.mix.1."),
            (_BLOCK + r"net\.2\.mixing_conv\.2\.", r"\1.conv2.mix.3."),
            (_BLOCK + r"net\.3\.", r"\1.conv3."),
            (_BLOCK + r"net\.4\.0\.", r"\1.bn3."),
        ),
    ),
)
"""Layouts of the converted files. In a block, `net.N.` is a convolution, `net.N.0.` a BatchNorm before a ReLU."""

_ENCODER = re.compile(r"base_model/(conv2d|batch_normalization)(?:_(\d+))?/(\w+)")
_HEAD = "head_supervised/linear_layer/dense/"
_VARIABLES = rf"{_ENCODER.pattern}|{_HEAD}(kernel|bias)"
_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
          "moving_variance": "running_var"}  # fmt: skip


class LostBias(UserWarning):
    """Warning that the classifier's bias in a file looks like PyTorch's random initial bias."""


def load(build: Callable[[], ResNet], weights: Any, *, bias: str = "keep") -> ResNet:
    """Build a network and load its weights.

    build: constructs the network.
    weights: path of a converted checkpoint, or of TensorFlow's checkpoint as .index or .zip.
    bias: "zero" sets the classifier's bias to 0; "keep" warns with LostBias if the bias looks random.
    Raises UserError if the checkpoint does not match the network exactly.
    """
    if not isinstance(weights, Path):
        raise UserError(
            f"SimCLR's weights are one file, not several ({', '.join(weights)}). "
            f"Try: set `weights: ./FILE` in the suite"
        )
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        net = build()
    if weights.suffix in (".index", ".zip"):
        found = _in_order(net, bundle.read(weights, _VARIABLES))
        _with_path(weights, lambda: checkpoints.load(net, found, (Layout(name="SimCLR's TensorFlow checkpoint"),)))
    else:
        checkpoints.load(net, weights, LAYOUTS)
    if bias == "zero":
        nn.init.zeros_(net.fc.bias)
    elif looks_lost(net.fc):
        warnings.warn(
            f"{weights}: the classifier's bias looks like PyTorch's random initial bias; the conversion lost the "
            f"trained one. Try: compare with `bias: zero`, or with TensorFlow's original checkpoint as `weights`",
            LostBias,
            stacklevel=2,
        )
    return net


def looks_lost(layer: nn.Linear) -> bool:
    """Return whether a bias looks like the initial bias of `nn.Linear`.

    The initial bias is uniform within 1/sqrt(inputs), 0.0221 for ResNet-50. The largest of 1,000 such numbers is below
    0.98 of the bound with probability 1 / (5 * 10^8).
    """
    share = layer.bias.detach().double() * math.sqrt(layer.in_features)
    largest, spread = float(share.abs().max()), float(share.square().mean()) * 3
    return 0.98 < largest <= 1 + 1e-6 and 0.8 < spread < 1.2


def _in_order(net: nn.Module, variables: Any) -> dict[str, Tensor]:
    """Rename TensorFlow's variables to the network's names; variables without a counterpart keep their names."""
    kinds: dict[str, Any] = {"conv2d": nn.Conv2d, "batch_normalization": nn.BatchNorm2d}
    names = {
        kind: [name for name, layer in net.named_modules() if isinstance(layer, cls)] for kind, cls in kinds.items()
    }
    found = {}
    for name, values in variables.items():
        value = torch.from_numpy(values.copy())
        if match := _ENCODER.fullmatch(name):
            kind, number, part = match.groups()
            layers = names[kind]
            index = int(number or 0)
            key = f"{layers[index]}.{_PARTS[part]}" if index < len(layers) and part in _PARTS else name
            found[key] = value.permute(3, 2, 0, 1) if kind == "conv2d" and value.ndim == 4 else value
        else:
            part = name.removeprefix(_HEAD)
            found[f"fc.{_PARTS.get(part, part)}"] = value.t() if part == "kernel" else value
    return found


def _with_path(path: Path, load: Callable[[], object]) -> None:
    """Call `load` and add the path to the message of a UserError."""
    try:
        load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
