"""Heads from features and labels: each function is pure, and draws nothing but by its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness import UserError
from robharness_probe import heads
from robharness_probe.params import Linear, Schedule

MAX_STEPS = 2000
"""Limit for L-BFGS, which stops earlier when the gradient vanishes."""
BLOCK = 2**28
"""Numbers of a block of features in float64; more features are converted block by block in every step."""


def logistic(h: Tensor, labels: Tensor, classes: int, l2: float, *, standardize: bool = True) -> nn.Linear:
    """Fit logistic regression to its optimum by L-BFGS in float64 from zero, without random numbers.

    The loss is the mean cross-entropy plus l2 / 2 times the squared norm of the weights, without the biases. It applies
    to standardised features; the standardisation is folded into the returned weights.

    h: features (N, width).
    labels: (N,).
    classes: their number.
    l2: weight of the penalty.
    standardize: whether features have mean 0 and variance 1 in the loss.
    """
    mean, deviation = moments(h) if standardize else _no_moments(h)
    weight = torch.zeros(classes, h.shape[1], dtype=torch.float64, device=h.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=h.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, tolerance_grad=1e-7, tolerance_change=0, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    blocks = list(zip(_blocks(h), _blocks(h, labels), strict=True))
    whole = (blocks[0][0].double() - mean) / deviation if len(blocks) == 1 else None

    def loss() -> float:
        optimizer.zero_grad()
        penalty = l2 / 2 * weight.square().sum()
        penalty.backward()
        value = float(penalty.detach())
        for part, own in blocks:
            x = (part.double() - mean) / deviation if whole is None else whole
            share = F.cross_entropy(x @ weight.T + bias, own) * (len(own) / len(labels))
            share.backward()
            value += float(share.detach())
        return value

    optimizer.step(loss)
    return _folded(weight.detach(), bias.detach(), mean, deviation)


def descended(
    h: Tensor,
    labels: Tensor,
    classes: int,
    options: Linear,
    seed: int,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Linear:
    """Fit a linear classifier by SGD from zero on fixed features.

    h: features (N, width).
    labels: (N,).
    classes: their number.
    options: of SGD, see `Linear`.
    seed: of the order of the examples.
    report: gets the number of epochs that are done, and the mean loss of the last one.
    """
    mean, deviation = moments(h) if options.standardize else _no_moments(h)
    mean32, deviation32 = mean.float(), deviation.float()
    net = heads.linear(h.new_zeros(classes, h.shape[1]), h.new_zeros(classes))
    optimizer = torch.optim.SGD(
        net.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )
    for epoch in range(options.epochs):
        order = torch.from_numpy(np.random.default_rng([seed, 4, epoch]).permutation(len(h))).to(h.device)
        parts, total = order.split(options.batch), 0.0
        for number, rows in enumerate(parts):
            share = number / len(parts)
            factor = decay(options.schedule, epoch, share, options.epochs, milestones=options.milestones)
            set_rate(optimizer, options.lr * factor)
            x = (h[rows] - mean32) / deviation32
            loss = F.cross_entropy(net(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        report(epoch + 1, total / len(h))
    return _folded(net.weight.detach().double(), net.bias.detach().double(), mean, deviation)


def cosine_centroids(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of the unit features of every class, as unit vectors, (classes, width).

    Raises UserError for a class without an example.
    """
    return F.normalize(_means(F.normalize(h.double(), dim=1), labels, classes), dim=1).float()


def euclidean_centroids(h: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return weights (classes, width) and biases (classes,) of the linear classifier that chooses the nearest mean.

    A logit is minus half the squared distance to the mean of a class, up to a number that all classes share.

    Raises UserError for a class without an example.
    """
    means = _means(h.double(), labels, classes)
    centre = means.mean(0)  # smaller numbers lose fewer digits
    weight = means - centre
    return weight.float(), (centre.square().sum() / 2 - means.square().sum(1) / 2).float()


def _means(h: Tensor, labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        named = ", ".join(map(str, absent[:5])) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise UserError(
            f"no training example has the class {named} of {classes}, so that it has no mean. "
            f"Try: `model: probe/knn`, or more training data"
        )
    sums = torch.zeros(classes, h.shape[1], dtype=h.dtype, device=h.device).index_add_(0, labels, h)
    return sums / counts[:, None]


# --- standardisation and learning rates -------------------------------------------------------------------------------


def moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every feature, float64 (width,); the deviation is 1 for a constant."""
    blocks = _blocks(h)
    if len(blocks) == 1:
        mean, deviation = h.double().mean(0), h.double().std(0, correction=0)
    else:
        mean = torch.stack([part.double().sum(0) for part in blocks]).sum(0) / len(h)
        squares = torch.stack([(part.double() - mean).square().sum(0) for part in blocks]).sum(0)
        deviation = (squares / len(h)).sqrt()
    return mean, torch.where(deviation > 0, deviation, 1)


def _no_moments(h: Tensor) -> tuple[Tensor, Tensor]:
    zeros = torch.zeros(h.shape[1], dtype=torch.float64, device=h.device)
    return zeros, zeros + 1


def _blocks(h: Tensor, values: Tensor | None = None) -> list[Tensor]:
    """Return features, or values beside them, in parts of at most BLOCK features."""
    return list((h if values is None else values).split(max(1, BLOCK // h.shape[1])))


def _folded(weight: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor) -> nn.Linear:
    """Return the linear classifier of features that are not standardised."""
    folded = weight / deviation
    return heads.linear(folded, bias - folded @ mean)


def decay(
    schedule: Schedule,
    epoch: int,
    share: float,
    epochs: int,
    warmup: float = 0.0,
    milestones: Sequence[int] | None = None,
) -> float:
    """Return the factor of the learning rate, from 0 to 1.

    epoch: number of epochs that are done.
    share: part of the next epoch that is done.
    epochs: number of all epochs.
    warmup: epochs in which the factor rises linearly.
    milestones: of "step", the numbers of finished epochs after each of which the factor is a tenth; by default 60 % and
        80 % of the epochs.
    """
    at = epoch + share
    if at < warmup:
        return max(at, 0.01) / warmup if warmup > 0.01 else 1.0
    if schedule == "step":
        found = [int(part * epochs) for part in (0.6, 0.8)] if milestones is None else milestones
        return 0.1 ** sum(epoch >= milestone for milestone in found)
    return (1 + math.cos(math.pi * at / epochs)) / 2


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameter groups; a group's `factor` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("factor", 1)
