"""A plugin for tests: grey squares with ImageNet's labels, two networks, and the 15 corruptions of the mCE by name."""

import torch
from torch import nn

from robharness import CorruptionSpec, DatasetSpec, InputSpec, ModelSpec, hookimpl

NAMES = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip


class Squares:
    """60 squares, darker than 128 in class 0 and lighter in class 1."""

    ids = tuple(f"{number:02}" for number in range(60))
    labels = tuple(number % 2 for number in range(60))

    def read(self, index):
        import numpy as np

        grey = 128 + (8 + index) * (1 if self.labels[index] else -1)
        return np.full((224, 224, 1), grey, np.uint8)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="squares", summary="Grey squares", labels="imagenet-1k", splits=("test",),
                      open=lambda root, split: Squares())  # fmt: skip
    yield DatasetSpec(name="others", summary="The same", labels="greys", splits=("test",),
                      open=lambda root, split: Squares())  # fmt: skip


class Threshold(nn.Module):
    """Light or dark, by the mean: at a half, or where it is biased."""

    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x):
        light = x.mean((1, 2, 3)) - 0.5 - self.bias
        return torch.stack([-light, light], 1)


@hookimpl
def robharness_models():
    for name, bias, labels in (("even", 0.0, "imagenet-1k"), ("biased", 0.06, "imagenet-1k"), ("other", 0.0, "greys")):
        yield ModelSpec(name=name, summary="A threshold", input=InputSpec(shape=(1, 224, 224)), labels=labels,
                        build=lambda params, weights, bias=bias: Threshold(bias))  # fmt: skip


class Shift:
    """Lighter or darker by chance, the more the severer."""

    def __init__(self, size):
        self.size = size

    def perturb(self, model, batch, severity, rng):
        draws = rng.normal("shift", (1, 1, 1)) * self.size * severity
        return (batch.canvas.double() + draws).round().clamp(0, 255).to(torch.uint8)


@hookimpl
def robharness_corruptions():
    for place, name in enumerate(NAMES):
        yield CorruptionSpec(name=name, summary="Lighter or darker", group=f"group {place % 3}",
                             build=lambda params, place=place: Shift(4 + place))  # fmt: skip
    yield CorruptionSpec(name="spatter", summary="No part of the table", group="group 0",
                         build=lambda params: Shift(30))  # fmt: skip
