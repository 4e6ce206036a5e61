"""Square (Andriushchenko et al., 2020): random search with square windows, which sees scores and no gradient.

The variant of AutoAttack: the margin is what counts, and the schedule of window sizes is not stretched to the number
of queries. Few candidates are better than the best point, and what an example tries next depends on its best point and
its own draws alone. So where fewer examples are left than a pass has rows, the pass tries several candidates of each,
of which the first that is better counts; those behind it are made again from the new best point.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.norms import length, project, unit
from robharness_attacks.objectives import clearly_fooled, lead
from robharness_attacks.params import Norm, SquareParams

BLOCK = 250
"""Queries whose random numbers are drawn at once: a draw costs as much as a few queries of a small network."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After so many queries the share of pixels in a window is halved: the paper's schedule, made for 10,000 queries."""


@dataclass(frozen=True)
class Square:
    """Examples that are fooled as they are, are not queried; the others leave once they are clearly fooled.

    Inputs are pictures, whatever their sides; all axes before the last two are their channels. As in the paper, each
    example has windows and signs of its own; in the authors' code a batch shares its windows, which spare the last row
    and column. Under linf windows reach every pixel, as in the paper; under l2 and l1 they spare what the authors'
    spare: a candidate there has two windows and is lost if one of them lies in a border where nothing can change.
    Under l1, where the paper is silent, a channel's window gets what length it had and its part of what is left, as
    under l2; the authors multiply that by the number of channels.
    """

    params: SquareParams

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
        """One run for these inputs, (n, *shape). Query 0 is the start."""
        params = self.params
        origin = origin.contiguous()
        x = _start(origin, eps, params.norm, rng, f"{name} start").contiguous()
        logits = model.logits(x)
        leads, fooled = lead(logits, labels), clearly_fooled(logits, labels)
        found = _Search(x, origin, labels, leads, torch.ones_like(labels), fooled)
        for block, first in enumerate(range(0, params.queries, BLOCK)):
            sides = [_side(params, query, *x.shape[-2:]) for query in range(params.queries)[first : first + BLOCK]]
            left = (~found.fooled).nonzero().flatten()
            for start in range(0, len(left), model.batch_size):
                rows = left[start : start + model.batch_size]
                part = _Search(*(whole[rows] for whole in found))
                windows = _windows(rng.select(rows), f"{name} queries {block}", sides, params.norm, origin)
                last = first
                for side, queries in groupby(sides):
                    last += len(list(queries))
                    _go_on(model, part, last, eps, windows, _square(side, params.norm, origin))
                for whole, new in zip(found, part, strict=True):
                    whole[rows] = new
        return found


class _Search(NamedTuple):
    """The examples of a run, n of them: their best points and clean inputs, (n, *shape), labels, leads, (n,), how many
    queries were made so far, (n,), and who is clearly fooled and has left, (n,) bool.
    """

    x: Tensor
    origin: Tensor
    labels: Tensor
    lead: Tensor
    queries: Tensor
    fooled: Tensor


def _go_on(model: Classifier, found: _Search, last: int, eps: float, windows: _Windows, square: _Square) -> None:
    """Up to the query `last` with windows of this size, for one pass's rows or fewer; `found` is brought up to date."""
    propose = _flip if square.norm == "linf" else _shift
    slots = torch.arange(model.batch_size, device=found.x.device)
    x, origin = found.x.new_empty(2, model.batch_size, *found.x.shape[1:])  # kept: large tensors are slow to allocate
    while (n := len(going := ((found.queries <= last) & ~found.fooled).nonzero().flatten())) > 0:
        # The pass takes one candidate of each in turn until it is full; its last n slots hold all, in order.
        turn, place = slots // n, (slots - model.batch_size) % n
        who = going[place]
        query = (found.queries[who] + turn).clamp_max(last)
        for whole, part in ((found.x, x), (found.origin, origin)):
            torch.index_select(whole, 0, who, out=part)  # six times as fast as whole[who]
        propose(x.flatten(1), origin.flatten(1), eps, windows.of(who, (query - 1) % BLOCK), square)
        logits, labels = model.logits(x), found.labels[who]
        leads = lead(logits, labels)
        better, fooled = leads > found.lead[who], leads > 0
        if fooled.any():
            fooled = clearly_fooled(logits, labels)
            better |= fooled
        firsts = torch.where(better, slots, model.batch_size)
        chosen = slots[-n:].scatter_reduce(0, place, firsts, "amin")  # of each the first that is better, or the last
        found.queries[going] = query[chosen] + 1
        won = better[chosen].nonzero().flatten()
        rows, chosen = going[won], chosen[won]
        found.x[rows], found.lead[rows], found.fooled[rows] = x[chosen], leads[chosen], fooled[chosen]


class _Windows(NamedTuple):
    """What is drawn for a block of queries, B of them, C channels.

    corners: two places per query, (n, B, 2). signs: (n, B, C). turned: (n, B), 0 or 1.
    """

    corners: Tensor
    signs: Tensor
    turned: Tensor

    def of(self, who: Tensor, query: Tensor) -> _Windows:
        """One query for each of m candidates: without the axis B."""
        return _Windows(*(drawn[who, query] for drawn in self))


