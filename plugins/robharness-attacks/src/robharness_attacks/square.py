"""Square (Andriushchenko et al., 2020): random search with square windows, which uses scores and no gradients.

This is AutoAttack's variant: it compares margins, and does not scale the schedule of window sizes to the number of
queries. A candidate depends only on the example's best point and its own draws, and few candidates improve on the best
point. So if fewer examples are active than a pass has rows, the pass evaluates several candidates of each. The first
better one counts; the later ones are made again from the new best point.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.norms import length, project, unit
from robharness_attacks.objectives import clearly_fooled, lead
from robharness_attacks.params import Norm, SquareParams

BLOCK = 250
"""Queries whose random numbers are drawn together: a draw costs as much as a few queries of a small network."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share of pixels in a window is halved: the paper's schedule for 10,000 queries."""


@dataclass(frozen=True)
class Square:
    """Square. A misclassified clean input is not queried; an example leaves when the model is clearly fooled.

    Inputs are images of any size; all axes before the last two are their channels.

    Each example has its own windows and signs, as in the paper. In the authors' code a batch shares its windows, which
    never contain the last row and column. Under linf, windows reach every pixel, as in the paper. Under l2 and l1 they
    leave out the same row and column as the authors': a candidate there has two windows, and is lost if one of them
    lies in a border where nothing can change.

    The paper does not define l1. A channel's window gets its former length and its part of the unused budget, as under
    l2; the authors multiply that by the number of channels.

    block: queries whose random numbers are drawn together.

    Notes:
    queries: number of queries made.
    """

    params: SquareParams
    block: int = field(default=BLOCK, repr=False)

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        x, queries = batch.x.clone(), torch.zeros_like(batch.labels)
        best = lead(batch.logits(model), batch.labels)
        rows = (best <= 0).nonzero().flatten()
        best[rows] = -torch.inf
        for run in range(self.params.restarts):
            if len(rows) == 0:
                break
            found = self._run(model, batch.x[rows], batch.labels[rows], eps, rng.select(rows), f"run {run}")
            queries[rows] += found.queries
            better = found.lead > best[rows]
            won = rows[better]
            best[won], x[won] = found.lead[better], found.x[better]
            rows = rows[~found.fooled]
        return Perturbed(x=x, notes={"queries": queries})

    def _run(
        self, model: Classifier, origin: Tensor, labels: Tensor, eps: float, rng: ExampleRNG, name: str
    ) -> _Search:
        """Make one run for these inputs, (n, *shape). Query 0 is the start."""
        params = self.params
        origin = origin.contiguous()
        x = _start(origin, eps, params.norm, rng, f"{name} start").contiguous()
        logits = model.logits(x)
        leads, fooled = lead(logits, labels), clearly_fooled(logits, labels)
        found = _Search(x, origin, labels, leads, torch.ones_like(labels), fooled)
        for block, first in enumerate(range(0, params.queries, self.block)):
            sides = [_side(params, query, *x.shape[-2:]) for query in range(params.queries)[first : first + self.block]]
            active = (~found.fooled).nonzero().flatten()
            for start in range(0, len(active), model.batch_size):
                rows = active[start : start + model.batch_size]
                part = _Search(*(whole[rows] for whole in found))
                windows = _windows(rng.select(rows), f"{name} queries {block}", sides, params.norm, origin, self.block)
                last = first
                for side, queries in groupby(sides):
                    last += len(list(queries))
                    _advance(model, part, last, eps, windows, _square(side, params.norm, origin))
                for whole, new in zip(found, part, strict=True):
                    whole[rows] = new
        return found


class _Search(NamedTuple):
    """State of a run for n examples.

    x: (n, *shape), the best points.
    origin: (n, *shape), the clean inputs.
    labels: (n,).
    lead: (n,), at the best points.
    queries: (n,), number of queries made so far.
    fooled: (n,) bool, examples on which the model is clearly fooled and which have left.
    """

    x: Tensor
    origin: Tensor
    labels: Tensor
    lead: Tensor
    queries: Tensor
    fooled: Tensor


