"""Train a linear classifier on features: at its optimum, by SGD, on adversarial images, or with the encoder tuned."""

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
    net.encoder.requires_grad_(tunes_encoder)
    trained = list(net.parameters()) if tunes_encoder else list(net.head.parameters())
    optimizer = torch.optim.SGD(trained, lr=probe.lr, momentum=probe.momentum)
    milestones = [int(share * probe.epochs) for share in (0.6, 0.75, 0.9)]
    rng = np.random.default_rng([seed, 3])
    batch_size = min(probe.batch, len(source))
    for epoch in range(probe.epochs):
        set_rate(optimizer, probe.lr * 0.2 ** sum(epoch >= milestone for milestone in milestones))
        order = torch.from_numpy(rng.permutation(len(source)))
        for number, rows in enumerate(order.split(batch_size)):
            [x], labels = views(rows, epoch * len(order) + number), source.labels[rows.to(source.labels.device)]
            net.train(tunes_encoder)
            if probe.kind == "robust":
                x = pgd(net, x, labels, probe, rng)
            with torch.set_grad_enabled(tunes_encoder):
                h = net.encoder(x)
            loss = F.cross_entropy(net.head(h), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.encoder.requires_grad_(True)


def pgd(net: nn.Module, x: Tensor, labels: Tensor, probe: Probe, rng: np.random.Generator) -> Tensor:
    """Attack images in [0, 1] by PGD under linf from a random start, with steps of 2.5 eps / steps."""
    start = torch.from_numpy(rng.uniform(-probe.eps, probe.eps, x.shape).astype(np.float32))
    adversarial = (x + start.to(x.device)).clamp(0, 1)
    for _ in range(probe.steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(adversarial), labels, reduction="sum"), adversarial)
        stepped = adversarial.detach() + 2.5 * probe.eps / probe.steps * gradient.sign()
        adversarial = (x + (stepped - x).clamp(-probe.eps, probe.eps)).clamp(0, 1)
    return adversarial.detach()
