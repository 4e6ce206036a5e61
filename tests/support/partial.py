"""A plugin of data that have some of the classes of their label space, loaded with `-p tests/support/partial.py`."""

from dataclasses import dataclass

import numpy as np

from robharness import AttackSpec, Cost, DatasetSpec, InputSpec, ModelSpec, Perturbed, ThreatModel, hookimpl

CLASSES, PRESENT, SIDE = 12, (1, 4, 7, 10), 4


class Squares:
    """Random squares, whose labels are drawn from the present classes."""

    def __init__(self, count):
        draws = np.random.default_rng(3)
        self.images = draws.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8)
        self.labels = [PRESENT[i % len(PRESENT)] for i in range(count)]
        self.ids = [f"square-{i}" for i in range(count)]

    def read(self, index):
        return self.images[index]


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="squares", summary="Squares of 4 of 12 classes", labels="dozen", classes=CLASSES,
                      splits=("test", "few"), masks={"four": PRESENT, "halves": (1, 4, 7)},
                      open=lambda root, split: Squares(60 if split == "test" else 6))  # fmt: skip


def build(params, weights):
    import torch
    from torch import nn

    body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.Tanh())
    net, generator = nn.Sequential(body, nn.Linear(8, CLASSES)), torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="A network of 12 classes", input=InputSpec(shape=(1, SIDE, SIDE)),
                    labels="dozen", build=build, features="0")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StepParams:
    pass


class Step:
    """A step along the gradient towards the class after the true one, among the classes that it sees."""

    def perturb(self, model, batch, eps, rng):
        classes = model.logits(batch.x).shape[1]
        target = (batch.labels + 1) % classes
        found = model.gradient(batch.x, target, lambda z, wanted: z.log_softmax(1).gather(1, wanted[:, None])[:, 0])
        moved = (batch.x + eps * found.gradient.sign()).clamp(0, 1)
        return Perturbed(x=moved, notes={"target": target, "classes": np.full(len(target), classes)})


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="step", summary="A step towards another class", access="gradient", params=StepParams,
                     threat=lambda params: ThreatModel(norm="linf", targeted=True), randomness="none",
                     cost=lambda params: Cost(gradients=1), notes={"classes": int},
                     build=lambda params: Step())  # fmt: skip
