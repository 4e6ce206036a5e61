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
from torchvision.models import ResNet, resnet50

from robharness import UserError, checkpoints, normalized
from robharness.checkpoints import Layout, StateMismatch
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
LAYOUTS = (NESTED, BARE)
_CLASSIFIER = {"fc.weight", "fc.bias"}


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
    contents = [checkpoints.read(file) for file in files]
    with torch.device("meta"):  # no random initial weights: drawing them would advance the global generator
        net = resnet50()
    if len(files) == 1:
        _load(net, files[0], contents[0])
    else:
        _load_parts(net, files, contents)
    return normalized(net, *NORMALIZATIONS[normalization])


def _load(net: nn.Module, file: Path, content: Any) -> None:
    """Load one file with both parts."""
    try:
        checkpoints.load(net, content, LAYOUTS, where=file)
    except StateMismatch as error:
        if set(error.missing) == _CLASSIFIER and not error.shapes and not error.unexpected:
            raise UserError(f"{file} contains no linear classifier, and SwAV's encoder has none. {_HINT}") from None
        raise


def _load_parts(net: ResNet, files: list[Path], contents: list[Any]) -> None:
    """Load two files, each with its part."""
    try:
        states = [_state(file, content) for file, content in zip(files, contents, strict=True)]
    except UserError:
        _raise_remedy(net, files, contents)
        raise
    duplicates = sorted(set(states[0]).intersection(states[1]))
    merged = {name: value for state in states for name, value in state.items()}
    is_whole_encoder = net.state_dict().keys() - merged.keys() <= _CLASSIFIER
    has_classifier = bool(_CLASSIFIER & merged.keys())
    if is_whole_encoder and not has_classifier and merged.keys() <= net.state_dict().keys():
        raise UserError(f"{files[-1]} contains no linear classifier, and SwAV's encoder has none. {_HINT}")
    if duplicates:
        raise UserError(f"{files[0]} and {files[1]} both contain {duplicates[0]}. {_HINT}")
    try:
        checkpoints.load(net, merged, (Layout(name="SwAV"),))
    except StateMismatch as error:
        _raise_remedy(net, files, contents)
        raise UserError(f"{' with '.join(map(str, files))}: {error}") from None


def _raise_remedy(net: ResNet, files: list[Path], contents: list[Any]) -> None:
    """Load each part alone, and raise the error of a part that fits with another choice of its state."""
    parts: list[nn.Module] = [net, nn.ModuleDict({"fc": net.fc})]
    net.fc = nn.Identity()
    for part, file, content in zip(parts, files, contents, strict=True):
        try:
            checkpoints.load(part, content, LAYOUTS, where=file)
        except StateMismatch as error:
            if error.remedies:
                raise
        except UserError:
            continue


def _state(file: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict in a file, with torchvision's names."""
    is_nested = isinstance(content, Mapping) and "state_dict" in content
    try:
        return checkpoints.state(content, NESTED if is_nested else BARE)
    except UserError as error:
        hint = "" if "Try: " in str(error) else f". {_HINT}"
        raise UserError(f"{file} cannot be read as a checkpoint of SwAV: {error}{hint}") from None
