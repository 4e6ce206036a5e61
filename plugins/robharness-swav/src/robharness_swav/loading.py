"""Loading SwAV's two files, the encoder and the linear classifier, into one network.

The network is torchvision's ResNet-50. The publisher pads images by 1 and the first convolution by 2, which equals
torchvision's padding of 3. Source: facebookresearch/swav, src/resnet50.py, eval_linear.py, hubconf.py.
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
from robharness.specs import conventions

NORMALIZATIONS = {"swav": ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)), **conventions.NORMALIZATIONS}
"""Name -> mean and standard deviation per channel. Source of "swav": main_swav.py and eval_linear.py."""

_HINT = (
    "Try: set `weights: {backbone: ./swav_800ep_pretrain.pth.tar, head: ./swav_800ep_eval_linear.pth.tar}` in the suite"
)
_FIELDS: dict[str, Any] = {
    "prefixes": ("module.",),
    "rename": ((r"^linear\.", "fc."),),
    "drop": (r"projection_head\.", r"prototypes\."),
}
NESTED = Layout(name="SwAV with training state", inside=("state_dict",), **_FIELDS)
BARE = Layout(name="SwAV", **_FIELDS)


def load(weights: Any, normalization: str = "swav") -> nn.Module:
    """Build the network that maps (N, 3, H, W) in [0, 1] to logits (N, 1000), with the normalisation inside.

    weights: paths {"backbone": ..., "head": ...}, or one path of a file with both.
    normalization: key of NORMALIZATIONS.
    Raises UserError if the files do not match the network exactly.
    """
    if isinstance(weights, Path):
        files = [weights]
    elif isinstance(weights, Mapping) and set(weights) == {"backbone", "head"}:
        files = [weights["backbone"], weights["head"]]
    else:
        raise UserError(f"SwAV's weights are a backbone and a head, not {', '.join(weights)}. {_HINT}")
    states = [_state(file) for file in files]
    if not any(name.startswith("fc.") for state in states for name in state):
        raise UserError(f"{files[-1]} contains no linear classifier, and SwAV's encoder has none. {_HINT}")
    duplicates = sorted(set(states[0]).intersection(*states[1:])) if len(states) > 1 else []
    if duplicates:
        raise UserError(f"{files[0]} and {files[1]} both contain {duplicates[0]}. {_HINT}")
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        net = resnet50()
    try:
        checkpoints.load(
            net, {name: value for state in states for name, value in state.items()}, (Layout(name="SwAV"),)
        )
    except UserError as error:
        raise UserError(f"{' with '.join(map(str, files))}: {error}") from None
    return normalized(net, *NORMALIZATIONS[normalization])


def _state(file: Path) -> dict[str, Tensor]:
    """Read the state dict of a file, with torchvision's names."""
    content = checkpoints.read(file)
    is_nested = isinstance(content, Mapping) and "state_dict" in content
    try:
        return checkpoints.state(content, NESTED if is_nested else BARE)
    except UserError as error:
        raise UserError(f"{file} is not a checkpoint of SwAV: {error}. {_HINT}") from None
