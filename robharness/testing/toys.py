"""Small networks and pictures on which the right answer is known, declared as any plugin would.

Exact: inputs count in whole 256ths, gradients in 1024ths, and weights are small integers, so that no sum in float32 is
ever rounded, and outcomes must be bit-equal whatever the batch, the order and the shape of a pass. Line: two classes,
whose margin is linear, so that the best attack is known in closed form. Deaf: there are gradients, but no input changes
its mind. Smooth: real weights, a BatchNorm and a bend, as networks have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.evaluation.batch import Batch
from robharness.evaluation.classifier import Classifier
from robharness.evaluation.rng import ExampleRNG
from robharness.planning.cells import BLOCK
from robharness.plugins import KINDS, PluginOrigin, Registry
from robharness.specs import (
    AttackSpec,
    CorruptionSpec,
    Cost,
    DatasetSpec,
    InputSpec,
    Kind,
    ModelSpec,
    Norm,
    ThreatModel,
)

SHAPES: dict[Kind, tuple[int, ...]] = {"image": (3, 8, 8), "video": (3, 4, 4, 4)}
"""Of inputs; both have as many values."""
VALUES = 192
LEVELS, STEPS = 256, 1024
HIDDEN = 32
SOURCE = PluginOrigin(namespace="testing", distribution="robharness.testing")
DUAL: dict[Norm, float] = {"linf": 1, "l2": 2, "l1": np.inf}
"""The order of the norm that a gradient has where perturbations have this one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Toy:
    """A network and its examples, whose ids are "NAME-00" and on.

    net: makes the network. pictures: uint8 (N, H, W, C) or (N, T, H, W, C). labels: (N,).
    """

    name: str
    kind: Kind
    net: Callable[[], nn.Module]
    pictures: np.ndarray
    labels: np.ndarray

    @property
    def x(self) -> Tensor:
        """The inputs, (N, *shape)."""
        return torch.from_numpy(self.pictures).movedim(-1, 1).to(torch.float32) / 255

    @property
    def ids(self) -> list[str]:
        return [f"{self.name}-{row:02}" for row in range(len(self.labels))]

    def beside(self, registry: Registry) -> Registry:
        """The registry with this toy as the model and the data set testing/NAME."""
        mixed = Registry()
        for kind in KINDS:
            getattr(mixed, kind).update(getattr(registry, kind))
        input = InputSpec(kind=self.kind, shape=SHAPES[self.kind])
        model = ModelSpec(
            name=self.name,
            summary="A toy",
            input=input,
            labels="toys",
            build=lambda params, weights: self.net(),
            features="body",
        )
        data = DatasetSpec(
            name=self.name,
            summary="Its examples",
            labels="toys",
            splits=("all",),
            kind=self.kind,
            open=lambda root, split: _Opened(self.ids, self.labels.tolist(), self.pictures),
        )
        mixed.add("models", model, SOURCE)
        mixed.add("datasets", data, SOURCE)
        return mixed


@dataclass(frozen=True)
class _Opened:
    ids: list[str]
    labels: list[int]
    pictures: np.ndarray

    def read(self, index: int) -> np.ndarray:
        picture: np.ndarray = self.pictures[index].copy()
        return picture


class Levels(torch.autograd.Function):
    """x in [0, 1] in whole 256ths, as integers; backward as if nothing were rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * LEVELS).round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * LEVELS


class Coarse(torch.autograd.Function):
    """Logits as they are; their gradients in 1024ths, so that the last bits of an objective's do not matter."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient * STEPS).round() / STEPS


class Exact(nn.Module):
    """Integers throughout, below 2**24: levels, weights from -2 to 2, ReLU, weights from -2 to 2, a power of two.

    classes: of the logits (N, classes); `body` gives features (N, 32).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        draws = np.random.default_rng(classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(VALUES, HIDDEN, bias=False, device="meta"), nn.ReLU())
        self.head = nn.Linear(HIDDEN, classes, bias=False, device="meta")
        self.body[1].weight = _parameter(draws.integers(-2, 3, (HIDDEN, VALUES)))
        self.head.weight = _parameter(draws.integers(-2, 3, (classes, HIDDEN)))

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(Levels.apply(x))
        logits: Tensor = Coarse.apply(self.head(features) / 2**12)
        return logits


class Line(nn.Module):
    """Two classes, (offset, weights . x): the margin is linear. weights: (192,)."""

    def __init__(self, weights: np.ndarray, offset: float) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.weights = _parameter(weights)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        score = self.body(x) @ self.weights
        return torch.stack([torch.full_like(score, self.offset), score], 1)


class Deaf(nn.Module):
    """The first class wins by far more than any input can change. classes: 2 at least."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.weights = _parameter(np.random.default_rng(1).normal(size=(VALUES, classes)) / 64)
        self.lead = 8 * torch.eye(classes)[0]  # the logits of two classes can move 4 apart

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x) @ self.weights + self.lead
        return logits


