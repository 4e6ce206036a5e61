"""A plugin whose attack sleeps for each example, so that more workers than cores compute at the same time."""

import time
from dataclasses import dataclass

import numpy as np

from robharness import AttackSpec, CorruptionSpec, Cost, DatasetSpec, InputSpec, ModelSpec, ThreatModel, hookimpl

SIZES = {"few": 960, "many": 50_000}


class Blank:
    def __init__(self, count):
        self.ids = [f"{index:08}" for index in range(count)]
        self.labels = [index % 2 for index in range(count)]

    def read(self, index):
        return np.full((8, 8, 3), index % 256, np.uint8)


@hookimpl
def robharness_datasets():
    for name, count in SIZES.items():
        yield DatasetSpec(name=name, summary=f"{count} grey images", labels="two", splits=("all",),
                          open=lambda root, split, count=count: Blank(count))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Which:
    """number: makes models that differ in nothing else."""

    number: int = 0


def build(params, weights):
    import torch
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.linspace(-1, 1, 384).view(2, 192))
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="A linear layer", input=InputSpec(shape=(3, 8, 8)), labels="two",
                    build=build, params=Which)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NapParams:
    """Options of the attack.

    steps: gradients per example, as the attack declares them.
    seconds: of sleep per example and step.
    """

    norm: str = "linf"
    steps: int = 1
    seconds: float = 0.0


class Nap:
    def __init__(self, params):
        self.params = params

    def perturb(self, model, batch, eps, rng):
        time.sleep(self.params.seconds * self.params.steps * len(batch.ids))
        return batch.x


@hookimpl
def robharness_attacks():
    yield AttackSpec(name="nap", summary="Sleeps, and changes nothing", access="scores", params=NapParams,
                     threat=lambda params: ThreatModel(norm=params.norm), build=Nap, randomness="none",
                     cost=lambda params: Cost(gradients=params.steps))  # fmt: skip
    yield AttackSpec(name="step", summary="Declares one gradient for all budgets", access="scores", params=NapParams,
                     threat=lambda params: ThreatModel(norm=params.norm), build=Nap, randomness="none",
                     cost=lambda params: Cost(shared_gradients=1))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GreyParams:
    """number: makes corruptions that differ in nothing else."""

    number: int = 0


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="grey", summary="Changes nothing", group="grey", params=GreyParams,
                         severities=(1, 2, 3, 4, 5), randomness="none",
                         build=lambda params: lambda image, severity, rng: image)  # fmt: skip


def large_suite(models=50, data="many"):
    """Return a suite of 100 cells a model: clean, 9 of one step, 15 of 40 steps, 75 of corruptions."""
    return {
        "robharness": 1, "name": "large", "data": {"name": f"sleeping/{data}", "split": "all"},
        "models": [{"model": "sleeping/net", "label": f"Model {at}", "number": at} for at in range(models)],
        "attacks": [
            {"attack": "sleeping/step", "eps": [f"{at}/255" for at in range(1, 10)]},
            *({"attack": "sleeping/nap", "norm": norm, "steps": 40, "eps": [f"{at}/255" for at in range(1, 6)]}
              for norm in ("linf", "l2", "l1")),
        ],
        "corruptions": [{"corruption": "sleeping/grey", "number": at, "severity": [1, 2, 3, 4, 5]}
                        for at in range(15)],
        "canvas": 8,
    }  # fmt: skip
