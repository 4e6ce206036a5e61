"""Train a linear classifier on features: at its optimum, by SGD, on adversarial images, or with the encoder tuned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness import Component, UserError, state_digest
from robharness_contrastive.data import Source, Views
from robharness_contrastive.networks import Encoder
from robharness_contrastive.options import Robust
from robharness_probe import heads
from robharness_probe.fitting import logistic
from robharness_probe.loop import descend, pgd


@torch.no_grad()
def features(encoder: nn.Module, source: Source) -> Tensor:
    """Return the features of all examples as in evaluation, (N, width) float32. Leaves the encoder in eval mode."""
    encoder.eval()
    return torch.cat([encoder(x).float() for x in source.evaluation_batches()])


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
        head = heads.linear(torch.zeros(task.classes, task.width), torch.zeros(task.classes))  # the problem is convex
        self._train(heads.Probed(task.encoder, head).to(task.labels.device), task)
        return head

    def attack(self, net: nn.Module, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the images to train on, in place of the augmented ones."""
        return x

    def _train(self, net: heads.Probed, task: ProbeTask) -> None:
        options, source = self.options, task.source
        trained = list(net.parameters()) if self.tunes_encoder else list(net.head.parameters())
        milestones = [int(share * options.epochs) for share in (0.6, 0.75, 0.9)]
        rng = np.random.default_rng([task.seed, 3])

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            order = torch.from_numpy(rng.permutation(len(source)))
            for number, rows in enumerate(order.split(min(options.batch, len(source)))):
                [x] = task.views(rows, epoch * len(order) + number)
                yield x, source.labels[rows.to(source.labels.device)]

        descend(
            net,
            batches,
            torch.optim.SGD(trained, lr=options.lr, momentum=options.momentum),
            epochs=range(options.epochs),
            rate=lambda epoch, step: options.lr * 0.2 ** sum(epoch >= milestone for milestone in milestones),
            tunes_encoder=self.tunes_encoder,
            attack=lambda net, x, labels, epoch: self.attack(net, x, labels, rng),
        )


class RobustSGD(SGD):
    """SGD on images that PGD attacks (RoCL's r-LE)."""

    def attack(self, net: nn.Module, x: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the images after PGD."""
        return attacked(net, x, labels, self.options, rng)


class FineTuning(SGD):
    """SGD that trains the encoder as well."""

    tunes_encoder = True


def fit(component: Component, encoder: Encoder, source: Source, classes: int, views: Views, seed: int) -> heads.Probed:
    """Train a classifier on an encoder, whose weights stay fixed unless the probe tunes them.

    component: with the role "probe".
    views: makes augmented views for training by SGD.
    seed: of the order of examples and of random starts.

    Raises RuntimeError if the weights of a frozen encoder changed, UserError for a probe that makes no classifier.
    """
    before = state_digest(encoder)
    probe: Probe = component.build()
    encoder.to(source.labels.device).eval()
    head = probe.fit(
        ProbeTask(encoder=encoder, width=encoder.width, classes=classes, source=source, views=views, seed=seed)
    )
    expected = {"weight": (classes, encoder.width), "bias": (classes,)}
    if {key: tuple(value.shape) for key, value in head.state_dict().items()} != expected:
        raise UserError(
            f"the probe {component.name} made {head}, not a linear layer with biases from {encoder.width} features to "
            f"{classes} classes"
        )
    if not probe.tunes_encoder and state_digest(encoder) != before:
        raise RuntimeError(f"the encoder's weights changed, although the probe '{component.name}' must not train it")
    state = head.state_dict()
    return heads.Probed(encoder, heads.linear(state["weight"], state["bias"])).eval()


def accuracy(net: nn.Module, source: Source) -> float:
    """Return the share of examples that are classified correctly, with inputs as in evaluation."""
    net.eval()
    is_correct = features(net, source).argmax(1) == source.labels
    return float(is_correct.float().mean())


def attacked(net: nn.Module, x: Tensor, labels: Tensor, options: Robust, rng: np.random.Generator) -> Tensor:
    """Attack images in [0, 1] by PGD under linf from a random start, with steps of 2.5 eps / steps."""
    step = 2.5 * options.eps / options.steps
    return pgd(net, x, labels, eps=options.eps, step=step, steps=options.steps, rng=rng)
