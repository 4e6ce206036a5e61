"""Geometry of norm balls per example: random starts, steepest directions, and projections.

The result of an example must not depend on the number of rows in its batch. The order of torch's sums depends on the
tensor's shape, so rows are summed in a fixed order here. Trade-off: about twenty additions instead of one kernel, which
is a hundredth of the time of a forward pass.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robharness import ExampleRNG
from robharness_attacks.minimal_params import MinimalNorm
from robharness_attacks.params import Norm

DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""Norm in which a gradient is measured to get a distance in the other norm."""

GRID = 2**40
"""Shares of a step are summed in integer multiples of 1 / GRID; at most 2**22 entries of 1 fit into int64."""

ROUNDS = 60
"""Limit of iterations for an l1 projection; 5 to 10 are usual, and bisection would need 50."""


def direction(gradient: Tensor, norm: Literal["linf", "l2"]) -> Tensor:
    """Return the steepest perturbation of length 1, (N, *shape); 0 for a gradient of 0.

    gradient: (N, *shape). NaN counts as 0, infinity as the largest number.
    """
    gradient = gradient.nan_to_num()
    return gradient.sign() if norm == "linf" else unit(gradient, norm)


def sparse_step(x: Tensor, gradient: Tensor, length: float, count: int) -> Tensor:
    """Return the steepest step of an l1 length that stays in [0, 1] and whose entries are at most length / count.

    Inside the box, the entries with the `count` largest gradients get equal shares. The part for which an entry has no
    room goes to the entry with the next largest gradient. Of equal gradients the first entries come first.

    x, gradient: (N, *shape), as the result.
    length: in l1.
    count: number of equal shares.
    """
    gradient = gradient.nan_to_num()
    room = (x - (gradient > 0).to(x.dtype)).abs() * (gradient != 0)
    order = gradient.abs().flatten(1).sort(dim=1, descending=True, stable=True).indices
    shares = room.clamp_max(length / count).flatten(1).gather(1, order)
    units = (shares.double() * GRID).round().long()  # sums of integers do not depend on their order
    rest = (int(length * GRID) - (units.cumsum(1) - units)).clamp_min(0)
    taken = torch.where(rest < units, rest.double() / GRID, shares).to(x.dtype)
    return gradient.sign() * torch.zeros_like(taken).scatter(1, order, taken).view(x.shape)


def unit(x: Tensor, norm: Norm) -> Tensor:
    """Scale each row to length 1, (N, *shape), without underflow or overflow; rows of 0 stay 0."""
    largest = per_row(length(x, "linf"), x)
    scaled = x / torch.where(largest > 0, largest, 1)  # squares of tiny numbers would underflow
    return scaled / per_row(length(scaled, norm), x).clamp_min(1)  # the largest entry is 1 now, or all are 0


def project(x: Tensor, origin: Tensor, eps: float | Tensor, norm: MinimalNorm) -> Tensor:
    """Project x, (N, *shape), into the ball of radius eps around the origin and into [0, 1].

    linf and l1 return the nearest point of both. l2 returns the nearest point of the ball, clamped to the box, which
    stays in the ball. l0 keeps the eps largest changes, of equal ones the first, and clamps them to the box.

    eps: one radius for all rows, or one per row, (N,).
    """
    if norm == "l2":
        return rescale(x, origin, eps, norm)
    delta, radius = x - origin, _radii(eps, x)
    if norm == "l0":
        order = delta.flatten(1).abs().sort(dim=1, descending=True, stable=True).indices
        ranks = torch.zeros_like(order).scatter(
            1, order, torch.arange(order.shape[1], device=x.device).expand_as(order)
        )
        return torch.where((ranks < radius[:, None]).view(x.shape), x, origin).clamp(0, 1)
    if norm == "l1":
        room = (origin - (delta > 0).to(x.dtype)).abs()  # to 1 or to 0
        delta = delta.sign() * _soft_threshold(delta.flatten(1).abs(), room.flatten(1), radius).reshape(x.shape)
        moved = origin + delta  # pixels lie on a grid, so roundings add up: round toward the origin
        too_far = (moved - origin).abs() > delta.abs()
        return moved.nextafter(moved + (origin - moved) * too_far).clamp(0, 1)
    limit = per_row(radius, x)  # minimum and maximum: `clamp` with tensors takes seven times as long
    return delta.minimum(limit).maximum(-limit).add_(origin).clamp_(0, 1)


def rescale(x: Tensor, origin: Tensor, eps: float | Tensor, norm: Norm) -> Tensor:
    """Scale the perturbation of x, (N, *shape), to length eps if it is longer, then clamp to [0, 1].

    eps: one radius for all rows, or one per row, (N,).
    """
    delta = x - origin
    share = _radii(eps, x) / length(delta, norm).clamp_min(torch.finfo(x.dtype).tiny)
    return (origin + delta * per_row(share.clamp_max(1), x)).clamp(0, 1)


def random_start(rng: ExampleRNG, draw: str, like: Tensor, eps: float, norm: Norm) -> Tensor:
    """Draw perturbations uniformly from the ball of radius eps, (N, *shape); they are not clamped to the box.

    l2 takes n of the n + 2 coordinates of a random point on a sphere (Voelker et al., 2017). l1 takes n of n + 1
    exponential numbers divided by their sum, with random signs; two squared normal numbers sum to an exponential one.

    draw: name of the random numbers.
    like: (N, *shape), gives shape and type.
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


def length(x: Tensor, norm: MinimalNorm) -> Tensor:
    """Return the length of each row, (N,); the same bits whatever the other rows are. l0 counts the entries not 0."""
    if norm == "linf":
        return x.flatten(1).abs().amax(1)
    if norm == "l0":
        return (x != 0).flatten(1).sum(1).to(x.dtype)
    return row_sum(x.abs()) if norm == "l1" else row_sum(x.square()).sqrt()


def row_sum(x: Tensor) -> Tensor:
    """Return the sum of each row of x, (N, *shape), as (N,); the same bits whatever the other rows are."""
    values = x.flatten(1)
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        odd = values[:, 2 * half :]
        values = values[:, :half] + values[:, half : 2 * half]
        if odd.shape[1]:
            values[:, :1] += odd
    return values[:, 0]


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per row, (N,), to (N, 1, ...), which multiplies (N, *shape)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _radii(eps: float | Tensor, like: Tensor) -> Tensor:
    return eps if isinstance(eps, Tensor) else like.new_full((len(like),), eps)


def _soft_threshold(sizes: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """Return clamp(sizes - cut, 0, room), (N, n), with the smallest cut >= 0 for which a row's sum is at most radius.

    The sum is a decreasing piecewise linear function of the cut, solved by Newton's method. A step that leaves the
    bracketing interval is replaced by the interval's middle.

    radius: (N,).
    """
    result = sizes.minimum(room)
    rows = (row_sum(result) > radius).nonzero().flatten()
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
    share = torch.where(found, 1, radius / (over + radius)).clamp_max(1)  # the last bit of a cut can be too coarse
    result[rows] = shrunk * share[:, None]
    return result
