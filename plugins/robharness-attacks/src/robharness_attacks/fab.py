"""FAB (Croce and Hein, 2020): the nearest input that fools the model, found by walking along its decision boundary.

At every step the boundary is taken for a plane, and the nearest points of plane and box together are computed exactly.
All targets of an example move in lock-step; examples never meet. Inside, inputs are flat, a row per example and
target: (P, n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.minimal import within
from robharness_attacks.norms import length, row_sum, unit
from robharness_attacks.objectives import clearly_fooled, lead, likely_targets, toward_margin
from robharness_attacks.pairs import first_of_each, runs, start_draws
from robharness_attacks.params import FABParams, Norm

RADIUS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""Twice the distance of a restart's random point, where nothing has been found yet and no budget is known."""

_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
_TINY, _TINIEST = 1e-8, 1e-12
"""Least length of a way, and of a gradient, to divide by; the authors'."""


@dataclass(frozen=True)
class FAB:
    """On its own: one search per batch serves all budgets; an example keeps its input where the budget is too small."""

    params: FABParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        nearest: Tensor = batch.cached(("fab", self.params), lambda: smallest(model, batch, self.params, rng))
        return Perturbed(x=within(batch, nearest, eps, self.params.norm))


@dataclass(frozen=True)
class FABMember:
    """As a member of AutoAttack: an example leaves as soon as it is clearly fooled within the budget.

    Notes: how many target classes there were to try, 0 for any wrong class.
    """

    params: FABParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        nearest = smallest(model, batch, self.params, rng, eps)
        tried = min(self.params.targets, batch.logits(model).shape[1] - 1)
        notes = {"targets": torch.full_like(batch.labels, tried)}
        return Perturbed(x=within(batch, nearest, eps, self.params.norm), notes=notes)


def smallest(model: Classifier, batch: Batch, params: FABParams, rng: ExampleRNG, eps: float | None = None) -> Tensor:
    """The nearest inputs that fool the model, (N, *shape); the clean ones where none was found or none is needed.

    eps: examples that are clearly fooled within it are not searched on; None to search on for all.
    """
    clean = batch.logits(model)
    targets = likely_targets(clean, batch.labels, params.targets or clean.shape[1])
    targets = targets[:, :, None] if params.targets else targets[:, None]
    search, turns = _Search(model, batch, params, eps), targets.shape[1]
    for left, restart in runs(search.done, turns, params.restarts, model.batch_size):
        examples = left.repeat_interleave(turns)
        start = search.start(examples, rng.select(left), turns, restart)
        search.run(examples, targets[left].flatten(0, 1), start)
    return search.x


