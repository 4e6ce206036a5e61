"""A plugin whose model is trained from components, loaded with `-p tests/assembler.py`: a stem, and a head in a record.

The model sums pixels by the weights that its stem makes, so that its training is one line.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from robharness import Component, ComponentSpec, DataRef, DatasetSpec, InputSpec, ModelSpec, Train, hookimpl

SIDE = 8
PLAIN, IDENTITY = Component("plain"), Component("identity")


class Halves:
    def __init__(self):
        self.ids = [f"half-{index}" for index in range(12)]
        self.labels = [index % 2 for index in range(12)]

    def read(self, index):
        image = np.zeros((SIDE, SIDE, 1), np.uint8)
        image[:, 4 * (index % 2) :][:, :4] = 10 * (index + 1)
        return image


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="halves", summary="A bright half", labels="sides", splits=("all",),
                      open=lambda root, split: Halves())  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plain:
    """gain: of the weights. table: a file that counts by its content."""

    gain: float = 1.0
    table: Path | None = None


def left_and_right(gain):
    weights = np.zeros((2, SIDE * SIDE), np.float32)
    for label in (0, 1):
        weights[label] = gain * (np.arange(SIDE * SIDE) % SIDE // 4 == label)
    return weights


@dataclass(frozen=True, kw_only=True)
class Head:
    kind: Annotated[Component, "head"] = IDENTITY
    scale: float = 1.0


class Shape(Component):
    KEY = "form"


@dataclass(frozen=True, kw_only=True)
class Params:
    stem: Annotated[Component, "stem", "plain"] = PLAIN
    head: Head = Head()
    shape: Annotated[Shape, "shape", "square"] | None = None


def train(job):
    from safetensors.numpy import save_file

    head = job.params.head
    weights = head.kind.build() * head.scale * job.params.stem.build(SIDE)
    save_file({"1.weight": weights.astype(np.float32)}, job.folder / "weights.safetensors")


def build(params, weights):
    import torch
    from safetensors.torch import load_file

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 2, bias=False))
    net.load_state_dict(load_file(weights))
    return net


@hookimpl
def robharness_models():
    weights = Train(data=lambda params: {"train": DataRef(name="assembler/halves", split="all")}, train=train)
    yield ModelSpec(name="net", summary="Of components", input=InputSpec(shape=(1, SIDE, SIDE)), labels="sides",
                    build=build, params=Params, weights=weights)  # fmt: skip


@hookimpl
def robharness_components():
    yield ComponentSpec(name="plain", role="stem", summary="Halves", params=Plain,
                        build=lambda params, side: left_and_right(params.gain))  # fmt: skip
    yield ComponentSpec(name="doubled", role="stem", summary="Twice", build=lambda params, side: left_and_right(2))
    yield ComponentSpec(name="identity", role="head", summary="One", build=lambda params: 1)
    yield ComponentSpec(name="square", role="shape", summary="A square", params=Plain, build=lambda params: None)
