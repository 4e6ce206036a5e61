"""Normalisation inside a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Compute (x - mean) / std along the channel axis of images, (N, C, H, W), and clips, (N, C, T, H, W).

    mean, std: one number per channel, on the [0, 1] scale.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean {list(mean)} and std {list(std)} need one number per channel, and std above 0")
        if max(mean) > 1:
            raise ValueError(f"mean {list(mean)} is on the scale 0 to 255, and inputs are in [0, 1]; divide it by 255")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.mean):
            raise ValueError(f"axis 1 of {tuple(x.shape)} must hold the {len(self.mean)} channels")
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)


def normalized(net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Return the network with its normalisation in front, so that it takes values in [0, 1].

    mean, std: one number per channel, on the [0, 1] scale.
    """
    return nn.Sequential(Normalize(mean, std), net)