def _windows(rng: ExampleRNG, draw: str, sides: list[int], norm: Norm, like: Tensor) -> _Windows:
    """Windows of these sides for inputs like these, (n, *shape): five numbers per query and one per channel."""
    *channels, height, width = like.shape[1:]
    draws = rng.uniform(draw, (BLOCK, 5 + math.prod(channels)))[:, : len(sides)]
    spared = 0 if norm == "linf" else 1
    places = [[max(length - side + 1 - spared, 1) for length in (height, width)] for side in sides]
    room = torch.tensor(places, device=like.device)
    down, right = (draws[..., :4].reshape(*draws.shape[:2], 2, 2) * room[:, None]).long().unbind(-1)
    return _Windows(down * width + right, _signs(draws[..., 5:], like), (draws[..., 4] < 0.5).long())


class _Square(NamedTuple):
    """A window's pixels, counted from its corner in the flat input, (C, side²), and two patterns, (2, side²)."""

    norm: Norm
    offsets: Tensor
    patterns: Tensor


def _square(side: int, norm: Norm, like: Tensor) -> _Square:
    pixels = torch.arange(like[0].numel(), device=like.device).view(-1, *like.shape[-2:])
    return _Square(norm, pixels[:, :side, :side].flatten(1), _pattern(side, norm).to(like).flatten(1))


def _side(params: SquareParams, query: int, height: int, width: int) -> int:
    """The length of a window's side: by the schedule, and an odd number of at least 3 unless the norm is linf."""
    share = float(params.p_init) / 2 ** bisect_left(HALVINGS, query)
    side = max(round(math.sqrt(share * height * width)), 1)
    if params.norm != "linf":
        side = max(side, 3) | 1
    return min(side, height, width)


def _flip(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square) -> None:
    """linf: all pixels of the window go to an edge of the ball, in each channel to one of its two; x: (m, D)."""
    window = windows.corners[:, :1, None] + square.offsets  # (m, C, side²)
    places = window.flatten(1)
    new = origin.gather(1, places).view_as(window) + eps * windows.signs[..., None]
    x.scatter_(1, places, new.clamp_(0, 1).flatten(1))


def _shift(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square) -> None:
    """l2 and l1: one window's perturbation goes, and its length goes to another window, with what is left of eps.

    There the perturbation is turned towards a pattern. Where the windows meet, the second has the last word.
    """
    power = 2 if square.norm == "l2" else 1
    both = windows.corners[..., None, None] + square.offsets  # (m, 2, C, side²)
    (there, here), window = both.flatten(2).unbind(1), both[:, 0]

    def mass(delta: Tensor) -> Tensor:
        """The length to its power, per channel, (m, C, 1): windows are small, so their pixels are added in turn."""
        parts = delta.view_as(window)
        parts = parts.square() if power == 2 else parts.abs()
        return parts.cumsum(-1, dtype=torch.float64)[..., -1:].to(x.dtype)

    left = eps**power - length(x - origin, square.norm) ** power
    old, clean = x.gather(1, here), origin.gather(1, here)
    taken, emptied = x.gather(1, there), origin.gather(1, there)
    x.scatter_(1, there, emptied)
    moved = mass(taken - emptied) + mass(x.gather(1, here) - clean)
    delta = (old - clean).view_as(window)
    pattern = square.patterns[windows.turned, None] * windows.signs[..., None]
    way = pattern + delta / (mass(delta) ** (1 / power)).clamp_min(1e-12)
    share = (left[:, None, None] / len(square.offsets) + moved).clamp_min(0) / mass(way).clamp_min(1e-12)
    x.scatter_(1, here, _moved(clean, (way * share ** (1 / power)).flatten(1)))


def _moved(x: Tensor, delta: Tensor) -> Tensor:
    """x + delta in [0, 1], rounded toward x: roundings of many small changes would add up to more than the budget."""
    result = x + delta
    return torch.where((result - x).abs() > delta.abs(), result.nextafter(x), result).clamp_(0, 1)


def _start(origin: Tensor, eps: float, norm: Norm, rng: ExampleRNG, draw: str) -> Tensor:
    """linf: stripes along the columns. l2 and l1: a grid of patterns, five along the shorter side."""
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
    return _moved(origin, eps * unit(delta, norm))


def _signs(uniform: Tensor, like: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0).to(like.dtype)


def _pattern(side: int, norm: Norm) -> Tensor:
    """The paper's eta and its transpose, (2, side, side): two peaks of opposite sign, one above the other."""
    order = 1 if norm == "l1" else 2
    peaks = [_peak(height, side, order) for height in (side // 2, side - side // 2)]
    eta = torch.cat([peaks[0], -peaks[1]])
    eta = eta / torch.linalg.vector_norm(eta, order)
    return torch.stack([eta, eta.T])


def _peak(height: int, width: int, order: int) -> Tensor:
    """Rectangles around the centre on top of each other, the wider the lower, (height, width), of length 1."""
    if height == 0:
        return torch.zeros(0, width, dtype=torch.float64)
    down, right = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    ring = torch.maximum(down.abs()[:, None], right.abs())
    heights = torch.arange(1, int(ring.max()) + 2, dtype=torch.float64) ** (-4 if order == 1 else -2)
    peak: Tensor = heights.flip(0).cumsum(0).flip(0)[ring]
    return peak.div(torch.linalg.vector_norm(peak, order))
