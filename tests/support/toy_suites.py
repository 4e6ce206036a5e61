"""A registry of specs that nothing builds, and suites over it, right and wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from robharness import (
    AttackSpec,
    Budget,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    MetricSpec,
    ModelSpec,
    ThreatModel,
)
from robharness.errors import SuiteError
from robharness.plugins import PluginOrigin, Problem, Registry
from robharness.suite import load

IMAGE, CLIP = InputSpec(shape=(1, 8, 8)), InputSpec(kind="video", shape=(1, 4, 8, 8))


@dataclass(frozen=True, kw_only=True)
class NetParams:
    width: Annotated[int, Field(gt=0)] = 8
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FgsmParams:
    norm: Literal["linf", "l2"] = "linf"


@dataclass(frozen=True, kw_only=True)
class PgdParams:
    norm: Literal["linf", "l2", "l1"] = "linf"
    steps: int = 10
    rel_step: Budget | None = None
    random_start: bool = True
    note: str = field(default="", metadata={"runtime": True})

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")
        if self.steps == 13:
            raise KeyError("unlucky")


@dataclass(frozen=True, kw_only=True)
class CallableParams:
    callback: Callable[[int], int] | None = None


def attack(name, params, **changes):
    facts = {
        "summary": name,
        "access": "gradient",
        "params": params,
        "threat": lambda params: ThreatModel(norm=params.norm),
        "cost": lambda params: Cost(),
        "build": lambda params: None,
    }
    return AttackSpec(name=name, **facts | changes)


def corruption(name, **changes):
    return CorruptionSpec(name=name, summary=name, group="light", build=lambda params: None, **changes)


def model(name, **changes):
    facts = {"summary": name, "input": IMAGE, "labels": "toys", "build": lambda params, weights: None}
    return ModelSpec(name=name, **facts | changes)


def dataset(name, **changes):
    facts = {"summary": name, "labels": "toys", "splits": ("train", "test"), "open": lambda root, split: None}
    return DatasetSpec(name=name, **facts | changes)


def refuses(params, input):
    """The reasons of an attack that takes any number of steps but 23, and whose author forgot 24."""
    return {23: f"23 steps need 23 frames, not {input.shape[1]}", 24: None}.get(params.steps, "")


def make_registry():
    registry = Registry()
    source = PluginOrigin(namespace="toy", distribution="robharness-toy", version="1.0")
    registry.origins.append(source)
    specs = {
        "models": [
            model("net", params=NetParams),
            model("wide", input=InputSpec(shape=(1, 8, 9))),
            model("insightful", features="body"),
            model("letters", labels="letters"),
            model("clips", input=CLIP, labels="letters"),
        ],
        "attacks": [
            attack("fgsm", FgsmParams),
            attack("pgd", PgdParams),
            attack("flat", PgdParams, inputs=frozenset({"image"})),
            attack("nearest", PgdParams, minimal=True),
            attack("often-nearest", PgdParams, minimal=lambda params: params.norm == "l2"),
            attack("choosy", PgdParams, refuses=refuses),
            attack("team", PgdParams, ensemble=True),
            attack("team-nearest", PgdParams, ensemble=True, minimal=True),
            attack("insight", FgsmParams, access="features"),
        ],
        "corruptions": [
            corruption("fog"),
            corruption("frost"),
            corruption("far/fog"),
            corruption("negative", severities=(1,)),
        ],
        "datasets": [
            dataset("pixels"),
            dataset("letters", labels="letters"),
            dataset("clips", kind="video", labels="letters"),
        ],
        "metrics": [MetricSpec(name="wrong", summary="wrong", compute=lambda results: {})],
    }
    for kind, some in specs.items():
        for spec in some:
            registry.add(kind, spec, source)
    rotten = PluginOrigin(namespace="rotten", distribution="robharness-rotten", version="0.3")
    registry.problems.append(Problem(origin=rotten, stage="import", error="ImportError: no module named 'tensorflow'"))
    return registry


REGISTRY = make_registry()
HEAD = """\
robharness: 1
name: small
data: {name: toy/pixels, split: test}
models: [{model: toy/net}]
"""


def json_head():
    return {
        "robharness": 1,
        "name": "small",
        "data": {"name": "toy/pixels", "split": "test"},
        "models": [{"model": "toy/net"}],
    }


def named(*attacks, **changes):
    suite = load(json_head() | {"attacks": list(attacks)} | changes, REGISTRY)
    return [perturbation.name for perturbation in suite.perturbations]


def refused(*attacks, **changes):
    """Return the errors of the reader, without their positions."""
    with pytest.raises(SuiteError) as caught:
        load(json_head() | {"attacks": list(attacks)} | changes, REGISTRY)
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()[:-1]]


def place(text):
    """Return the errors without the name of the file."""
    return [line.removeprefix("s.yaml:") for line in text]


RIGHT = """\
robharness: 1
name: small
title: All keys
data: {name: toy/pixels, split: test, limit: 10}
canvas: 16
models:
  - {model: toy/net, label: Net, reference: true, weights: ./net.pt, width: 4, sizes: [1, 2]}
  - {model: toy/net}
attacks:
  - {attack: toy/fgsm, eps: [0.25/255, 1e-3, 1], norm: l2}
  - {attack: toy/pgd, eps: 8 / 255, steps: 40, rel_step: 2.5/40, note: slow}
  - {attack: toy/pgd, eps: [0.5, 1/8], norm: l1, random_start: false, nested: true}
corruptions: [{corruption: toy/f*, severity: [3, 1]}]
metrics: [toy/wrong]
count: robust
precision: tf32
compile: true
seed: 7
expected:
  source: Table 1
  Net: {clean: 76.71, "fgsm(l2, 0.25/255)": 38}
check: {tolerance: 0, alpha: 0.05}
"""


WRONG = """\
robharness: 1
name: every mistake
titel: Every mistake
data: {name: toy/pixels, split: tset, limti: 10, limit: -1}
precision: float16
seed: 1.5
models:
  - {model: toy/net, label: Net, reference: true, width: 0}
  - {model: toy/letters, label: Net, reference: true}
  - {model: toy/nett}
  - {model: swav/resnet50, label: SwAV}
  - {model: rotten/net}
  - {label: Nameless}
attacks:
  - {attack: toy/fgsm, nrom: l2, eps: [8/255, 8/0, abc, 0, -1/255, true]}
  - {attack: toy/pdg, eps: .nan}
  - {attack: toy/pgd, norm: l3, eps: [], steps: ten}
  - {attack: toy/pgd, eps: 1/255, steps: 0}
  - {attack: toy/pgd, eps: 1/255, steps: 13}
  - {attack: toy/pgd, steps: 5}
  - {attack: toy/pgd, eps: [0.5, 1/2], rel_step: 2.5/0, random_start: no}
  - {attack: toy/fgsm, norm: l2, eps: [0.5, 1/2]}
  - {attack: toy/fgsm, norm: l2, eps: 0.5, eps: 1}
  - toy/fgsm
  - {attack: [toy/fgsm], eps: 1}
corruptions:
  - {corruption: toy/negative, severity: [1, 2]}
  - {corruption: toy/frog, severity: !!int "1"}
  - {corruption: toy/*, severity: 1}
canvas: 4
metrics: [toy/wrong, toy/worng]
expected:
  source: 5
  SwAV: {clean: 1}
  Nett: {clean: 1}
  Net: {claen: 1, "fgsm(l2, 0.25)": 1, clean: high}
check: {tolerance: -1, alhpa: 0.1}
"""
