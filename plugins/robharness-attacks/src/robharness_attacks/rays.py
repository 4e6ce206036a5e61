"""RayS (Chen and Gu, 2020): the nearest misclassified point along rays of signs, found by decisions alone.

The search goes along x + r * s with s in {-1, 1}^D, clamped to the box. It flips the signs of blocks of values: of all
values, then of halves, quarters, and so on down to single values. A flip is kept if a bisection along its ray finds a
smaller r that fools the model. Nothing is drawn at random, and masked gradients do not matter.

Most flips fail, and a flip's point depends on the example's own search alone. So if fewer examples are active than a
pass has rows, the pass evaluates several flips of each. The first that succeeds counts; the later ones are made again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.minimal_params import RaySParams
from robharness_attacks.norms import per_row

TOLERANCE = 1e-3
"""Length, in l2, of the interval at which a bisection ends; under linf it is divided by the square root of D."""


@dataclass(frozen=True)
class RayS:
    """RayS. A misclassified clean input is not queried. An example leaves once a point within eps fools the model.

    It finds nothing if no corner of the box is misclassified that its first flips reach, of which black and white are
    the first two.

    There is one difference from the authors' code: the limit of queries holds within a bisection, too.

    Notes:
    queries: number of queries made, without that of the clean input.
    """

    params: RaySParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        x, queries = batch.x.clone(), torch.zeros_like(batch.labels)
        decisions = batch.cached("decisions", lambda: model.decisions(batch.x))
        rows = (decisions == batch.labels).nonzero().flatten()
        if len(rows) > 0:
            search = _Search(batch.x[rows], batch.labels[rows], self.params.queries, 0.0 if math.isinf(eps) else eps)
            while search.advance(model):
                pass
            x[rows], queries[rows] = search.nearest(eps), search.queries
        return Perturbed(x=x, notes={"queries": queries})


class _Search:
    """State of the searches of n examples, each of which tries a flip or bisects the ray of one that fooled the model.

    origin: (n, *shape), the clean inputs.
    labels: (n,).
    limit: of queries per example.
    enough: radius at which an example leaves.
    signs: (n, D), int8, of the best ray.
    radius: (n,), of the nearest point on the best ray that fools the model; inf if none is known.
    flip: (n,), number of the flip that is tried next or whose ray is bisected.
    bisects: (n,), bool.
    low, high: (n,), ends of the bisected interval; the point at `high` fools the model.
    queries: (n,), number of queries made.
    """

    def __init__(self, origin: Tensor, labels: Tensor, limit: int, enough: float) -> None:
        self.origin, self.labels, self.limit, self.enough = origin, labels, limit, enough
        size = origin[0].numel()
        self.tolerance = TOLERANCE / math.sqrt(size)
        self.blocks = torch.tensor(_blocks(size, limit), device=origin.device)  # no example makes more flips
        self.signs = torch.ones_like(origin.flatten(1), dtype=torch.int8)
        self.radius, self.low, self.high = origin.new_full((3, len(origin)), math.inf)
        self.flip, self.queries = torch.zeros_like(labels), torch.zeros_like(labels)
        self.bisects = torch.zeros_like(labels, dtype=torch.bool)

    def advance(self, model: Classifier) -> bool:
        """Make the next queries of all active examples; return whether there are active ones."""
        found = torch.where(self.bisects, self.high, self.radius)
        rows = ((self.queries < self.limit) & (found > self.enough)).nonzero().flatten()
        if len(rows) == 0:
            return False
        bisects, flip, left = self.bisects[rows], self.flip[rows], self.limit - self.queries[rows]
        turns = torch.arange(max(1, model.batch_size // len(rows)), device=rows.device)
        is_counted = turns < torch.where(bisects, 1, left)[:, None]  # (rows, turns)
        flips = flip[:, None] + turns * is_counted
        low, high = self.low[rows], self.high[rows]
        radius = torch.where(bisects, (low + high) / 2, self.radius[rows])
        decisions = model.decisions(self._points(rows, flips, radius)).view_as(flips)
        fools = (decisions != self.labels[rows, None]) & is_counted
        succeeds, first, made = fools.any(1), fools.int().argmax(1), is_counted.sum(1)
        used = torch.where(succeeds, first + 1, made)
        model.discount(flips.numel() - int(used.sum()))
        self.queries[rows] += used
        self.flip[rows] += torch.where(succeeds, first, made) * ~bisects
        self.high[rows] = torch.where(succeeds, radius.clamp_max(1), high)  # all corners of the box are within 1
        self.low[rows] = torch.where(bisects, torch.where(succeeds, low, radius), 0)
        self.bisects[rows] = bisects | succeeds
        self._keep(rows[bisects & (self.high[rows] - self.low[rows] <= self.tolerance)])
        return True

    def nearest(self, eps: float) -> Tensor:
        """Return the nearest points that fool the model, (n, *shape), and clean inputs where none is within eps."""
        self._keep(self.bisects.nonzero().flatten())
        radius = torch.where(self.radius <= min(eps, 1), self.radius, 0)
        return (self.origin + per_row(radius, self.origin) * self.signs.view_as(self.origin)).clamp(0, 1)

    def _keep(self, rows: Tensor) -> None:
        """End bisections, and keep their flips if these led nearer."""
        better = rows[self.high[rows] < self.radius[rows]]
        self.signs[better] = self._signs(better, self.flip[better, None])[:, 0]
        self.radius[better] = self.high[better]
        self.flip[rows] += 1
        self.bisects[rows] = False

    def _points(self, rows: Tensor, flips: Tensor, radius: Tensor) -> Tensor:
        """Return the points at these radii, (m,), on the rays of these flips, (m, k), as (m * k, *shape)."""
        delta = radius[:, None, None] * self._signs(rows, flips)
        return (self.origin[rows].flatten(1)[:, None] + delta).clamp(0, 1).view(-1, *self.origin.shape[1:])

    def _signs(self, rows: Tensor, flips: Tensor) -> Tensor:
        """Return the signs of the best rays of m rows after these flips, (m, k), as (m, k, D)."""
        starts, ends = self.blocks[flips].unbind(-1)
        places = torch.arange(self.signs.shape[1], device=rows.device)
        is_flipped = (places >= starts[..., None]) & (places < ends[..., None])
        signs = self.signs[rows, None]
        return torch.where(is_flipped, -signs, signs)


def _blocks(size: int, count: int) -> list[tuple[int, int]]:
    """Return start and end of the first `count` blocks: all values, halves, quarters, ..., then single values again."""
    blocks: list[tuple[int, int]] = []
    level = 0
    while len(blocks) < count:
        side = math.ceil(size / 2**level)
        blocks += [(start, min(start + side, size)) for start in range(0, size, side)]
        level += 1
    return blocks[:count]