class Smooth(nn.Module):
    """Two layers with a BatchNorm and a GELU between; its running statistics are buffers. 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        draws = np.random.default_rng(2)
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(VALUES, HIDDEN, device="meta"), nn.BatchNorm1d(HIDDEN), nn.GELU()
        )
        self.head = nn.Linear(HIDDEN, 5, device="meta")
        self.body[1].weight = _parameter(draws.normal(size=(HIDDEN, VALUES)) / VALUES**0.5)
        self.body[1].bias = _parameter(draws.normal(size=HIDDEN) / 8)
        norm: Any = self.body[2]  # with the mean and variance of uniform pixels
        norm.running_mean = (self.body[1].weight.sum(1) / 2 + self.body[1].bias).detach()
        norm.running_var = torch.full((HIDDEN,), 1 / 12)
        self.head.weight = _parameter(draws.normal(size=(5, HIDDEN)))
        self.head.bias = _parameter(np.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def exact(kind: Kind, classes: int, n: int = BLOCK) -> Toy:
    """Exact, with random pixels; of six examples one is wrong already."""
    return _labelled(f"exact-{kind}-{classes}", kind, lambda: Exact(classes), _pixels(kind, n))


def smooth(kind: Kind, n: int = BLOCK) -> Toy:
    return _labelled(f"smooth-{kind}", kind, Smooth, _pixels(kind, n))


def deaf(kind: Kind, classes: int, n: int) -> Toy:
    return Toy(
        name=f"deaf-{kind}-{classes}",
        kind=kind,
        net=lambda: Deaf(classes),
        pictures=_pixels(kind, n),
        labels=np.zeros(n, np.int64),
    )


def line(kind: Kind, norm: Norm, eps: float, shares: tuple[float, ...]) -> tuple[Toy, np.ndarray]:
    """Line, far from the edges of the box, and how near each example is to the boundary, (N,).

    shares: the distance of examples, over eps; one of each class for each share. 8 bits meet them nearly.
    """
    draws = np.random.default_rng(3)
    weights = draws.normal(size=VALUES)
    offset, slope = weights.sum() / 2, np.linalg.norm(weights, DUAL[norm])
    labels = np.arange(2 * len(shares)) % 2
    ahead = np.where(labels == 1, 1, -1)
    x = draws.uniform(0.45, 0.55, (len(labels), VALUES))
    wanted = offset + ahead * np.repeat(shares, 2) * eps * slope
    x += ((wanted - x @ weights) / (weights @ weights))[:, None] * weights
    channels, *sides = SHAPES[kind]
    pictures = np.moveaxis((x * 255).round().astype(np.uint8).reshape(-1, channels, *sides), 1, -1)
    toy = Toy(
        name=f"line-{kind}-{norm}",
        kind=kind,
        net=lambda: Line(weights, float(offset)),
        pictures=pictures,
        labels=labels,
    )
    found = toy.x.double().flatten(1).numpy() @ weights
    return toy, ahead * (found - offset) / slope / eps


def declare_perturbations(registry: Registry) -> None:
    """Add the attacks testing/sign and testing/negative and the corruption testing/darker to a registry."""
    attack = AttackSpec(
        name="sign",
        summary="A step along the sign of the gradient",
        access="gradient",
        params=NoOptions,
        threat=lambda params: ThreatModel(norm="linf"),
        cost=lambda params: Cost(shared_gradients=1),
        build=lambda params: Sign(),
        randomness="none",
    )
    far = AttackSpec(
        name="negative",
        summary="The negative of the picture, however far that is",
        access="decision",
        params=NoOptions,
        threat=lambda params: ThreatModel(norm="l2"),
        cost=lambda params: Cost(),
        build=lambda params: Negative(),
        randomness="none",
        minimal=True,
    )
    corruption = CorruptionSpec(
        name="darker", summary="Less light", group="light", build=lambda params: Darker(), randomness="none"
    )
    registry.add("attacks", attack, SOURCE)
    registry.add("attacks", far, SOURCE)
    registry.add("corruptions", corruption, SOURCE)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Nothing to choose."""


class Sign:
    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        gradient = batch.gradient(model, margin).gradient
        return (batch.x + eps * gradient.sign()).clamp(0, 1)


class Negative:
    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        return 1 - batch.x


class Darker:
    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        return batch.canvas // (1 + severity)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the true one, (N,)."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true


def _labelled(name: str, kind: Kind, net: Callable[[], nn.Module], pictures: np.ndarray) -> Toy:
    """With the classes that the network gives as labels, every sixth the next one instead."""
    unlabelled = Toy(name=name, kind=kind, net=net, pictures=pictures, labels=np.zeros(len(pictures), np.int64))
    with torch.no_grad():
        logits = net().eval()(unlabelled.x)
    labels = logits.argmax(1).numpy()
    labels[::6] = (labels[::6] + 1) % logits.shape[1]
    return Toy(name=name, kind=kind, net=net, pictures=pictures, labels=labels)


def _pixels(kind: Kind, n: int) -> np.ndarray:
    channels, *sides = SHAPES[kind]
    pictures: np.ndarray = np.random.default_rng(0).integers(0, 256, (n, *sides, channels), np.uint8)
    return pictures


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.asarray(values, np.float32)))