def _advance(model: Classifier, found: _Search, last: int, eps: float, windows: _Windows, square: _Square) -> None:
    """Make the queries up to `last` with windows of one size, for at most one pass's rows. Updates `found`."""
    propose = _flip if square.norm == "linf" else _shift
    slots = torch.arange(model.batch_size, device=found.x.device)
    x, origin = found.x.new_empty(2, model.batch_size, *found.x.shape[1:])  # reused: large tensors are slow to allocate
    while (n := len(active := ((found.queries <= last) & ~found.fooled).nonzero().flatten())) > 0:
        # Candidates of the examples alternate until the pass is full; its last n slots hold all examples in order.
        turn, place = slots // n, (slots - model.batch_size) % n
        examples = active[place]
        query = (found.queries[examples] + turn).clamp_max(last)
        for whole, part in ((found.x, x), (found.origin, origin)):
            torch.index_select(whole, 0, examples, out=part)  # six times as fast as whole[examples]
        propose(x.flatten(1), origin.flatten(1), eps, windows.of(examples, (query - 1) % windows.block), square)
        logits, labels = model.logits(x), found.labels[examples]
        leads = lead(logits, labels)
        better, fooled = leads > found.lead[examples], leads > 0
        if fooled.any():
            fooled = clearly_fooled(logits, labels)
            better |= fooled
        firsts = torch.where(better, slots, model.batch_size)
        chosen = slots[-n:].scatter_reduce(0, place, firsts, "amin")  # per example the first better one, or the last
        made = query[chosen] + 1
        model.discount(model.batch_size - int((made - found.queries[active]).sum()))  # what filled the pass for nothing
        found.queries[active] = made
        won = better[chosen].nonzero().flatten()
        rows, chosen = active[won], chosen[won]
        found.x[rows], found.lead[rows], found.fooled[rows] = x[chosen], leads[chosen], fooled[chosen]


class _Windows(NamedTuple):
    """Windows of a block of queries: B queries, C channels.

    corners: (n, B, 2), two per query, as indices into a channel.
    signs: (n, B, C).
    transposed: (n, B), 0 or 1, whether the pattern is transposed.
    block: number of queries whose numbers are drawn together.
    """

    corners: Tensor
    signs: Tensor
    transposed: Tensor
    block: int

    def of(self, examples: Tensor, query: Tensor) -> _Windows:
        """Return the windows of one query for each of m candidates, without the axis B."""
        corners, signs, transposed = (drawn[examples, query] for drawn in self[:3])
        return _Windows(corners, signs, transposed, self.block)


def _windows(rng: ExampleRNG, draw: str, sides: list[int], norm: Norm, like: Tensor, block: int) -> _Windows:
    """Draw windows of these sides for inputs (n, *shape), with five numbers per query and one per channel."""
    *channels, height, width = like.shape[1:]
    draws = rng.uniform(draw, (block, 5 + math.prod(channels)))[:, : len(sides)]
    border = 0 if norm == "linf" else 1
    positions = [[max(length - side + 1 - border, 1) for length in (height, width)] for side in sides]
    room = torch.tensor(positions, device=like.device)
    down, right = (draws[..., :4].reshape(*draws.shape[:2], 2, 2) * room[:, None]).long().unbind(-1)
    return _Windows(down * width + right, _signs(draws[..., 5:], like), (draws[..., 4] < 0.5).long(), block)


class _Square(NamedTuple):
    """Pixels of a window of one size, and its patterns.

    offsets: (C, side²), of the pixels in the flat input, relative to the window's corner.
    patterns: (2, side²).
    """

    norm: Norm
    offsets: Tensor
    patterns: Tensor


def _square(side: int, norm: Norm, like: Tensor) -> _Square:
    pixels = torch.arange(like[0].numel(), device=like.device).view(-1, *like.shape[-2:])
    return _Square(norm, pixels[:, :side, :side].flatten(1), _pattern(side, norm).to(like).flatten(1))


def _side(params: SquareParams, query: int, height: int, width: int) -> int:
    """Return the side of a window by the schedule; unless the norm is linf, it is odd and at least 3."""
    share = float(params.p_init) / 2 ** bisect_left(HALVINGS, query)
    side = max(round(math.sqrt(share * height * width)), 1)
    if params.norm != "linf":
        side = max(side, 3) | 1
    return min(side, height, width)


def _flip(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square) -> None:
    """Set all pixels of the window to one of the two edges of the linf ball, drawn per channel. x: (m, D)."""
    window = windows.corners[:, :1, None] + square.offsets  # (m, C, side²)
    pixels = window.flatten(1)
    new = origin.gather(1, pixels).view_as(window) + eps * windows.signs[..., None]
    x.scatter_(1, pixels, new.clamp_(0, 1).flatten(1))


