"""Small networks and images with known right answers, declared as a plugin declares its own.

Exact: inputs are whole 256ths, gradients 1024ths and weights small integers, so that no sum in float32 is rounded.
    Outcomes must be bit-equal for every batch, order and shape of a pass.
Line: two classes with a linear margin, so that the best attack is known in closed form.
Constant: has gradients, but no input changes its prediction.
Smooth: real weights, a BatchNorm and a nonlinearity, as common networks have.
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
    ThreatModel,
)

SHAPES: dict[Kind, tuple[int, ...]] = {"image": (3, 8, 8), "video": (3, 4, 4, 4)}
"""Shapes of inputs; both have VALUES values."""
VALUES = 192
LEVELS, STEPS = 256, 1024
HIDDEN = 32
ORIGIN = PluginOrigin(namespace="testing", distribution="robharness.testing")
DUAL: dict[str, float] = {"linf": 1, "l2": 2, "l1": np.inf}
"""The order of the dual norm, which measures gradients if perturbations have this norm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Toy:
    """A network and its examples, whose ids are "NAME-00", "NAME-01", ...

    net: builds the network.
    images: uint8 (N, H, W, C) or (N, T, H, W, C).
    labels: (N,).
    """

    name: str
    kind: Kind
    net: Callable[[], nn.Module]
    images: np.ndarray
    labels: np.ndarray

    @property
    def x(self) -> Tensor:
        """The inputs, (N, *shape)."""
        return torch.from_numpy(self.images).movedim(-1, 1).to(torch.float32) / 255

    @property
    def ids(self) -> list[str]:
        """The examples' ids."""
        return [f"{self.name}-{row:02}" for row in range(len(self.labels))]

    def beside(self, registry: Registry) -> Registry:
        """Return a copy of the registry with this toy as the model and the data set testing/NAME."""
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
            open=lambda root, split: _Opened(self.ids, self.labels.tolist(), self.images),
        )
        mixed.add("models", model, ORIGIN)
        mixed.add("datasets", data, ORIGIN)
        return mixed


@dataclass(frozen=True)
class _Opened:
    ids: list[str]
    labels: list[int]
    images: np.ndarray

    def read(self, index: int) -> np.ndarray:
        image: np.ndarray = self.images[index].copy()
        return image


class Levels(torch.autograd.Function):
    """Round x in [0, 1] to integers, in units of 1 / 256; the backward pass ignores the rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * LEVELS).round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * LEVELS


class Coarse(torch.autograd.Function):
    """Return logits unchanged and round their gradients to 1024ths, so that last bits of an objective do not matter."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient * STEPS).round() / STEPS


class Exact(nn.Module):
    """A network of integers below 2**24: levels, weights from -2 to 2, ReLU, weights from -2 to 2, a power of two.

    classes: of the logits, (N, classes). The submodule `body` gives features, (N, 32).
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
    """A network with two logits, (offset, weights . x), so that the margin is linear.

    weights: (192,).
    """

    def __init__(self, weights: np.ndarray, offset: float) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.weights = _parameter(weights)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        score = self.body(x) @ self.weights
        return torch.stack([torch.full_like(score, self.offset), score], 1)


class Constant(nn.Module):
    """A network whose first logit is larger by more than any input can change.

    classes: at least 2.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.weights = _parameter(np.random.default_rng(1).normal(size=(VALUES, classes)) / 64)
        self.lead = 8 * torch.eye(classes)[0]  # the logits of two classes can move 4 apart

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x) @ self.weights + self.lead
        return logits


class Smooth(nn.Module):
    """Two linear layers with a BatchNorm and a GELU between, and 5 classes."""

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
    """Return an exact toy with random pixels; one in six examples is wrong without an attack."""
    return _labelled(f"exact-{kind}-{classes}", kind, lambda: Exact(classes), _pixels(kind, n))


def smooth(kind: Kind, n: int = BLOCK) -> Toy:
    """Return a smooth toy with random pixels; one in six examples is wrong without an attack."""
    return _labelled(f"smooth-{kind}", kind, Smooth, _pixels(kind, n))


def constant(kind: Kind, classes: int, n: int) -> Toy:
    """Return a toy that predicts class 0, the label, for every input."""
    return Toy(
        name=f"constant-{kind}-{classes}",
        kind=kind,
        net=lambda: Constant(classes),
        images=_pixels(kind, n),
        labels=np.zeros(n, np.int64),
    )


def line(kind: Kind, norm: str, eps: float, shares: tuple[float, ...]) -> tuple[Toy, np.ndarray]:
    """Return a line toy far from the edges of the box, and its examples' distances to the boundary over eps, (N,).

    shares: the wanted distances over eps, with one example of each class for each; 8-bit pixels meet them nearly.
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
    images = np.moveaxis((x * 255).round().astype(np.uint8).reshape(-1, channels, *sides), 1, -1)
    toy = Toy(
        name=f"line-{kind}-{norm}",
        kind=kind,
        net=lambda: Line(weights, float(offset)),
        images=images,
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
        summary="The negative of the image, at any distance",
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
    registry.add("attacks", attack, ORIGIN)
    registry.add("attacks", far, ORIGIN)
    registry.add("corruptions", corruption, ORIGIN)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No options."""


class Sign:
    """An attack: one step along the sign of the margin's gradient."""

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        gradient = batch.gradient(model, margin).gradient
        return (batch.x + eps * gradient.sign()).clamp(0, 1)


class Negative:
    """An attack without a budget: the negative of the input."""

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        return 1 - batch.x


class Darker:
    """A corruption: the image divided by 1 + severity."""

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        return batch.canvas // (1 + severity)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the best wrong logit minus the true one, (N,)."""
    true = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - true


def _labelled(name: str, kind: Kind, net: Callable[[], nn.Module], images: np.ndarray) -> Toy:
    """Return a toy whose labels are the network's predictions, but the next class for every sixth example."""
    unlabelled = Toy(name=name, kind=kind, net=net, images=images, labels=np.zeros(len(images), np.int64))
    with torch.no_grad():
        logits = net().eval()(unlabelled.x)
    labels = logits.argmax(1).numpy()
    labels[::6] = (labels[::6] + 1) % logits.shape[1]
    return Toy(name=name, kind=kind, net=net, images=images, labels=labels)


def _pixels(kind: Kind, n: int) -> np.ndarray:
    channels, *sides = SHAPES[kind]
    images: np.ndarray = np.random.default_rng(0).integers(0, 256, (n, *sides, channels), np.uint8)
    return images


def _parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.asarray(values, np.float32)))
