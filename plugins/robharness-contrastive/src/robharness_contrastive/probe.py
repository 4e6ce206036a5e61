"""Linear classifiers on features: at the optimum, by steps, on attacked pictures, or with the encoder moving."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness.evaluation.digest import state_digest
from robharness_contrastive.data import Source, Views
from robharness_contrastive.networks import Classifier, Encoder
from robharness_contrastive.optim import set_rate
from robharness_contrastive.params import Probe

MOST_STEPS = 2000
"""Of L-BFGS; it ends where the gradient does."""


@torch.no_grad()
def features(encoder: nn.Module, source: Source) -> Tensor:
    """Of all examples as they are judged, (N, width) float32; the encoder in eval mode, and left so."""
    encoder.eval()
    return torch.cat([encoder(x).float() for x in source.plain()])


def logistic(h: Tensor, labels: Tensor, classes: int, l2: float) -> nn.Linear:
    """Logistic regression at its optimum, by L-BFGS in float64 from zero: nothing is random.

    h: features (N, width), standardised here, which is folded into the weights. The loss is the mean cross-entropy and
    l2 times half the squared norm of the weights on standardised features, not of the biases.
    """
    h = h.double()
    mean, deviation = h.mean(0), h.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    x = (h - mean) / deviation
    weight = torch.zeros(classes, h.shape[1], dtype=torch.float64, device=h.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=h.device, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, tolerance_grad=1e-7, tolerance_change=0, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    search.step(loss)
    head = nn.Linear(h.shape[1], classes, device=h.device)
    with torch.no_grad():
        folded = weight / deviation
        head.weight.copy_(folded)
        head.bias.copy_(bias - folded @ mean)
    return head


def fit(probe: Probe, encoder: Encoder, source: Source, classes: int, views: Views, seed: int) -> Classifier:
    """The encoder with the classifier that the probe asks for. Its weights stay as they are, unless it is to be tuned.

    views: of the augmentation of supervised training. Raises RuntimeError where a frozen encoder moved.
    """
    before = state_digest(encoder)
    net = Classifier(encoder, encoder.width, classes).to(source.labels.device)
    if probe.kind == "lbfgs":
        net.head = logistic(features(encoder, source), source.labels, classes, probe.l2)
    else:
        _by_steps(probe, net, source, views, seed)
    net.eval()
    if probe.kind != "finetune" and state_digest(encoder) != before:
        raise RuntimeError("the encoder moved under a probe that leaves it as it is")
    return net


def accuracy(net: nn.Module, source: Source) -> float:
    """Share of examples, as they are judged, whose class it finds."""
    net.eval()
    right = features(net, source).argmax(1) == source.labels
    return float(right.float().mean())


def _by_steps(probe: Probe, net: Classifier, source: Source, views: Views, seed: int) -> None:
    tunes = probe.kind == "finetune"
    for value in net.head.parameters():
        nn.init.zeros_(value)  # the problem is convex in them, and nothing is drawn
    net.encoder.requires_grad_(tunes)
    learning = list(net.parameters()) if tunes else list(net.head.parameters())
    optimizer = torch.optim.SGD(learning, lr=probe.lr, momentum=probe.momentum)
    falls = [int(share * probe.epochs) for share in (0.6, 0.75, 0.9)]
    draws = np.random.default_rng([seed, 3])
    rows_a_step = min(probe.batch, len(source))
    for epoch in range(probe.epochs):
        set_rate(optimizer, probe.lr * 0.2 ** sum(epoch >= fall for fall in falls))
        order = torch.from_numpy(draws.permutation(len(source)))
        for number, rows in enumerate(order.split(rows_a_step)):
            [x], labels = views(rows, epoch * len(order) + number), source.labels[rows.to(source.labels.device)]
            net.train(tunes)
            if probe.kind == "robust":
                x = attacked(net, x, labels, probe, draws)
            with torch.set_grad_enabled(tunes):
                h = net.encoder(x)
            loss = F.cross_entropy(net.head(h), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.encoder.requires_grad_(True)


def attacked(net: nn.Module, x: Tensor, labels: Tensor, probe: Probe, draws: np.random.Generator) -> Tensor:
    """Pictures after PGD under linf from a random start, with steps of 2.5 eps / steps."""
    start = torch.from_numpy(draws.uniform(-probe.eps, probe.eps, x.shape).astype(np.float32))
    found = (x + start.to(x.device)).clamp(0, 1)
    for _ in range(probe.steps):
        found.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(found), labels, reduction="sum"), found)
        stepped = found.detach() + 2.5 * probe.eps / probe.steps * gradient.sign()
        found = (x + (stepped - x).clamp(-probe.eps, probe.eps)).clamp(0, 1)
    return found.detach()
