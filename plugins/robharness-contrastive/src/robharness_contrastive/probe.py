"""Train a linear classifier on features: at its optimum, by SGD, on adversarial images, or with the encoder tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness import Component, UserError
from robharness.evaluation.digest import state_digest
from robharness_contrastive.data import Source, Views
from robharness_contrastive.networks import Classifier, Encoder
from robharness_contrastive.optim import set_rate
from robharness_contrastive.options import Robust

MAX_STEPS = 2000
"""Limit for L-BFGS, which stops earlier when the gradient vanishes."""


@torch.no_grad()
def features(encoder: nn.Module, source: Source) -> Tensor:
    """Return the features of all examples as in evaluation, (N, width) float32. Leaves the encoder in eval mode."""
    encoder.eval()
    return torch.cat([encoder(x).float() for x in source.evaluation_batches()])


def logistic(h: Tensor, labels: Tensor, classes: int, l2: float) -> nn.Linear:
    """Fit logistic regression to its optimum by L-BFGS in float64 from zero, without random numbers.

    The loss is the mean cross-entropy plus l2 / 2 times the squared norm of the weights, without the biases. It applies
    to standardised features; the standardisation is folded into the returned weights.

    h: features (N, width).
    labels: (N,).
    classes: their number.
    l2: weight of the penalty.
    """
    h = h.double()
    mean, deviation = h.mean(0), h.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    x = (h - mean) / deviation
    weight = torch.zeros(classes, h.shape[1], dtype=torch.float64, device=h.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=h.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, tolerance_grad=1e-7, tolerance_change=0, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    head = nn.Linear(h.shape[1], classes, device=h.device)
    with torch.no_grad():
        folded = weight / deviation
        head.weight.copy_(folded)
        head.bias.copy_(bias - folded @ mean)
    return head


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """A classifier to train on an encoder.

    encoder: from inputs to features (N, width), in eval mode.
    width: of the features.
    classes: their number.
    source: the training examples, with `labels`, (N,) int64.
    views: makes augmented views of examples, see `data.Views`.
    seed: of the order of examples and of other random numbers.
    """

    encoder: nn.Module
    width: int
    classes: int
    source: Source
    views: Views
    seed: int

    @property
    def labels(self) -> Tensor:
        """Labels of the examples, (N,) int64."""
        return self.source.labels

    def features(self) -> Tensor:
        """Return the features of all examples as in evaluation, (N, width) float32."""
        return features(self.encoder, self.source)


class Probe:
    """A way to train the linear classifier of an encoder. A subclass is made as `Class(options)`.

    tunes_encoder: whether it trains the encoder as well; else a change of the encoder is an error.
    """

    tunes_encoder = False

    def __init__(self, options: Any) -> None:
        self.options = options

    def fit(self, task: ProbeTask) -> nn.Linear:
        """Return the classifier, a linear layer with biases from `width` features to `classes` logits."""
        raise NotImplementedError


class Logistic(Probe):
    """Logistic regression at its optimum, without random numbers."""

    def fit(self, task: ProbeTask) -> nn.Linear:
        return logistic(task.features(), task.labels, task.classes, self.options.l2)


class SGD(Probe):
    """SGD on augmented images, as in SupContrast's main_linear.py."""

    def fit(self, task: ProbeTask) -> nn.Linear:
        net = Classifier(task.encoder, task.width, task.classes).to(task.labels.device)
        self._train(net, task)
        return net.head

    def attack(self, net: nn.Module, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the images to train on, in place of the augmented ones."""
        return x

    def _train(self, net: Classifier, task: ProbeTask) -> None:
        options, source = self.options, task.source
        for value in net.head.parameters():
            nn.init.zeros_(value)  # the problem is convex in the head's weights, so no random start is needed
        net.encoder.requires_grad_(self.tunes_encoder)
        trained = list(net.parameters()) if self.tunes_encoder else list(net.head.parameters())
        optimizer = torch.optim.SGD(trained, lr=options.lr, momentum=options.momentum)
        milestones = [int(share * options.epochs) for share in (0.6, 0.75, 0.9)]
        rng = np.random.default_rng([task.seed, 3])
        batch_size = min(options.batch, len(source))
        for epoch in range(options.epochs):
            set_rate(optimizer, options.lr * 0.2 ** sum(epoch >= milestone for milestone in milestones))
            order = torch.from_numpy(rng.permutation(len(source)))
            for number, rows in enumerate(order.split(batch_size)):
                [x] = task.views(rows, epoch * len(order) + number)
                labels = source.labels[rows.to(source.labels.device)]
                net.train(self.tunes_encoder)
                x = self.attack(net, x, labels, rng)
                with torch.set_grad_enabled(self.tunes_encoder):
                    h = net.encoder(x)
                loss = F.cross_entropy(net.head(h), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.encoder.requires_grad_(True)


class RobustSGD(SGD):
    """SGD on images that PGD attacks (RoCL's r-LE)."""

    def attack(self, net: nn.Module, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the images after PGD."""
        return pgd(net, x, labels, self.options, rng)


class FineTuning(SGD):
    """SGD that trains the encoder as well."""

    tunes_encoder = True


def fit(component: Component, encoder: Encoder, source: Source, classes: int, views: Views, seed: int) -> Classifier:
    """Train a classifier on an encoder, whose weights stay fixed unless the probe tunes them.

    component: with the role "probe".
    views: makes augmented views for training by SGD.
    seed: of the order of examples and of random starts.

    Raises RuntimeError if the weights of a frozen encoder changed, UserError for a probe that makes no classifier.
    """
    before = state_digest(encoder)
    net = Classifier(encoder, encoder.width, classes).to(source.labels.device)
    probe: Probe = component.build()
    encoder.eval()
    head = probe.fit(
        ProbeTask(encoder=encoder, width=encoder.width, classes=classes, source=source, views=views, seed=seed)
    )
    if {key: value.shape for key, value in head.state_dict().items()} != {
        key: value.shape for key, value in net.head.state_dict().items()
    }:
        raise UserError(
            f"the probe {component.name} made {head}, not a linear layer with biases from {encoder.width} features to "
            f"{classes} classes"
        )
    net.head.load_state_dict(head.state_dict())
    net.eval()
    if not probe.tunes_encoder and state_digest(encoder) != before:
        raise RuntimeError(f"the encoder's weights changed, although the probe '{component.name}' must not train it")
    return net


def accuracy(net: nn.Module, source: Source) -> float:
    """Return the share of examples that are classified correctly, with inputs as in evaluation."""
    net.eval()
    is_correct = features(net, source).argmax(1) == source.labels
    return float(is_correct.float().mean())


def pgd(net: nn.Module, x: Tensor, labels: Tensor, options: Robust, rng: np.random.Generator) -> Tensor:
    """Attack images in [0, 1] by PGD under linf from a random start, with steps of 2.5 eps / steps."""
    start = torch.from_numpy(rng.uniform(-options.eps, options.eps, x.shape).astype(np.float32))
    adversarial = (x + start.to(x.device)).clamp(0, 1)
    for _ in range(options.steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(adversarial), labels, reduction="sum"), adversarial)
        stepped = adversarial.detach() + 2.5 * options.eps / options.steps * gradient.sign()
        adversarial = (x + (stepped - x).clamp(-options.eps, options.eps)).clamp(0, 1)
    return adversarial.detach()
