"""The geometry of a ball, per norm and per example: where to start, which way is steepest, how to come back.

An example's numbers must not depend on how many rows it comes with. torch's own reductions add up in an order that
depends on the tensor's shape, so lengths are summed in a fixed one. Trade-off: about twenty additions instead of one
kernel, a hundredth of what a pass through a network takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robharness import ExampleRNG
from robharness_attacks import Norm


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The steepest perturbation of length 1, shaped as the gradient, (N, *shape); zeros where the gradient is zero.

    Entries that are NaN count as zero, infinite ones as the largest number.
    """
    gradient = gradient.nan_to_num()
    if norm == "linf":
        return gradient.sign()
    largest = per_row(gradient.flatten(1).abs().amax(1), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1)  # squares of tiny gradients would underflow
    return scaled / _length(scaled).clamp_min(1)  # the largest entry is 1 now, or all are 0


def project(delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """The nearest perturbation of length at most eps, (N, *shape)."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / _length(delta).clamp_min(torch.finfo(delta.dtype).tiny)).clamp_max(1)


def random_start(rng: ExampleRNG, draw: str, like: Tensor, eps: float, norm: Norm) -> Tensor:
    """A perturbation drawn uniformly from the ball of radius eps, (N, *shape).

    l2: n of the n + 2 coordinates of a random point on a sphere (Voelker et al., 2017).
    """
    if norm == "linf":
        return (2 * rng.uniform(draw, like.shape[1:]) - 1).to(like.dtype) * eps
    size = like[0].numel()
    normal = rng.normal(draw, (size + 2,)).to(like.dtype)
    return eps * (normal / _length(normal))[:, :size].reshape(like.shape)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, (N,), shaped to multiply (N, *shape): (N, 1, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _length(x: Tensor) -> Tensor:
    """Euclidean length per row, (N, 1, ...); the same bits whatever the other rows."""
    values = x.flatten(1).square()
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        rest = values[:, half:]
        values = values[:, :half].clone()
        values[:, : rest.shape[1]] += rest
    return per_row(values[:, 0].sqrt(), x)
