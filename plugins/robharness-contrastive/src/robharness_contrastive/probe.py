"""Train a linear classifier on features: at its optimum, by SGD, on adversarial images, or with the encoder tuned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from robharness.evaluation.digest import state_digest
from robharness_contrastive.data import Source, Views
from robharness_contrastive.networks import Classifier, Encoder
from robharness_contrastive.params import Probe
from robharness_probe.fitting import logistic
from robharness_probe.loop import descend, pgd


@torch.no_grad()
def features(encoder: nn.Module, source: Source) -> Tensor:
    """Return the features of all examples as in evaluation, (N, width) float32. Leaves the encoder in eval mode."""
    encoder.eval()
    return torch.cat([encoder(x).float() for x in source.evaluation_batches()])


def fit(probe: Probe, encoder: Encoder, source: Source, classes: int, views: Views, seed: int) -> Classifier:
    """Train a classifier on an encoder. The encoder's weights stay fixed, except for the kind "finetune".

    probe: options.
    views: makes augmented views for training by SGD.
    seed: of the order of examples and of random starts.

    Raises RuntimeError if the weights of a frozen encoder changed.
    """
    before = state_digest(encoder)
    net = Classifier(encoder, encoder.width, classes).to(source.labels.device)
    if probe.kind == "lbfgs":
        net.head = logistic(features(encoder, source), source.labels, classes, probe.l2)
    else:
        _fit_by_sgd(probe, net, source, views, seed)
    net.eval()
    if probe.kind != "finetune" and state_digest(encoder) != before:
        raise RuntimeError(f"the encoder's weights changed, although a probe of kind '{probe.kind}' must not train it")
    return net


def accuracy(net: nn.Module, source: Source) -> float:
    """Return the share of examples that are classified correctly, with inputs as in evaluation."""
    net.eval()
    is_correct = features(net, source).argmax(1) == source.labels
    return float(is_correct.float().mean())


def _fit_by_sgd(probe: Probe, net: Classifier, source: Source, views: Views, seed: int) -> None:
    tunes_encoder = probe.kind == "finetune"
    for value in net.head.parameters():
        nn.init.zeros_(value)  # the problem is convex in the head's weights, so no random start is needed
    trained = list(net.parameters()) if tunes_encoder else list(net.head.parameters())
    milestones = [int(share * probe.epochs) for share in (0.6, 0.75, 0.9)]
    rng = np.random.default_rng([seed, 3])

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(rng.permutation(len(source)))
        for number, rows in enumerate(order.split(min(probe.batch, len(source)))):
            [x] = views(rows, epoch * len(order) + number)
            yield x, source.labels[rows.to(source.labels.device)]

    descend(
        net, batches, torch.optim.SGD(trained, lr=probe.lr, momentum=probe.momentum), epochs=range(probe.epochs),
        rate=lambda epoch, step: probe.lr * 0.2 ** sum(epoch >= milestone for milestone in milestones),
        tunes_encoder=tunes_encoder,
        attack=(lambda net, x, labels, epoch: attacked(net, x, labels, probe, rng)) if probe.kind == "robust" else None,
    )  # fmt: skip


def attacked(net: nn.Module, x: Tensor, labels: Tensor, probe: Probe, rng: np.random.Generator) -> Tensor:
    """Attack images in [0, 1] by PGD under linf from a random start, with steps of 2.5 eps / steps."""
    step = 2.5 * probe.eps / probe.steps
    return pgd(net, x, labels, eps=probe.eps, step=step, steps=probe.steps, rng=rng)
