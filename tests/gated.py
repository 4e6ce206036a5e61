"""A plugin for the tests of the gate, loaded with `-p`: a network whose only weight matters under one corruption.

Images are 8 x 8 with one grey level on the left and one on the right, whose mean is 100 in every image. The class is
the brighter side. The weight multiplies the distance of an image's mean from 100.
"""

import json
import os
from dataclasses import dataclass

import numpy as np

from robharness import (
    AttackSpec,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    File,
    InputSpec,
    ModelSpec,
    ThreatModel,
    hookimpl,
)

EXAMPLES, SIDE, MEAN = 200, 8, 100


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No options."""


@dataclass(frozen=True, kw_only=True)
class DimParams:
    steps: int = 1


class Halves:
    """$GATED_DATA: a letter that ids begin with. $GATED_WRONG: a number k, every k-th label is the other one."""

    def __init__(self):
        prefix = os.environ.get("GATED_DATA", "h")
        self.ids = [f"{prefix}-{number:03}" for number in range(EXAMPLES)]
        self.labels = [number % 2 for number in range(EXAMPLES)]
        if "GATED_WRONG" in os.environ:
            every = int(os.environ["GATED_WRONG"])
            self.labels[::every] = [1 - label for label in self.labels[::every]]

    def read(self, index):
        image = np.full((SIDE, SIDE, 1), MEAN, np.uint8)
        difference = (1 + index // 2 % 50) * (1 if index % 2 else -1)
        image[:, : SIDE // 2] += np.uint8(difference % 256)
        image[:, SIDE // 2 :] -= np.uint8(difference % 256)
        return image


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="halves", summary="Halves", labels="halves", splits=("test",),
                      open=lambda root, split: Halves())  # fmt: skip


def build(params, weights):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(float(json.loads(weights.read_text()))))

        def forward(self, x):
            left, right = x[..., : SIDE // 2].mean((1, 2, 3)), x[..., SIDE // 2 :].mean((1, 2, 3))
            score = left - right + self.weight * ((left + right) / 2 - MEAN / 255)
            return torch.stack([-score, score], 1)

    return Net()


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="A network of one weight", input=InputSpec(shape=(1, SIDE, SIDE)),
                    labels="halves", build=build, weights=File(path="net.json"))  # fmt: skip


class Dim:
    """Darken the brighter side by eps. $GATED_FAILS: any value, it raises an exception."""

    def perturb(self, model, batch, eps, rng):
        if "GATED_FAILS" in os.environ:
            raise KeyError("delta")
        x = batch.x.clone()
        bright = batch.labels[:, None, None, None] == 1
        x[..., : SIDE // 2] -= eps * bright
        x[..., SIDE // 2 :] -= eps * ~bright
        return x.clamp(0, 1)


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="dim", summary="Darkens one side", access="decision", params=DimParams,
                     threat=lambda params: ThreatModel(norm="linf"), cost=lambda params: Cost(),
                     build=lambda params: Dim(), randomness="none")  # fmt: skip


class Brighter:
    def perturb(self, model, batch, severity, rng):
        return batch.canvas + 10 * severity


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="brighter", summary="More light", group="light", build=lambda params: Brighter(),
                         randomness="none")  # fmt: skip
