"""Encoders, which map images or clips in [0, 1] to features and normalise inside, and the classifier on an encoder."""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import video

from robharness import Component, UserError, normalized
from robharness.specs.conventions import NORMALIZATIONS
from robharness_contrastive import components

SMALL_IMAGE = 96
"""Side in pixels below which a ResNet has CIFAR's stem: a 3 x 3 convolution of stride 1, no pooling."""

MEAN_STD = {f"datasets/{name}": NORMALIZATIONS[name] for name in ("cifar-10", "cifar-100")}
"""Means and standard deviations by data set. Other data are not normalised."""


class Encoder(nn.Module):
    """Map inputs (N, *shape) in [0, 1] to features (N, width).

    trunk: the network after normalisation.
    width: of the features.
    mean_std: mean and standard deviation per channel for normalisation; None for no normalisation.
    """

    def __init__(self, trunk: nn.Module, width: int, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> None:
        super().__init__()
        self.normalize = nn.Identity() if mean_std is None else normalized(nn.Identity(), *mean_std)
        self.trunk, self.width = trunk, width

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk(self.normalize(x))
        return features

    def over_time(self, x: Tensor) -> Tensor:
        """Return the features of a video network before it averages over time, (N, width, steps)."""
        steps: Tensor = self.trunk.over_time(self.normalize(x))  # type: ignore[operator]
        return steps


def encoder(network: Component | str, data: str, shape: Sequence[int], *, normalize: bool = True) -> Encoder:
    """Make an encoder of a network.

    network: a component with the role "network", or the name of one of this plugin.
    data: name of the data set, which selects the normalisation.
    shape: of an input, (C, H, W) or (C, T, H, W).
    normalize: whether inputs are normalised, if means and deviations of the data are known.

    Raises UserError for a network that does not take these inputs, or that does not keep its contract.
    """
    component: Component = components.read("network", network)
    kind = "video" if len(shape) == 4 else "image"
    if kind not in component.spec.inputs:
        raise UserError(f"the network {component} does not take {kind}s. Try: robharness list components")
    made = component.build(tuple(shape))
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], nn.Module):
        raise UserError(f"the network {component} returned {type(made).__name__}, not a module and its width")
    (trunk, width), mean_std = made, MEAN_STD.get(data) if normalize else None
    if "/" not in component.name:
        return Encoder(trunk, width, mean_std)
    try:
        net = Encoder(trunk, width, mean_std).eval()
        with torch.no_grad():
            found = tuple(net(torch.zeros(2, *shape)).shape)
    except Exception as error:
        raise UserError(
            f"the network {component} gives no features of inputs {tuple(shape)}: {type(error).__name__}: {error}"
        ) from error
    if found != (2, width):
        raise UserError(
            f"the network {component} declares {width} features and gives {found[1:]} of inputs {tuple(shape)}"
        )
    return net.train()


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Make a projection head of two layers, with the parameter names of SupContrast."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


class BatchNormHead(nn.Module):
    """A projection head of linear layers with a BatchNorm after each and ReLU between them, with ACL's parameter names.

    width: of the features.
    widths: of the layers.
    """

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(widths)
        for number, (before, after) in enumerate(itertools.pairwise((width, *widths)), 1):
            setattr(self, f"fc{number}", nn.Linear(before, after, bias=number == 1))
            setattr(self, f"bn{number}", nn.BatchNorm1d(after))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"fc{number}")(x))
            x = torch.relu(x) if number < self.depth else x
        return x


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode, and afterwards each of their parts in the mode that it had before."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def small(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make a network of three convolutions of stride 2."""
    widths = (shape[0], 32, 64, 128)
    blocks: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _resnet(make: Callable[..., nn.Module], shape: Sequence[int]) -> tuple[nn.Module, int]:
    net: models.ResNet = make(weights=None)
    channels, side = shape[0], min(shape[-2:])
    if side < SMALL_IMAGE:
        net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    _initialise(net)
    width = net.fc.in_features
    net.fc = nn.Identity()
    return net, width


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make torchvision's ResNet-18."""
    return _resnet(models.resnet18, shape)


def resnet50(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make torchvision's ResNet-50."""
    return _resnet(models.resnet50, shape)


# --- networks of videos ----------------------------------------------------------------------------------------------


class OverTime(nn.Module):
    """A video network whose features are means over time and space.

    layers: modules in order, which together map (N, C, T, H, W) to (N, width, steps, h, w).
    """

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(OrderedDict(layers))

    def over_time(self, x: Tensor) -> Tensor:
        steps: Tensor = self.layers(x).mean((3, 4))
        return steps

    def forward(self, x: Tensor) -> Tensor:
        return self.over_time(x).mean(2)


def r2plus1d_narrow(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make an R(2+1)D of three blocks for small clips, with half as many time steps as frames."""
    widths = (8, 16, 32)
    stem: Any = video.resnet.Conv2Plus1D(shape[0], widths[0], widths[0])
    stem[0].stride = (1, 2, 2)
    blocks = {"layer1": _block(widths[0], widths[0], 1), "layer2": _block(widths[0], widths[1], 2)}
    blocks["layer3"] = _keep_steps(_block(widths[1], widths[2], 2))
    net = OverTime(stem=nn.Sequential(*stem, nn.BatchNorm3d(widths[0]), nn.ReLU()), **blocks)
    _initialise(net)
    return net, widths[-1]


def _block(before: int, after: int, stride: int) -> video.resnet.BasicBlock:
    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(nn.Conv3d(before, after, 1, stride=stride, bias=False), nn.BatchNorm3d(after))
    return video.resnet.BasicBlock(before, after, video.resnet.Conv2Plus1D, stride, shortcut)


def _keep_steps(block: Any) -> Any:
    """Replace a block's temporal stride of 2 by a dilation of 2, with the same weights, as in TCLR's last stage."""
    temporal = block.conv1[0][-1]
    for convolution in (temporal, block.downsample[0]):
        convolution.stride = (1, *convolution.stride[1:])
    temporal.dilation, temporal.padding = (2, 1, 1), (2, 0, 0)
    return block


def _r2plus1d_18(*, dilated: bool) -> tuple[nn.Module, int]:
    net = video.r2plus1d_18(weights=None)
    if dilated:
        _keep_steps(net.layer4[0])
    stages = {f"layer{number}": getattr(net, f"layer{number}") for number in range(1, 5)}
    return OverTime(stem=net.stem, **stages), net.fc.in_features


def r2plus1d_18(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make torchvision's R(2+1)D-18."""
    return _r2plus1d_18(dilated=False)


def r2plus1d_18_dilated(options: None, shape: Sequence[int]) -> tuple[nn.Module, int]:
    """Make an R(2+1)D-18 whose last stage keeps its temporal steps, as TCLR's does."""
    return _r2plus1d_18(dilated=True)
