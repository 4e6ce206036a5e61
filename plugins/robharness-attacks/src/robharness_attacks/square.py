"""Square (Andriushchenko et al., 2020): random search with square windows, which sees scores and no gradient.

The variant of AutoAttack: the margin is what counts, and the schedule of window sizes is not stretched to the number
of queries. A candidate differs from the best point in its windows alone, so it is written into the best point in place
and taken out again where it is no better.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
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
    example has windows and signs of its own and windows reach every pixel; in the authors' code a batch shares its
    windows, which spare the last row and column. Under l1, where the paper is silent, a channel's window gets what
    length it had and its part of what is left, as under l2; the authors multiply that by the number of channels.
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
            for found in self._run(model, batch, rows, eps, rng, f"run {run}"):
                queries[found.rows] += found.queries
                better = found.lead > best[found.rows]
                won = found.rows[better]
                best[won], x[won] = found.lead[better], found.x[better]
                rows = found.rows
        return Perturbed(x=x, notes={"queries": queries})

    def _run(
        self, model: Classifier, batch: Batch, rows: Tensor, eps: float, rng: ExampleRNG, name: str
    ) -> Iterator[_Found]:
        """One run for these rows: what is found for those that leave, as they do, and at last for those that stay."""
        params = self.params
        shape = batch.x.shape[1:]
        origin, labels = batch.x[rows], batch.labels[rows]
        x = _start(origin, eps, params.norm, rng.select(rows), f"{name} start").flatten(1)
        origin = origin.flatten(1)
        best = torch.full_like(labels, -torch.inf, dtype=torch.float32)
        writes: list[_Write] = []  # the first candidate is the start
        for query in range(params.queries + 1):
            if len(rows) == 0:
                break
            if query > 0:
                at = (query - 1) % BLOCK
                if at == 0:
                    windows = _windows(params, batch.x, query - 1, rng.select(rows), name)
                propose = _flip if params.norm == "linf" else _shift
                writes = propose(x, origin, eps, windows, at, params.norm)
            logits = model.logits(x.view(-1, *shape))
            lead_now = lead(logits, labels)
            leaves = lead_now > 0
            if leaves.any():
                leaves = clearly_fooled(logits, labels)
            better = (lead_now > best) | leaves
            best = torch.where(better, lead_now, best)
            for write in writes:
                x.scatter_(1, write.places, torch.where(better[:, None], write.new, write.old))
            if leaves.any():
                yield _Found(rows[leaves], x[leaves].view(-1, *shape), best[leaves], query + 1)
                on = ~leaves
                rows, x, origin, labels, best = rows[on], x[on], origin[on], labels[on], best[on]
                if query > 0:
                    windows = windows.select(on)
        yield _Found(rows, x.view(-1, *shape), best, params.queries + 1)


class _Found(NamedTuple):
    """The best point of these rows (indices), (n, *shape), its lead, (n,), and how many queries it took."""

    rows: Tensor
    x: Tensor
    lead: Tensor
    queries: int


class _Write(NamedTuple):
    """What a candidate changed: places in a row's flat input, the values there before and since, each (n, k)."""

    places: Tensor
    old: Tensor
    new: Tensor


class _Windows(NamedTuple):
    """The windows of a block of queries, B of them, C channels.

    sides: B lengths. corners: two places per query, (n, B, 2). signs: (n, B, C). turned: (n, B), 0 or 1.
    offsets: per length, from the corner to the pixels, (C, side²). patterns: per length, two, (2, side²).
    """

    sides: list[int]
    corners: Tensor
    signs: Tensor
    turned: Tensor
    offsets: dict[int, Tensor]
    patterns: dict[int, Tensor]

    def select(self, on: Tensor) -> _Windows:
        return self._replace(corners=self.corners[on], signs=self.signs[on], turned=self.turned[on])


