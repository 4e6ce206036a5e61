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
            found = self._run(model, batch.x[rows], batch.labels[rows], eps, rng.select(rows), f"run {run}")
            queries[rows] += found.queries
            better = found.lead > best[rows]
            won = rows[better]
            best[won], x[won] = found.lead[better], found.x[better].view(-1, *x.shape[1:])
            rows = rows[~found.done]
        return Perturbed(x=x, notes={"queries": queries})

    def _run(
        self, model: Classifier, origin: Tensor, labels: Tensor, eps: float, rng: ExampleRNG, name: str
    ) -> _Found:
        """One run for these inputs, (n, *shape). The first query is the start."""
        params, like = self.params, origin[:1]
        x, origin = _start(origin, eps, params.norm, rng, f"{name} start").flatten(1), origin.flatten(1)
        logits = model.logits(x.view(-1, *like.shape[1:]))
        found = _Found(x, lead(logits, labels), torch.ones_like(labels), clearly_fooled(logits, labels))
        for first in range(0, params.queries, BLOCK):
            sides = [_side(params, query, *like.shape[-2:]) for query in range(params.queries)[first : first + BLOCK]]
            left = (~found.done).nonzero().flatten()
            for rows in left.split(model.rows) if len(left) > 0 else ():
                windows = _windows(rng.select(rows), f"{name} queries {first // BLOCK}", sides, like)
                part = found.select(rows)
                self._search(model, like, part, origin[rows], labels[rows], eps, windows, sides)
                for whole, new in zip(found, part, strict=True):
                    whole[rows] = new
        return found

    def _search(
        self,
        model: Classifier,
        like: Tensor,
        found: _Found,
        origin: Tensor,
        labels: Tensor,
        eps: float,
        windows: _Windows,
        sides: list[int],
    ) -> None:
        """The queries of a block for one pass's rows or fewer; what they find is written into `found`."""
        norm = self.params.norm
        propose = _flip if norm == "linf" else _shift
        slots = torch.arange(model.rows, device=like.device)
        at = torch.zeros_like(labels)
        stop = 0
        for side, queries in groupby(sides):
            stop += len(list(queries))
            square = _square(side, norm, like)
            while len(going := ((at < stop) & ~found.done).nonzero().flatten()) > 0:
                going = going[at[going].argsort(stable=True)]  # those behind try more
                who = going[slots % len(going)]
                query = (at[who] + slots // len(going)).clamp_max(stop - 1)
                tried, clean = found.x.index_select(0, who), origin.index_select(0, who)  # x[who] takes six times as long
                propose(tried, clean, eps, windows.of(who, query), square, norm)
                logits = model.logits(tried.view(-1, *like.shape[1:]))
                about = labels[who]
                leads = lead(logits, about)
                fooled = leads > 0
                if fooled.any():
                    fooled = clearly_fooled(logits, about)
                better = (leads > found.lead[who]) | fooled
                # per example the first that is better, or else the last
                key = torch.where(better, 2 * len(slots) - slots, slots)
                key = torch.zeros_like(going).scatter_reduce_(0, slots % len(going), key, "amax")
                chosen = torch.where(key < len(slots), key, 2 * len(slots) - key)
                at[going] = query[chosen] + 1
                won = (key >= len(slots)).nonzero().flatten()
                if len(won) > 0:
                    rows, chosen = going[won], chosen[won]
                    found.x[rows], found.lead[rows] = tried[chosen], leads[chosen]
                    found.done[rows] = fooled[chosen]
        found.queries.add_(at)


class _Found(NamedTuple):
    """The best points of n examples, (n, D), their leads, (n,), the queries so far, (n,), and who is done, (n,) bool."""

    x: Tensor
    lead: Tensor
    queries: Tensor
    done: Tensor

    def select(self, rows: Tensor) -> _Found:
        return _Found(*(tensor[rows] for tensor in self))


class _Windows(NamedTuple):
    """What is drawn for the queries of a block, B of them, C channels.

    corners: two places per query, (n, B, 2). signs: (n, B, C). turned: (n, B), 0 or 1.
    """

    corners: Tensor
    signs: Tensor
    turned: Tensor

    def of(self, who: Tensor, query: Tensor) -> _Windows:
        return _Windows(*(tensor[who, query] for tensor in self))


class _Square(NamedTuple):
    """offsets: from a window's corner to its pixels, (C, side²). patterns: two, (2, side²)."""

    offsets: Tensor
    patterns: Tensor


def _square(side: int, norm: Norm, like: Tensor) -> _Square:
    *channels, height, width = like.shape[1:]
    pixels = torch.arange(math.prod(like.shape[1:]), device=like.device).view(-1, height, width)
    return _Square(pixels[:, :side, :side].flatten(1), _pattern(side, norm).to(like).flatten(1))


def _windows(rng: ExampleRNG, name: str, sides: list[int], like: Tensor) -> _Windows:
    """Five numbers per query and one per channel; sides: of the windows."""
    *channels, height, width = like.shape[1:]
    draws = rng.uniform(name, (BLOCK, 5 + math.prod(channels)))[:, : len(sides)]
    room = torch.tensor([(height - side + 1, width - side + 1) for side in sides], device=like.device)
    down, right = (draws[..., :4].unflatten(-1, (2, 2)) * room[:, None]).long().unbind(-1)
    return _Windows(down * width + right, _signs(draws[..., 5:], like), (draws[..., 4] < 0.5).long())


def _side(params: SquareParams, query: int, height: int, width: int) -> int:
    """The length of a window's side: by the schedule, and an odd number of at least 3 unless the norm is linf."""
    share = float(params.p_init) / 2 ** bisect_left(HALVINGS, query)
    side = max(round(math.sqrt(share * height * width)), 1)
    if params.norm != "linf":
        side = max(side, 3) | 1
    return min(side, height, width)


def _flip(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square, norm: Norm) -> None:
    """linf: all pixels of the window go to an edge of the ball, in each channel to one of its two."""
    window = windows.corners[:, :1, None] + square.offsets  # (m, C, side²)
    places = window.flatten(1)
    new = origin.gather(1, places).view_as(window) + eps * windows.signs[..., None]
    x.scatter_(1, places, new.clamp_(0, 1).flatten(1))


def _shift(x: Tensor, origin: Tensor, eps: float, windows: _Windows, square: _Square, norm: Norm) -> None:
    """l2 and l1: one window's perturbation goes, and its length goes to another window, with what is left of eps.

    There the perturbation is turned towards a pattern. Where the windows meet, the second has the last word.
    """
    power = 2 if norm == "l2" else 1
    channels = len(square.offsets)

    def mass(delta: Tensor) -> Tensor:
        """The length to its power, per channel, (m, C, 1): windows are small, so their pixels are added in turn."""
        parts = delta.unflatten(1, (channels, -1))
        parts = parts.square() if power == 2 else parts.abs()
        return parts.cumsum(-1, dtype=torch.float64)[..., -1:].to(x.dtype)

    both = windows.corners[..., None, None] + square.offsets  # (m, 2, C, side²)
    there, here = both.flatten(2).unbind(1)
    left = eps**power - length(x - origin, norm) ** power
    old, clean = x.gather(1, here), origin.gather(1, here)
    taken, emptied = x.gather(1, there), origin.gather(1, there)
    x.scatter_(1, there, emptied)
    moved = mass(taken - emptied) + mass(x.gather(1, here) - clean)
    delta = (old - clean).unflatten(1, (channels, -1))
    pattern = square.patterns[windows.turned, None] * windows.signs[..., None]
    way = pattern + delta / (mass(delta.flatten(1)) ** (1 / power)).clamp_min(1e-12)
    share = (left[:, None, None] / channels + moved).clamp_min(0) / mass(way.flatten(1)).clamp_min(1e-12)
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
