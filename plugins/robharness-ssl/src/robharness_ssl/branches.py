"""Loading of encoders of adversarial contrastive training, whose layers may have a BatchNorm per branch of training.

A state of the wrong branch, or of the wrong encoder in a file of two, has the same shapes. Therefore the keys are
checked before they are renamed, and nothing but the options chooses.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from robharness import UserError, checkpoints, normalized
from robharness.checkpoints import Layout
from robharness_ssl import adversarial, loading

_ENCODERS = ("encoder_q.", "encoder_k.")
"""DynACL's prefixes: of the encoder that is trained by gradients, and of the momentum encoder."""
_NUMBER = re.compile(r"\.bn_list\.(\d+)\.")


class ResNet18(resnet.ResNet):  # type: ignore[misc]
    """torchvision's ResNet-18 with CIFAR's stem: a 3 x 3 convolution of stride 1, no pooling, and no classifier.

    padding: of the first convolution.
    is_normalized: whether inputs are normalised by the buffers `normalize.mean` and `normalize.std`.
    """

    def __init__(self, *, padding: int, is_normalized: bool) -> None:
        super().__init__(resnet.BasicBlock, [2, 2, 2, 2])
        self.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
        self.maxpool, self.fc = nn.Identity(), nn.Identity()
        self.normalize = cast(Any, normalized(nn.Identity(), (0, 0, 0), (1, 1, 1)))[0] if is_normalized else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) in [0, 1] to features (N, 512)."""
        return cast(Tensor, super().forward(x if self.normalize is None else self.normalize(x)))


def encoder(entry: adversarial.Encoder, params: Any, weights: Any) -> nn.Module:
    """Build an encoder that maps (N, 3, 32, 32) in [0, 1] to features (N, 512).

    params: the options: `branch`, `momentum` and `padding`, as far as the encoder has them.
    weights: path of a file of the publisher's code.
    Raises UserError if the file does not match the network exactly, if it lacks the chosen branch or encoder, and if
    the BatchNorms of the branch were never trained: features of such a branch are of no use for any measurement.
    """
    file = loading.one_file(entry.name, weights)
    content = checkpoints.read(file, loading.ALLOWED)
    prefix, drop = entry.prefix, entry.drop
    if isinstance(params, adversarial.MomentumBranch):
        prefix, other = _ENCODERS[params.momentum], _ENCODERS[not params.momentum]
        drop = (*drop, re.escape(other))
    found = _keys(content, entry)
    branch = getattr(params, "branch", "")
    if found:
        _require_encoder(found, entry, params, file)
        own = [key.removeprefix(prefix) for key in found if not key.startswith(_ENCODERS) or key.startswith(prefix)]
        _require_branch(own, entry, branch, file)
    rename = entry.rename
    if entry.branches:
        rename = ((rf"\.bn_list\.{entry.branches[branch]}\.", "."), *rename)
        others = "|".join(str(number) for name, number in entry.branches.items() if name != branch)
        drop = (*drop, rf".*\.bn_list\.(?:{others})\.")
    layouts = [
        Layout(
            name=".".join(inside) or "a bare state",
            inside=inside,
            prefixes=("module.", *([prefix] if prefix else [])),
            rename=rename,
            drop=drop,
        )
        for inside in entry.inside
    ]
    with torch.device("meta"):
        net = ResNet18(padding=getattr(params, "padding", 1), is_normalized=entry.is_normalized)
    checkpoints.load(net, content, layouts, loading.ALLOWED, where=file)
    _require_trained(net, entry, branch, file)
    return net


def _keys(content: Any, entry: adversarial.Encoder) -> list[str]:
    """Return the keys of the state without DataParallel's prefix; none if there is no state, as loading will say."""
    for inside in entry.inside:
        try:
            return list(checkpoints.state(content, Layout(name=entry.name, inside=inside, prefixes=("module.",))))
        except UserError:
            continue
    return []


def _require_encoder(found: Collection[str], entry: adversarial.Encoder, params: Any, file: Path) -> None:
    """Raise UserError if the file has no encoder of the wanted prefix."""
    if entry.prefix and not any(key.startswith(entry.prefix) for key in found):
        raise UserError(
            f"{file} has no keys that begin with `{entry.prefix}`, which {entry.publisher}'s encoder has. "
            f"Try: leave `strip` out of the suite, or read another publisher's file by its own model, "
            f"robharness list models"
        )
    if not isinstance(params, adversarial.MomentumBranch):
        return
    present = {prefix for prefix in _ENCODERS if any(key.startswith(prefix) for key in found)}
    if present and _ENCODERS[params.momentum] not in present:
        raise UserError(
            f"{file} has `{min(present)}` alone, and `momentum: {_text(params.momentum)}` takes "
            f"`{_ENCODERS[params.momentum]}`. Try: set `momentum: {_text(not params.momentum)}` in the suite"
        )
    if not present and not params.momentum:
        raise UserError(
            f"{file} has one encoder, without the prefixes `encoder_q.` and `encoder_k.`, as {entry.publisher} writes "
            f"its momentum encoder alone. Try: leave `momentum: false` out of the suite"
        )


def _require_branch(own: Collection[str], entry: adversarial.Encoder, branch: str, file: Path) -> None:
    """Raise UserError if the number of BatchNorms per layer is another one, or if those of the branch are not there.

    own: keys of the encoder as in the file.
    """
    numbers = {int(match[1]) for key in own if (match := _NUMBER.search(key)) and not key.startswith("fc.")}
    if not entry.branches and numbers:
        is_advcl = any(key.startswith("fc_002.") for key in own)
        model = "ssl/advcl-resnet18" if is_advcl else "ssl/acl-resnet18"
        lists = ", ".join(f"bn_list.{number}" for number in sorted(numbers))
        raise UserError(
            f"{file} has several BatchNorms per layer ({lists}), and {entry.publisher}'s encoder has one. "
            f"Try: `model: {model}` in the suite, whose option `branch: adversarial` or `branch: clean` chooses"
        )
    is_single = not numbers and any(key.endswith("bn1.weight") for key in own)
    if entry.branches and (is_single or "fc.weight" in own):
        fact = "one BatchNorm per layer" if is_single else "a classifier of one layer, `fc`"
        raise UserError(
            f"{file} has {fact}, as {entry.publisher}'s fine-tuned networks, and ssl/{entry.name} reads pre-trained "
            f"encoders, which have a BatchNorm per branch and no classifier. Try: {entry.finetuned} in the suite"
        )
    if entry.branches and numbers and entry.branches[branch] not in numbers:
        names = [name for name, number in entry.branches.items() if number in numbers]
        options = " or ".join(f"`branch: {name}`" for name in names) or "`robharness list models`"
        raise UserError(
            f"{file} has no BatchNorms of the branch '{branch}' (bn_list.{entry.branches[branch]}). "
            f"Try: set {options} in the suite"
        )


def _require_trained(net: nn.Module, entry: adversarial.Encoder, branch: str, file: Path) -> None:
    """Raise UserError if a BatchNorm has the statistics that it is made with."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            mean, var = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)
            if not mean.any() and bool((var == 1).all()):
                others = " or ".join(f"`branch: {each}`" for each in entry.branches if each != branch)
                which = f"the branch '{branch}' in {file} was" if branch else f"{file} was"
                raise UserError(
                    f"{which} never trained: the running mean of {name} is 0 and its variance 1, as in a new network. "
                    f"Try: {f'set {others} in the suite' if others else 'give the file of a trained encoder'}"
                )


def _text(value: bool) -> str:
    return str(value).lower()