def _windows(params: SquareParams, like: Tensor, query: int, rng: ExampleRNG, name: str) -> _Windows:
    """Those of the block that begins with this query (from 0); five numbers per query and one per channel."""
    *channels, height, width = like.shape[1:]
    planes = math.prod(channels)
    draws = rng.uniform(f"{name} queries {query // BLOCK}", (BLOCK, 5 + planes))
    sides = [_side(params, query + at, height, width) for at in range(BLOCK)]
    room = torch.tensor([(height - side + 1, width - side + 1) for side in sides], device=like.device)
    down, right = (draws[..., :4].reshape(-1, BLOCK, 2, 2) * room[:, None]).long().unbind(-1)
    pixels = torch.arange(planes * height * width, device=like.device).view(planes, height, width)
    return _Windows(
        sides,
        corners=down * width + right,
        signs=_signs(draws[..., 5:], like),
        turned=(draws[..., 4] < 0.5).long(),
        offsets={side: pixels[:, :side, :side].flatten(1) for side in set(sides)},
        patterns={side: _pattern(side, params.norm).to(like).flatten(1) for side in set(sides)},
    )


def _side(params: SquareParams, query: int, height: int, width: int) -> int:
    """The length of a window's side: by the schedule, and an odd number of at least 3 unless the norm is linf."""
    share = float(params.p_init) / 2 ** bisect_left(HALVINGS, query)
    side = max(round(math.sqrt(share * height * width)), 1)
    if params.norm != "linf":
        side = max(side, 3) | 1
    return min(side, height, width)


def _flip(x: Tensor, origin: Tensor, eps: float, windows: _Windows, at: int, norm: Norm) -> list[_Write]:
    """linf: all pixels of the window go to an edge of the ball, in each channel to one of its two."""
    window = windows.corners[:, at, :1, None] + windows.offsets[windows.sides[at]]  # (n, C, side²)
    places = window.flatten(1)
    new = origin.gather(1, places).view_as(window) + eps * windows.signs[:, at, :, None]
    return [_write(x, places, x.gather(1, places), new.clamp_(0, 1).flatten(1))]


def _shift(x: Tensor, origin: Tensor, eps: float, windows: _Windows, at: int, norm: Norm) -> list[_Write]:
    """l2 and l1: one window's perturbation goes, and its length goes to another window, with what is left of eps.

    There the perturbation is turned towards a pattern. Where the windows meet, the second has the last word.
    """
    power = 2 if norm == "l2" else 1
    side = windows.sides[at]
    both = windows.corners[:, at, :, None, None] + windows.offsets[side]  # (n, 2, C, side²)
    (there, here), channels = both.flatten(2).unbind(1), both.shape[2]

    def mass(delta: Tensor) -> Tensor:
        """The length to its power, per channel, (n, C, 1): windows are small, so their pixels are added in turn."""
        parts = delta.view(-1, channels, side * side)
        parts = parts.square() if power == 2 else parts.abs()
        return parts.cumsum(-1, dtype=torch.float64)[..., -1:].to(x.dtype)

    left = eps**power - length(x - origin, norm) ** power
    old, clean = x.gather(1, here), origin.gather(1, here)
    first = _write(x, there, x.gather(1, there), origin.gather(1, there))
    moved = mass(first.old - first.new) + mass(x.gather(1, here) - clean)
    delta = (old - clean).view(-1, channels, side * side)
    pattern = windows.patterns[side][windows.turned[:, at], None] * windows.signs[:, at, :, None]
    way = pattern + delta / (mass(delta) ** (1 / power)).clamp_min(1e-12)
    share = (left[:, None, None] / channels + moved).clamp_min(0) / mass(way).clamp_min(1e-12)
    new = _moved(clean, (way * share ** (1 / power)).flatten(1))
    return [first, _write(x, here, old, new)]


def _write(x: Tensor, places: Tensor, old: Tensor, new: Tensor) -> _Write:
    x.scatter_(1, places, new)
    return _Write(places, old, new)


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
