"""A plugin of toy videos: films of several lengths, one of them broken, and a network that looks at clips of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from robharness import (
    AttackSpec,
    Clips,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    ModelSpec,
    Preprocessing,
    ThreatModel,
    UnreadableExample,
    hookimpl,
)

LENGTHS = (9, 24, 5, 12, 16, 7, 3, 30)
CLASSES, SIDE = 3, 6
LENGTH, STRIDE = 4, 2


def film(index):
    """(T, 6, 8, 3) uint8, another one for every index."""
    draws = np.random.default_rng(100 + index)
    return draws.integers(0, 256, (LENGTHS[index % len(LENGTHS)], SIDE, SIDE + 2, 3), np.uint8)


class Lazy:
    """A video that notes down which frames it was asked for."""

    def __init__(self, frames):
        self.frames, self.requested = frames, []

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, wanted):
        self.requested.append(list(wanted))
        return self.frames[wanted]


class Films:
    """20 films; in the split "torn", number 3 is broken."""

    def __init__(self, split):
        self.split = split
        self.ids = [f"film-{index:02}" for index in range(20)]
        self.labels = [index % CLASSES for index in range(20)]
        self.opened = {}

    def read(self, index):
        if self.split == "torn" and index == 3:
            raise UnreadableExample("it ends too soon")
        return self.opened.setdefault(index, Lazy(film(index)))


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="films", summary="Films", labels="films", splits=("whole", "torn"), kind="video",
                      open=lambda root, split: Films(split))  # fmt: skip


class Net(nn.Module):
    """(N, 3, 4, 6, 6) -> logits (N, 3): smooth, with different weights for every value."""

    def __init__(self):
        super().__init__()
        draws = np.random.default_rng(0)
        size = 3 * LENGTH * SIDE * SIDE
        self.register_buffer("first", torch.from_numpy(draws.normal(size=(size, 8)).astype("float32") / size**0.5))
        self.register_buffer("second", torch.from_numpy(draws.normal(size=(8, CLASSES)).astype("float32")))
        self.hidden = nn.Identity()

    def forward(self, x):
        return self.hidden((8 * (x.flatten(1) - 0.5) @ self.first).tanh()) @ self.second


@hookimpl
def robharness_models():
    clips = Clips(length=LENGTH, stride=STRIDE, count=3)
    shape = (3, LENGTH, SIDE, SIDE)
    yield ModelSpec(name="net", summary="Looks at clips", input=InputSpec(kind="video", shape=shape), labels="films",
                    build=lambda params, weights: Net(), features="hidden",
                    preprocessing=Preprocessing(crop=SIDE, clips=clips))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Params:
    norm: str = "linf"


@dataclass(frozen=True)
class Step:
    """One step along the gradient; under l2 along its direction. Notes how many frames it was given."""

    params: Params

    def perturb(self, model, batch, eps, rng):
        from robharness import Perturbed

        gradient = batch.gradient(model, loss).gradient
        direction = gradient.sign()
        if self.params.norm == "l2":
            direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        frames = torch.full_like(batch.labels, batch.x.shape[2])
        return Perturbed(x=(batch.x + eps * direction).clamp(0, 1), notes={"frames": frames})


def loss(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="none")


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="step", summary="One step", access="gradient", params=Params, build=Step, randomness="none",
                     threat=lambda params: ThreatModel(norm=params.norm), notes={"frames": int},
                     cost=lambda params: Cost(shared_gradients=1))  # fmt: skip


class Grainy:
    """Every video darker by a share of its own, and grains that are new in every frame."""

    def perturb(self, model, batch, severity, rng):
        n, frames, *sides = batch.canvas.shape
        draws = rng.of_frames(batch.frames, fresh=("grains",))
        share = draws.uniform("share", ()).view(n, frames, 1, 1, 1)
        return (batch.canvas * share - 20 * severity * draws.uniform("grains", sides).view(batch.canvas.shape)).clamp(
            0, 255).to(torch.uint8)  # fmt: skip


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="grainy", summary="Grainy", group="noise", inputs=frozenset({"video"}),
                         build=lambda params: Grainy())  # fmt: skip
    yield CorruptionSpec(name="dim", summary="Dim", group="light", build=lambda params: Grainy())
