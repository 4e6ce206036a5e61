"""SwAV's two files, of the encoder and of the linear classifier, into one network.

The publisher pads pictures by 1 and lets the first convolution pad by 2, which is torchvision's padding of 3; all else
is torchvision's ResNet-50. Source: facebookresearch/swav, src/resnet50.py, eval_linear.py, hubconf.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from robharness import UserError, checkpoints, normalized
from robharness.checkpoints import Layout

NORMALIZATIONS = {
    "swav": ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation. SwAV's are those of its main_swav.py and eval_linear.py."""

_WRITE = "Write: weights: {backbone: ./swav_800ep_pretrain.pth.tar, head: ./swav_800ep_eval_linear.pth.tar}"
_FIELDS: dict[str, Any] = {
    "prefixes": ("module.",),
    "rename": ((r"^linear\.", "fc."),),
    "drop": (r"projection_head\.", r"prototypes\."),
}
NESTED = Layout(name="SwAV, with its training", inside=("state_dict",), **_FIELDS)
BARE = Layout(name="SwAV", **_FIELDS)


def load(weights: Any, normalization: str = "swav") -> nn.Module:
    """(N, 3, H, W) in [0, 1] -> logits (N, 1000); mean and standard deviation inside.

    weights: the paths of "backbone" and "head", or one path of a file with both. Raises UserError where they do not
    fit to the letter.
    """
    if isinstance(weights, Path):
        files = [weights]
    elif isinstance(weights, Mapping) and set(weights) == {"backbone", "head"}:
        files = [weights["backbone"], weights["head"]]
    else:
        raise UserError(f"SwAV's weights are a backbone and a head, not {', '.join(weights)}. {_WRITE}")
    states = [_state(file) for file in files]
    if not any(name.startswith("fc.") for state in states for name in state):
        raise UserError(f"{files[-1]} holds no linear classifier, and the encoder has none of its own. {_WRITE}")
    twice = sorted(set(states[0]).intersection(*states[1:])) if len(states) > 1 else []
    if twice:
        raise UserError(f"{files[0]} and {files[1]} both hold {twice[0]}, and more. {_WRITE}")
    with torch.device("meta"):  # no initial weights: they would draw from the global generator, to be overwritten
        net = resnet50()
    try:
        checkpoints.load(
            net, {name: value for state in states for name, value in state.items()}, (Layout(name="SwAV"),)
        )
    except UserError as error:
        raise UserError(f"{' with '.join(map(str, files))}: {error}") from None
    return normalized(net, *NORMALIZATIONS[normalization])


def _state(file: Path) -> dict[str, Tensor]:
    content = checkpoints.read(file)
    is_nested = isinstance(content, Mapping) and "state_dict" in content
    try:
        return checkpoints.state(content, NESTED if is_nested else BARE)
    except UserError as error:
        raise UserError(f"{file} is none of SwAV's files: {error}. {_WRITE}") from None
