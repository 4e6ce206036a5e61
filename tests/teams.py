"""A second plugin of toys, loaded with `-p tests/teams.py`: attacks in teams, without a budget, at a target, on
features, in blocks; and a network with a BatchNorm, real weights and a representation.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robharness import (
    AttackSpec,
    Budget,
    Cost,
    InputSpec,
    MetricResult,
    MetricSpec,
    ModelSpec,
    Perturbed,
    ThreatModel,
    hookimpl,
)

SIDE, CLASSES = 8, 3


@dataclass(frozen=True, kw_only=True)
class NetParams:
    """seed: of the weights. head: by what the last layer's are multiplied. what: a way to misbehave."""

    seed: int = 0
    head: int = 1
    what: str = "fine"


class Net(nn.Module):
    def __init__(self, params):
        super().__init__()
        draws = torch.Generator().manual_seed(params.seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.head = nn.Linear(96, CLASSES + (params.what == "another-class"))
        for value in [*self.parameters(), *self.buffers()]:
            if value.is_floating_point():
                value.data.copy_(torch.empty(value.shape).uniform_(-0.5, 0.5, generator=draws))
        self.body[1].running_var.data.abs_().add_(0.5)
        self.head.weight.data -= self.head.weight.data.mean(1, keepdim=True)  # so that contrasts decide, not brightness
        self.head.weight.data.mul_(params.head)
        self.head.bias.data.zero_()
        self.what = params.what

    def forward(self, x):
        is_picture = bool(((x == 0) | (x == 1)).all())
        if torch.is_grad_enabled() and (
            self.what == "crashes-with-gradients" or (self.what == "crashes-on-pictures" and is_picture)
        ):
            raise RuntimeError("no gradients today")
        if self.what == "hidden-write":  # autograd does not record it
            x.data.mul_(0.5)
        z = self.head(self.body(x))
        if self.what == "fussy":  # 255 levels, or else it is class 0
            z = z + 1e3 * ((x * 255).frac() * (1 - (x * 255).frac()) > 0.01).any(3).any(2) * torch.eye(CLASSES)[0]
        return z


def build(params, weights):
    if params.what == "unbuildable":
        raise ValueError("no such layer")
    return Net(params)


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="Real weights", input=InputSpec(shape=(1, SIDE, SIDE)), labels="toys",
                    build=build, params=NetParams, features="body")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Params:
    """how: a way to misbehave."""

    how: str = "fine"
    step: Budget = Budget(1)


def lead(logits, labels):
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return others - logits.gather(1, labels[:, None])[:, 0]


def log(name, eps, batch):
    """Append to the file $TEAMS_LOG which attack saw which examples."""
    if "TEAMS_LOG" in os.environ:
        with Path(os.environ["TEAMS_LOG"]).open("a") as file:
            file.write(json.dumps([name, eps, list(batch.ids)]) + "\n")


@dataclass(frozen=True)
class Step:
    """A step of a share of eps along the sign of the gradient. notes: what it tells beside."""

    name: str
    share: float
    notes: Callable[[Any, Any], dict[str, Any]] = lambda batch, rng: {}

    def perturb(self, model, batch, eps, rng):
        log(self.name, eps, batch)
        direction = model.gradient(batch.x, batch.labels, lead).gradient.sign()
        return Perturbed(x=(batch.x + self.share * eps * direction).clamp(0, 1), notes=self.notes(batch, rng))


def team(params):
    """An ensemble of two weak attacks that draw a number, and a strong one without notes."""
    members = {
        "weak": Step("weak", 0.25, lambda batch, rng: {"draw": rng.uniform("draw", ())}),
        "other": Step("other", 0.5, lambda batch, rng: {"draw": rng.uniform("draw", ())}),
        "strong": Step("strong", 1),
    }
    wrong = {
        "oversteps": Step("other", 2),
        "surprises": Step("other", 1, lambda batch, rng: {"surprise": [0] * len(batch)}),
    }
    members |= {"strong": Aim()} if params.how == "aims" else {}
    return members | ({"other": wrong[params.how]} if params.how in wrong else {})


def team_threat(params):
    return ThreatModel(norm="linf", targeted=params.how == "aims")


@dataclass(frozen=True)
class Nearest:
    """The first of steps of `step` / 32 up to 1/2 along the sign that is wrong, up to eps; else the clean input."""

    step: float = 1.0

    def perturb(self, model, batch, eps, rng):
        log("nearest", eps, batch)
        direction = batch.gradient(model, lead).gradient.sign()
        x, found = batch.x.clone(), torch.zeros_like(batch.labels, dtype=torch.bool)
        for at in range(int(16 / self.step) + 1):
            size = at * self.step / 32
            if size <= eps:
                candidate = (batch.x + size * direction).clamp(0, 1)
                new = ~found & (model.decisions(candidate) != batch.labels)
                x[new], found = candidate[new], found | new
        return Perturbed(x=x, notes={"found": found})


