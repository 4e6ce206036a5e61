"""The geometry of a ball, per norm and per example: where to start, which way is steepest, how to come back.

An example's numbers must not depend on how many rows it comes with. torch's own sums add up in an order that depends on
the tensor's shape, so rows are summed in a fixed one. Trade-off: about twenty additions instead of one kernel, a
hundredth of what a pass through a network takes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robharness import ExampleRNG
from robharness_attacks.params import Norm

GRID = 2**40
"""Shares of a step are added up in whole multiples of 1 / GRID; 2**22 entries of 1 are the most that fit."""

ROUNDS = 60
"""At most so many to find an l1 projection; 5 to 10 are usual, and halving an interval would need 50."""


def direction(gradient: Tensor, norm: Literal["linf", "l2"]) -> Tensor:
    """The steepest perturbation of length 1, shaped as the gradient, (N, *shape); zeros where the gradient is zero.

    Entries that are NaN count as zero, infinite ones as the largest number.
    """
    gradient = gradient.nan_to_num()
    return gradient.sign() if norm == "linf" else unit(gradient, norm)


def sparse_step(x: Tensor, gradient: Tensor, length: float, count: int) -> Tensor:
    """The steepest step of this l1 length inside [0, 1] in which no entry takes more than one of `count` equal shares.

    x, gradient, step: (N, *shape). Where the box leaves room it is equal shares for the `count` largest gradients; what
    an entry has no room for goes to the next largest one. Of equal gradients the first entries come first.
    """
    gradient = gradient.nan_to_num()
    room = (x - (gradient > 0).to(x.dtype)).abs() * (gradient != 0)
    order = gradient.abs().flatten(1).sort(dim=1, descending=True, stable=True).indices
    shares = room.clamp_max(length / count).flatten(1).gather(1, order)
    whole = (shares.double() * GRID).round().long()  # sums of whole numbers do not depend on their order
    left = (int(length * GRID) - (whole.cumsum(1) - whole)).clamp_min(0)
    taken = torch.where(left < whole, left.double() / GRID, shares).to(x.dtype)
    return gradient.sign() * torch.zeros_like(taken).scatter(1, order, taken).view(x.shape)


def unit(x: Tensor, norm: Norm) -> Tensor:
    """Each row scaled to length 1, (N, *shape), however small or large it is; zeros stay."""
    largest = per_row(length(x, "linf"), x)
    scaled = x / torch.where(largest > 0, largest, 1)  # squares of tiny numbers would underflow
    return scaled / per_row(length(scaled, norm), x).clamp_min(1)  # the largest entry is 1 now, or all are 0


def project(x: Tensor, origin: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """x, (N, *shape), brought back into the ball of radius eps around the origin and into [0, 1].

    eps: one for all, or one per row, (N,). linf and l1: the nearest point of both. l2: the nearest of the ball, cut to
    the box, which stays in the ball.
    """
    if norm == "l2":
        return rescale(x, origin, eps, norm)
    delta, radius = x - origin, _radii(eps, x)
    if norm == "l1":
        room = (origin - (delta > 0).to(x.dtype)).abs()  # to 1 or to 0
        delta = delta.sign() * _shrunk(delta.flatten(1).abs(), room.flatten(1), radius).reshape(x.shape)
        moved = origin + delta  # pixels lie on a grid, so all round the same way, which adds up: toward the origin then
        too_far = (moved - origin).abs() > delta.abs()
        return moved.nextafter(moved + (origin - moved) * too_far).clamp(0, 1)
    limit = per_row(radius, x)  # the smaller, then the larger: `clamp` takes seven times as long with tensors
    return delta.minimum(limit).maximum(-limit).add_(origin).clamp_(0, 1)


def rescale(x: Tensor, origin: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """x, (N, *shape), brought back along the line to the origin, then cut to [0, 1]; eps as for `project`."""
    delta = x - origin
    share = _radii(eps, x) / length(delta, norm).clamp_min(torch.finfo(x.dtype).tiny)
    return (origin + delta * per_row(share.clamp_max(1), x)).clamp(0, 1)


def random_start(rng: ExampleRNG, draw: str, like: Tensor, eps: float, norm: Norm) -> Tensor:
    """A perturbation drawn uniformly from the ball of radius eps, (N, *shape); the box is the caller's.

    l2: n of the n + 2 coordinates of a random point on a sphere (Voelker et al., 2017). l1: n of n + 1 exponential
    numbers over their sum, with random signs; the squares of two normal numbers add up to an exponential one.
    """
    if norm == "linf":
        return (2 * rng.uniform(draw, like.shape[1:]) - 1).to(like.dtype) * eps
    size = like[0].numel()
    if norm == "l2":
        values = rng.normal(draw, (size + 2,)).to(like.dtype)
        values = values / length(values, norm)[:, None]
    else:
        one, other = rng.normal(draw, (2, size + 1)).to(like.dtype).unbind(1)
        values = one.square() + other.square()
        values = one.sign() * values / row_sum(values)[:, None]
    return eps * values[:, :size].reshape(like.shape)


def length(x: Tensor, norm: Norm) -> Tensor:
    """Per row, (N,); the same bits whatever the other rows."""
    if norm == "linf":
        return x.flatten(1).abs().amax(1)
    return row_sum(x.abs()) if norm == "l1" else row_sum(x.square()).sqrt()


def row_sum(x: Tensor) -> Tensor:
    """The sum of each row of x, (N, *shape), as (N,); the same bits whatever the other rows."""
    values = x.flatten(1)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        odd = values[:, 2 * half :]
        values = values[:, :half] + values[:, half : 2 * half]
        if odd.shape[1]:
            values[:, :1] += odd
    return values[:, 0]


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, (N,), shaped to multiply (N, *shape): (N, 1, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _radii(eps: float | Tensor, like: Tensor) -> Tensor:
    return eps if isinstance(eps, Tensor) else like.new_full((len(like),), eps)


def _shrunk(sizes: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """clamp(sizes - cut, 0, room), (N, n), with the smallest cut >= 0 that leaves a row's sum at most radius, (N,).

    Newton's method: the sum falls with the cut along straight pieces. A step that leaves the interval in which the cut
    is known to lie is replaced by its middle.
    """
    left = sizes.minimum(room)
    rows = (row_sum(left) > radius).nonzero().flatten()
    sizes, room, radius = sizes[rows], room[rows], radius[rows]
    cut = low = torch.zeros_like(radius)
    high = sizes.amax(1)
    for turn in range(ROUNDS):
        shrunk = (sizes - cut[:, None]).clamp_min(0).minimum(room)
        over = row_sum(shrunk) - radius
        found = over.abs() <= 4 * torch.finfo(radius.dtype).eps * radius
        low, high = torch.where(over > 0, cut, low), torch.where(over < 0, cut, high)
        newton = cut + over / ((shrunk > 0) & (shrunk < room)).sum(1)
        is_inside = (newton > low) & (newton < high) & (turn < ROUNDS // 3)
        before, cut = cut, torch.where(found, cut, torch.where(is_inside, newton, (low + high) / 2))
        if torch.equal(before, cut):
            break
    share = torch.where(found, 1, radius / (over + radius)).clamp_max(1)  # a cut's last place can be too coarse
    left[rows] = shrunk * share[:, None]
    return left