def _shift(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square) -> None:
    """Move the perturbation of one window, and the unused rest of eps, to another window in l2 or l1.

    The other window's perturbation becomes a sum of itself and a pattern. Where the windows overlap, its values count.
    """
    power = 2 if square.norm == "l2" else 1
    both = windows.corners[..., None, None] + square.offsets  # (m, 2, C, side²)
    (cleared, filled), window = both.flatten(2).unbind(1), both[:, 0]

    def mass(delta: Tensor) -> Tensor:
        """Return the length to its power, per channel, (m, C, 1), summed in a fixed order; windows are small."""
        parts = delta.view_as(window)
        parts = parts.square() if power == 2 else parts.abs()
        return parts.cumsum(-1, dtype=torch.float64)[..., -1:].to(x.dtype)

    unused = eps**power - length(x - origin, square.norm) ** power
    old, clean = x.gather(1, filled), origin.gather(1, filled)
    removed, clean_there = x.gather(1, cleared), origin.gather(1, cleared)
    x.scatter_(1, cleared, clean_there)
    moved = mass(removed - clean_there) + mass(x.gather(1, filled) - clean)
    delta = (old - clean).view_as(window)
    pattern = square.patterns[windows.transposed, None] * windows.signs[..., None]
    change = pattern + delta / (mass(delta) ** (1 / power)).clamp_min(1e-12)
    share = (unused[:, None, None] / len(square.offsets) + moved).clamp_min(0) / mass(change).clamp_min(1e-12)
    x.scatter_(1, filled, _add(clean, (change * share ** (1 / power)).flatten(1)))


def _add(x: Tensor, delta: Tensor) -> Tensor:
    """Return x + delta in [0, 1], rounded toward x: roundings of many small changes could exceed the budget."""
    result = x + delta
    return torch.where((result - x).abs() > delta.abs(), result.nextafter(x), result).clamp_(0, 1)


def _start(origin: Tensor, eps: float, norm: Norm, rng: ExampleRNG, draw: str) -> Tensor:
    """Return the start: vertical stripes under linf; under l2 and l1 a grid of patterns, five on the shorter side."""
    *channels, height, width = origin.shape[1:]
    planes = math.prod(channels)
    if norm == "linf":
        stripes = _signs(rng.uniform(draw, (*channels, 1, width)), origin)
        return (origin + eps * stripes).clamp(0, 1)
    side = max(min(height, width) // 5, 1)
    down, right = height // side, width // side
    draws = rng.uniform(draw, (down, right, 1 + planes))
    tiles = _pattern(side, norm).to(origin)[(draws[..., 0] < 0.5).long()]  # (n, down, right, side, side)
    signs = _signs(draws[..., 1:], origin).movedim(-1, 1)
    grid = (tiles[:, None] * signs[..., None, None]).transpose(-3, -2).flatten(-4, -3).flatten(-2)
    top, left = (height - down * side) // 2, (width - right * side) // 2
    delta = origin.new_zeros(len(origin), planes, height, width)
    delta[..., top : top + down * side, left : left + right * side] = grid
    delta = delta.view(origin.shape)
    if norm == "l1":
        return project(origin + delta, origin, eps, norm)
    return _add(origin, eps * unit(delta, norm))


def _signs(uniform: Tensor, like: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(like.dtype)


def _pattern(side: int, norm: Norm) -> Tensor:
    """Return the paper's eta and its transpose, (2, side, side): two peaks of opposite sign, one above the other."""
    order = 1 if norm == "l1" else 2
    peaks = [_peak(height, side, order) for height in (side // 2, side - side // 2)]
    eta = torch.cat([peaks[0], -peaks[1]])
    eta = eta / torch.linalg.vector_norm(eta, order)
    return torch.stack([eta, eta.T])


def _peak(height: int, width: int, order: int) -> Tensor:
    """Return a sum of concentric rectangles with weights that fall with their size, (height, width), of length 1."""
    if height == 0:
        return torch.zeros(0, width, dtype=torch.float64)
    down, right = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(down.abs()[:, None], right.abs())
    heights = torch.arange(1, int(ring.max()) + 2, dtype=torch.float64) ** (-4 if order == 1 else -2)
    peak: Tensor = heights.flip(0).cumsum(0).flip(0)[ring]
    return peak.div(torch.linalg.vector_norm(peak, order))
