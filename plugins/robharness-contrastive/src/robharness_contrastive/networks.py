"""Encoders: pictures in [0, 1] to features, normalisation inside; and the classifier that attacks see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision import models

from robharness import UserError, normalized

SMALL_PICTURE = 96
"""Pixels a side below which a ResNet begins as CIFAR's do: a 3 x 3 convolution of stride 1, no pooling."""

MEAN_STD: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "datasets/cifar-10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "datasets/cifar-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""SupContrast's. Other data are taken as they are."""


class Encoder(nn.Module):
    """(N, *shape) in [0, 1] -> features (N, width). mean_std: what inputs are normalised with, or None."""

    def __init__(self, trunk: nn.Module, width: int, mean_std: tuple[Sequence[float], Sequence[float]] | None) -> None:
        super().__init__()
        self.normalize = nn.Identity() if mean_std is None else normalized(nn.Identity(), *mean_std)
        self.trunk, self.width = trunk, width

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk(self.normalize(x))
        return features


class Classifier(nn.Module):
    """An encoder and a linear classifier on its features, which `features` passes through for whoever listens there."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.features, self.head = encoder, nn.Identity(), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(self.encoder(x)))
        return logits


def encoder(network: str, data: str, shape: Sequence[int]) -> Encoder:
    """A network of this name for inputs of this shape, (C, H, W). Raises UserError for a name that is not known."""
    if network not in NETWORKS:
        raise UserError(f"there is no network '{network}'; there are {', '.join(NETWORKS)}")
    trunk, width = NETWORKS[network](shape)
    return Encoder(trunk, width, MEAN_STD.get(data))


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """A projection head of two layers; its keys are those of SupContrast's."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def _small(shape: Sequence[int]) -> tuple[nn.Module, int]:
    widths = (shape[0], 32, 64, 128)
    blocks: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _resnet(make: Callable[..., nn.Module], shape: Sequence[int]) -> tuple[nn.Module, int]:
    net: models.ResNet = make(weights=None)
    channels, side = shape[0], min(shape[-2:])
    if side < SMALL_PICTURE:
        net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    width = net.fc.in_features
    net.fc = nn.Identity()
    return net, width


NETWORKS: dict[str, Callable[[Sequence[int]], tuple[nn.Module, int]]] = {
    "small": _small,
    "resnet18": lambda shape: _resnet(models.resnet18, shape),
    "resnet50": lambda shape: _resnet(models.resnet50, shape),
}
