"""A plugin with a small network and an attack that takes its time, loaded with `-p` by the tests of the executor."""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl

SIDE, CLASSES, EXAMPLES, SMALL = 6, 3, 48, 2 / 255


class Squares:
    def __init__(self):
        self.ids = [f"square-{index:03d}" for index in range(EXAMPLES)]
        self.labels = [index % CLASSES for index in range(EXAMPLES)]

    def read(self, index):
        return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)


def build(params, weights):
    """Images -> logits (N, 3). Without the variable that the main process has, there is no network."""
    import torch

    assert os.environ["ROBHARNESS_TEST_WORD"] == "seen"
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, CLASSES))
    values = np.random.default_rng(0).normal(size=(CLASSES, SIDE * SIDE)).astype(np.float32)
    net.load_state_dict({"1.weight": torch.from_numpy(values), "1.bias": torch.zeros(CLASSES)})
    return net


@dataclass(frozen=True)
class Options:
    """log: a folder that gets a file per call, named by the process. seconds: how long a call lasts.

    together: the number of processes that a call waits for, unless its eps is small.
    """

    log: str = field(default="", metadata={"runtime": True})
    seconds: float = field(default=0, metadata={"runtime": True})
    together: int = field(default=1, metadata={"runtime": True})


class Signs:
    def __init__(self, options):
        self.options = options

    def perturb(self, model, batch, eps, rng):
        if self.options.log:
            Path(self.options.log, f"{os.getpid()} {eps:g} {batch.ids[0]}").touch()
            time.sleep(self.options.seconds)
            deadline = time.monotonic() + 60
            while (
                eps > SMALL
                and len({path.name.split()[0] for path in Path(self.options.log).iterdir()}) < self.options.together
            ):
                assert time.monotonic() < deadline, "the others do not come"
                time.sleep(0.05)
        from torch.nn.functional import cross_entropy

        found = model.gradient(batch.x, batch.labels, partial(cross_entropy, reduction="none"))
        return (batch.x + eps * found.gradient.sign()).clamp(0, 1)


@hookimpl
def robharness_datasets():
    yield DatasetSpec(
        name="squares", summary="Noise", labels="squares", open=lambda root, split: Squares(), splits=("test",)
    )


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="linear", summary="Linear", labels="squares", build=build, input=InputSpec(shape=(1, SIDE, SIDE))
    )


@hookimpl
def robharness_attacks():
    yield AttackSpec(
        name="signs", summary="One step", access="gradient", params=Options, build=Signs,
        cost=lambda options: Cost(gradients=1), threat=lambda options: ThreatModel(norm="linf"),
    )  # fmt: skip
