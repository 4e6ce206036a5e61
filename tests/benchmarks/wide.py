"""A plugin for the benchmarks: as many examples as it takes, and a network that costs next to nothing."""

from dataclasses import dataclass

import numpy as np

from robharness import DatasetSpec, InputSpec, ModelSpec, hookimpl


class Noise:
    def __init__(self, count):
        self.ids = [f"val/{index:08}.jpg" for index in range(count)]
        self.labels = [index % 10 for index in range(count)]

    def read(self, index):
        return np.random.default_rng(index).integers(0, 256, (224, 224, 3), np.uint8)


@hookimpl
def robharness_datasets():
    for name, count in (("noise", 6_000), ("many", 50_000)):
        yield DatasetSpec(name=name, summary=f"{count} pictures of noise", labels="ten", splits=("all",),
                          open=lambda root, split, count=count: Noise(count))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Which:
    """revision: makes models that differ in nothing else."""

    revision: int = 0


def build(params, weights):
    import torch
    from torch import nn

    net = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(147, 10))
    with torch.no_grad():
        net[2].weight.copy_(torch.linspace(-1, 1, 1470).view(10, 147).cos())
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(name="small", summary="A linear layer", input=InputSpec(shape=(3, 224, 224)), labels="ten",
                    build=build, params=Which)  # fmt: skip