class Aim:
    """At the class after the true one, where the model is right."""

    def perturb(self, model, batch, eps, rng):
        right = model.decisions(batch.x) == batch.labels
        target = torch.where(right, (batch.labels + 1) % CLASSES, -1)
        direction = model.gradient(batch.x, target.clamp(min=0), lead).gradient.sign()
        moved = (batch.x - eps * direction * right[:, None, None, None]).clamp(0, 1)
        return Perturbed(x=moved, notes={"target": target})


@dataclass(frozen=True)
class Insight:
    """A step along the gradient of the first half of the features; `how` asks for what it may not."""

    params: Params

    def perturb(self, model, batch, eps, rng):
        if self.params.how == "asks-for-logits":
            return batch.x + 0 * model.logits(batch.x).sum()
        found = batch.gradient(model, lambda features, labels: features[:, :48].sum(1))
        values = batch.features(model)[:, :48].sum(1)
        return Perturbed(
            x=(batch.x + eps * found.gradient.sign()).clamp(0, 1),
            notes={"value": found.values, "same": values == found.values},
        )


class Neighbours:
    """Every example moves towards the mean of those it sees, as far as it may."""

    def perturb(self, model, batch, eps, rng):
        log("neighbours", eps, batch)
        return batch.x + (batch.x.mean(0) - batch.x).clamp(-eps, eps)


@dataclass(frozen=True)
class Ascend:
    """Steps along the sign of the gradient, until the judge would call it wrong."""

    params: Params

    def perturb(self, model, batch, eps, rng):
        x, size = batch.x.clone(), torch.zeros(len(batch))
        left = torch.arange(len(batch))
        for _ in range(4):
            found = model.gradient(x[left], batch.labels[left], lead)
            size[left] += found.gradient.abs().flatten(1).amax(1)
            logits = model.full_precision_logits(x[left], found.logits, lead(found.logits, batch.labels[left]) > 0)
            ahead = lead(logits, batch.labels[left]) <= 0
            left = left[ahead]
            if not len(left):
                break
            moved = x[left] + eps / 2 * float(self.params.step) * found.gradient[ahead].sign()
            x[left] = moved.clamp(batch.x[left] - eps, batch.x[left] + eps).clamp(0, 1)
        return Perturbed(x=x, notes={"gradient": size})


def spec(name, build, **changes):
    facts = {
        "summary": name,
        "access": "gradient",
        "params": Params,
        "threat": lambda params: ThreatModel(norm="linf"),
        "cost": lambda params: Cost(gradients=1),
        "build": build,
        "randomness": "none",
    }
    return AttackSpec(name=name, **facts | changes)


@hookimpl
def robharness_attacks():
    yield spec("team", team, ensemble=True, randomness="example", notes={"draw": float}, threat=team_threat)
    yield spec("step", lambda params: Step("step", float(params.step)), cost=lambda params: Cost(shared_gradients=1),
               runs_to_end=lambda params: {"fine": False, "to-end": True}.get(params.how, params.how))  # fmt: skip
    yield spec("nearest", lambda params: Nearest(float(params.step)), minimal=True, notes={"found": bool})
    yield spec("aim", lambda params: Aim(), threat=lambda params: ThreatModel(norm="linf", targeted=True))
    yield spec("insight", Insight, access="features", notes={"value": float, "same": bool})
    yield spec("neighbours", lambda params: Neighbours(), blocks=lambda params: params.how != "alone")
    yield spec("ascend", Ascend, notes={"gradient": float}, alarms=("gradient",), cost=lambda params: Cost(gradients=4))


def width(results):
    """Report the number of features, with what else is stored of them."""
    found = {label: results.features(label) for label in results.labels}
    return {
        label: MetricResult(value=each.values.shape[1], details={"n": len(each.labels), "boundary": each.boundary})
        for label, each in found.items()
    }


def moved(results):
    """Report the mean distance by which corruptions move the features, for the first label only."""
    label = results.labels[0]
    clean, by_view = results.features(label), {}
    for name, view in results.views(label).items():
        by_view[name] = np.linalg.norm(clean.at(view.positions).values - view.values, axis=1).mean()
    return {label: MetricResult(value=max(by_view.values()), details={"by_view": by_view})}


def near(results):
    """The share of examples with a mistake that is near."""
    return {
        label: float(np.isfinite(cell.distances).mean())
        for label in results.labels
        for cell in results.of(label, "attack")
        if cell.cell.perturbation.eps is None
    }


@hookimpl
def robharness_metrics():
    yield MetricSpec(name="width", summary="Features", compute=width, needs=frozenset({"features"}))
    yield MetricSpec(name="moved", summary="By corruptions", compute=moved, needs=frozenset({"views"}))
    yield MetricSpec(name="near", summary="Mistakes that are near", compute=near, needs=frozenset({"distances"}))
    lack = MetricResult(value=float("nan"), unavailable_reason="it is a toy")
    yield MetricSpec(name="nothing", summary="Lacks a number", compute=lambda results: {results.labels[0]: lack})
    odd = MetricResult(value=1, details={"what": object})
    yield MetricSpec(name="odd", summary="Details that are no data", compute=lambda results: {results.labels[0]: odd})