class _Search:
    """x: (N, *shape), the nearest inputs so far that fool the model. done: (N,), who is not searched on."""

    def __init__(self, model: Classifier, batch: Batch, params: FABParams, eps: float | None) -> None:
        self.x = batch.x.clone()
        self.done = lead(batch.logits(model), batch.labels) > 0
        self._distance = torch.full_like(batch.x.flatten(1)[:, 0], torch.inf)
        self._model, self._batch, self._params, self._eps = model, batch, params, eps
        self._shape = batch.x.shape[1:]

    def start(self, examples: Tensor, rng: ExampleRNG, turns: int, restart: int) -> Tensor:
        """Where a run begins, (P, n): at the inputs, or half as far from them as is of interest."""
        origin, norm = self._batch.x[examples].flatten(1), self._params.norm
        if restart == 0:
            return origin
        far = self._distance[examples]
        far = torch.where(far < torch.inf, far, RADIUS[norm]) if self._eps is None else far.clamp_max(self._eps)
        draws = start_draws(rng, turns, restart, origin, norm)
        return (origin + far[:, None] / 2 * unit(draws, norm)).clamp(0, 1)

    def run(self, examples: Tensor, targets: Tensor, x: Tensor) -> None:
        """All steps for pairs of these examples, from x, (P, n), each toward the nearest of targets, (P, k)."""
        norm, beta = self._params.norm, float(self._params.beta)
        labels, origin = self._batch.labels[examples], self._batch.x[examples].flatten(1)
        for _ in range(self._params.steps):
            margin, slope = self._plane(x, labels, targets)
            x = self._step(x, origin, margin, slope)
            logits = self._model.logits(x.reshape(-1, *self._shape))
            fooled = (lead(logits, labels) > 0).nonzero().flatten()
            if len(fooled) == 0:
                continue
            which, points, inputs = examples[fooled], x.index_select(0, fooled), origin.index_select(0, fooled)
            moved = points - inputs
            distance, done = length(moved, norm), torch.zeros_like(fooled, dtype=torch.bool)
            if self._eps is not None:
                done = (distance <= self._eps) & clearly_fooled(logits[fooled], labels[fooled])
            distance = torch.where(done, -1, distance)  # nearer than all others, and the likeliest target is taken
            best = first_of_each(which, distance)
            best = best[distance[best] < self._distance[which[best]]]
            self.x[which[best]], self._distance[which[best]] = points[best].view(-1, *self._shape), distance[best]
            x.index_copy_(0, fooled, moved.mul_(beta).add_(inputs))
            if done.any():
                self.done[which[done]] = True
                on = (~self.done[examples]).nonzero().flatten()
                examples, targets, x, labels, origin = (
                    part.index_select(0, on) for part in (examples, targets, x, labels, origin)
                )
                if len(examples) == 0:
                    return

    def _plane(self, x: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the target leads over the label at x, (P,), and its gradient, for the nearest of the targets.

        Targets share a pass where the rows are too few to fill it.
        """
        about = torch.stack([labels[:, None].expand_as(targets), targets], 2)
        rows = torch.arange(len(x), device=x.device)
        margin, slope, nearest = torch.zeros_like(x[:, 0]), torch.zeros_like(x), torch.full_like(x[:, 0], torch.inf)
        for some in torch.split(about, max(1, self._model.batch_size // len(x)), 1):
            of = rows.repeat_interleave(some.shape[1])
            points = x.index_select(0, of).view(-1, *self._shape)
            values, gradient, _ = self._model.gradient(points, some.flatten(0, 1), toward_margin)
            values, gradient = values.to(x.dtype).nan_to_num(), gradient.flatten(1).nan_to_num()
            if targets.shape[1] == 1:
                return values, gradient
            distance = values.abs() / length(gradient, _DUAL[self._params.norm]).clamp_min(_TINIEST)
            best = first_of_each(of, distance)
            closer = distance[best] < nearest
            margin = torch.where(closer, values[best], margin)
            slope = torch.where(closer[:, None], gradient[best], slope)
            nearest = nearest.minimum(distance[best])
        return margin, slope

    def _step(self, x: Tensor, origin: Tensor, margin: Tensor, slope: Tensor) -> Tensor:
        """Beyond the plane where the margin is 0, between what is nearest to x and what is nearest to the origin."""
        params = self._params
        missing = -torch.stack([margin, margin + row_sum(slope * (origin - x))])
        ways = to_plane(torch.stack([x, origin]), slope, missing, params.norm)
        lengths = length(ways.flatten(0, 1), params.norm).clamp_min(_TINY).view(2, -1)
        pull = (lengths[0] / lengths.sum(0)).clamp_max(float(params.alpha_max))[:, None]
        ahead, back = ways.mul_(float(params.eta))
        beyond: Tensor = ahead.add_(x).mul_(1 - pull).add_(back.add_(origin).mul_(pull))
        return beyond.clamp_(0, 1)


def to_plane(points: Tensor, slope: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """The shortest ways, (P, N, n), from points (P, N, n) in [0, 1] that stay in there and gain slope . way = gain.

    slope: (N, n), the same for all P points of a row. gain: (P, N). Where the box does not let a point gain as much,
    the way leads to the corner at which it gains most. Coordinates without slope stay.
    """
    largest = slope.abs().amax(1)
    scale = torch.where(largest > 0, largest, 1)  # squares of tiny slopes would underflow
    towards = slope.sign() * gain.sign()[..., None]
    weight, gain = slope.abs().div_(scale[:, None]), gain.abs() / scale
    room = torch.gt(towards, 0, out=torch.empty_like(towards)).sub_(points).abs_()  # to 1 or to 0
    size = _filled(weight, room, gain) if norm == "l1" else _levelled(weight, room, gain, norm)
    return size.nan_to_num_(0, 0, 0).mul_(towards)


def _levelled(weight: Tensor, room: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """The linf and l2 ways, min(t * pace, room): the gain rises with t along straight pieces, ever more slowly.

    Newton's method for t comes from the left, and stays where it is once it is there.
    """
    pace = weight if norm == "l2" else torch.ones_like(weight)
    rate, knee, bound = weight * pace, room / pace, weight * room
    t = torch.zeros_like(gain)
    part = torch.empty_like(room)  # masks as numbers: five times faster than booleans
    while True:
        gaining = row_sum(torch.gt(knee, t[..., None], out=part).mul_(rate).flatten(0, 1)).view_as(gain)
        gained = row_sum(torch.le(knee, t[..., None], out=part).mul_(bound).flatten(0, 1)).view_as(gain)
        further = torch.where(gaining > 0, (gain - gained) / gaining, torch.inf).maximum(t)
        if not (further > t).any():
            return torch.minimum(t[..., None] * pace, room)
        t = further


def _filled(weight: Tensor, room: Tensor, gain: Tensor) -> Tensor:
    """The l1 way: coordinates take all their room, the heaviest first, until the gain is reached."""
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    order = order.expand_as(room)
    room = room.gather(2, order)
    bound = weight * room
    left = gain[..., None] - (bound.cumsum(2) - bound)
    size = (left / weight).clamp_min(0).minimum(room)
    return torch.empty_like(room).scatter_(2, order, size)
