"""A plugin whose every text is that of $FOREIGN_TEXT, as JSON: summaries, ids, reasons, errors and their types."""

import json
import os
from dataclasses import dataclass

import click
import numpy as np

from robharness import (
    AttackSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    MetricResult,
    MetricSpec,
    MissingResource,
    ModelSpec,
    Perturbed,
    ThreatModel,
    UnreadableExample,
    hookimpl,
)

TEXT = json.loads(os.environ["FOREIGN_TEXT"])
VALID = TEXT.encode("utf-8", "replace").decode()
"""The text without lone surrogates, which types and stored tables refuse."""


def fail(*_, **__):
    raise type(VALID, (Exception,), {})(TEXT)


class Pictures:
    ids, labels, remarks = ["0", VALID, "2"], [0, 1, 0], [TEXT]

    def read(self, index):
        if index == 1:
            raise UnreadableExample(TEXT)
        return np.full((4, 4, 1), 100 * index, np.uint8)


def open_lost(root, split):
    raise MissingResource(TEXT, where=TEXT, get="see the page")


@hookimpl
def robharness_datasets():
    common = {"summary": TEXT, "labels": TEXT}
    yield DatasetSpec(name="pictures", splits=("test", VALID), open=lambda root, split: Pictures(), **common)
    yield DatasetSpec(name="lost", splits=("test",), open=open_lost, **common)
    yield DatasetSpec(name="fails", splits=("test",), open=fail, **common)


def build(params, weights):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


@hookimpl
def robharness_models():
    common = {"summary": TEXT, "labels": TEXT, "input": InputSpec(shape=(1, 4, 4))}
    yield ModelSpec(name="net", build=build, **common)
    yield ModelSpec(name="broken", build=fail, **common)


@dataclass(frozen=True, kw_only=True)
class Params:
    word: str = ""


class Step:
    def perturb(self, model, batch, eps, rng):
        return Perturbed(x=batch.x, notes={VALID: np.ones(len(batch), int)})


class Broken:
    perturb = fail


@hookimpl
def robharness_attacks():
    common = {
        "summary": TEXT, "access": "gradient", "params": Params, "threat": lambda params: ThreatModel(norm="linf"),
        "cost": lambda params: Cost(gradients=1), "randomness": "none",
    }  # fmt: skip
    yield AttackSpec(name="step", build=lambda params: Step(), notes={VALID: int}, alarms=(VALID,),
                     advise=lambda params, eps: [TEXT], **common)  # fmt: skip
    yield AttackSpec(name="broken", build=lambda params: Broken(), **common)


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="absent", summary=TEXT, compute=lambda results: {
        label: MetricResult(value=float("nan"), unavailable_reason=TEXT) for label in results.labels})  # fmt: skip
    yield MetricSpec(name="fails", summary=TEXT, compute=fail)


@hookimpl
def robharness_commands():
    yield click.Command(VALID)


robharness_run_finished = hookimpl(lambda results: fail())
