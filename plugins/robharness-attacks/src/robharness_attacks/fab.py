"""FAB (Croce and Hein, 2020): the nearest input that fools the model, by steps along its decision boundary.

Each step approximates the boundary by a plane and computes the nearest points in plane and box exactly. The runs for
all targets of an example advance together. No example influences another. Inputs are flat inside, one row per pair of
example and target: (P, n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.minimal import within
from robharness_attacks.minimal_params import FABParams
from robharness_attacks.norms import DUAL, length, row_sum, unit
from robharness_attacks.objectives import clearly_fooled, lead, likely_targets, toward_margin
from robharness_attacks.pairs import first_of_each, runs, start_draws
from robharness_attacks.params import Norm
from robharness_attacks.targets import targets_of

RADIUS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
"""Twice the distance of a restart's random point if nothing has been found yet and there is no budget."""

_TINY, _TINIEST = 1e-8, 1e-12
"""Smallest divisors for the length of a step and of a gradient, as in the authors' code."""


@dataclass(frozen=True)
class FAB:
    """FAB as an attack. One search per batch serves all budgets; an input stays clean if the budget is too small."""

    params: FABParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        nearest: Tensor = batch.cached(("fab", self.params), lambda: smallest(model, batch, self.params, rng))
        return Perturbed(x=within(batch, nearest, eps, self.params.norm))


@dataclass(frozen=True)
class FABMember:
    """FAB as a member of AutoAttack: an example leaves when the model is clearly fooled within the budget.

    Notes:
    targets: number of target classes tried, 0 for any wrong class.
    """

    params: FABParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        nearest = smallest(model, batch, self.params, rng, eps)
        tried = min(self.params.targets, batch.logits(model).shape[1] - 1)
        notes = {"targets": torch.full_like(batch.labels, tried)}
        return Perturbed(x=within(batch, nearest, eps, self.params.norm), notes=notes)


def smallest(model: Classifier, batch: Batch, params: FABParams, rng: ExampleRNG, eps: float | None = None) -> Tensor:
    """Return the nearest inputs that fool the model, (N, *shape).

    An input stays clean if it is misclassified, or if the search finds nothing.

    eps: the search ends for examples on which the model is clearly fooled within eps; None to search on for all.
    """
    clean = batch.logits(model)
    if params.targets:
        targets = targets_of(model, batch, params).classes[:, :, None]
    else:
        targets = likely_targets(clean, batch.labels, clean.shape[1])[:, None]
    search, turns = _Search(model, batch, params, eps), targets.shape[1]
    for active, restart in runs(search.done, turns, params.restarts, model.batch_size):
        examples = active.repeat_interleave(turns)
        start = search.start(examples, rng.select(active), turns, restart)
        search.run(examples, targets[active].flatten(0, 1), start)
    return search.x


class _Search:
    """State of a search.

    x: (N, *shape), the nearest inputs so far that fool the model.
    done: (N,) bool, examples for which the search has ended.
    """

    def __init__(self, model: Classifier, batch: Batch, params: FABParams, eps: float | None) -> None:
        self.x = batch.x.clone()
        self.done = lead(batch.logits(model), batch.labels) > 0
        self._distance = torch.full_like(batch.x.flatten(1)[:, 0], torch.inf)
        self._model, self._batch, self._params, self._eps = model, batch, params, eps
        self._shape = batch.x.shape[1:]

    def start(self, examples: Tensor, rng: ExampleRNG, turns: int, restart: int) -> Tensor:
        """Return the start of a run, (P, n): the inputs, or random points at half the best distance or the budget."""
        origin, norm = self._batch.x[examples].flatten(1), self._params.norm
        if restart == 0:
            return origin
        far = self._distance[examples]
        far = torch.where(far < torch.inf, far, RADIUS[norm]) if self._eps is None else far.clamp_max(self._eps)
        draws = start_draws(rng, turns, restart, origin, norm)
        return (origin + far[:, None] / 2 * unit(draws, norm)).clamp(0, 1)

    def run(self, examples: Tensor, targets: Tensor, x: Tensor) -> None:
        """Make all steps for pairs of these examples from x, (P, n), toward the nearest of their targets, (P, k)."""
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
            distance = torch.where(done, -1, distance)  # nearest of all; of several targets the likeliest is taken
            best = first_of_each(which, distance)
            best = best[distance[best] < self._distance[which[best]]]
            self.x[which[best]], self._distance[which[best]] = points[best].view(-1, *self._shape), distance[best]
            x.index_copy_(0, fooled, moved.mul_(beta).add_(inputs))
            if done.any():
                self.done[which[done]] = True
                active = (~self.done[examples]).nonzero().flatten()
                examples, targets, x, labels, origin = (
                    part.index_select(0, active) for part in (examples, targets, x, labels, origin)
                )
                if len(examples) == 0:
                    return

    def _plane(self, x: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target's logit minus the label's at x, (P,), and its gradient, for the nearest of the targets.

        Several targets share a forward pass if the rows do not fill it.
        """
        about = torch.stack([labels[:, None].expand_as(targets), targets], 2)
        rows = torch.arange(len(x), device=x.device)
        margin, slope, nearest = torch.zeros_like(x[:, 0]), torch.zeros_like(x), torch.full_like(x[:, 0], torch.inf)
        for some in torch.split(about, max(1, self._model.batch_size // len(x)), 1):
            owners = rows.repeat_interleave(some.shape[1])
            points = x.index_select(0, owners).view(-1, *self._shape)
            values, gradient, _ = self._model.gradient(points, some.flatten(0, 1), toward_margin)
            values, gradient = values.to(x.dtype).nan_to_num(), gradient.flatten(1).nan_to_num()
            if targets.shape[1] == 1:
                return values, gradient
            distance = values.abs() / length(gradient, DUAL[self._params.norm]).clamp_min(_TINIEST)
            best = first_of_each(owners, distance)
            closer = distance[best] < nearest
            margin = torch.where(closer, values[best], margin)
            slope = torch.where(closer[:, None], gradient[best], slope)
            nearest = nearest.minimum(distance[best])
        return margin, slope

    def _step(self, x: Tensor, origin: Tensor, margin: Tensor, slope: Tensor) -> Tensor:
        """Return a point beyond the plane of margin 0, between its points nearest to x and nearest to the origin."""
        params = self._params
        missing = -torch.stack([margin, margin + row_sum(slope * (origin - x))])
        steps = to_plane(torch.stack([x, origin]), slope, missing, params.norm)
        lengths = length(steps.flatten(0, 1), params.norm).clamp_min(_TINY).view(2, -1)
        pull = (lengths[0] / lengths.sum(0)).clamp_max(float(params.alpha_max))[:, None]
        ahead, back = steps.mul_(float(params.eta))
        beyond: Tensor = ahead.add_(x).mul_(1 - pull).add_(back.add_(origin).mul_(pull))
        return beyond.clamp_(0, 1)


def to_plane(points: Tensor, slope: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """Return the shortest steps, (P, N, n), that stay in the box [0, 1] and satisfy slope . step = gain.

    If the box does not allow that gain, the step ends at the corner with the largest gain. Coordinates with slope 0 do
    not change.

    points: (P, N, n), in [0, 1].
    slope: (N, n), the same for all P points of a row.
    gain: (P, N).
    norm: of the steps' length.
    """
    largest = slope.abs().amax(1)
    scale = torch.where(largest > 0, largest, 1)  # squares of tiny slopes would underflow
    towards = slope.sign() * gain.sign()[..., None]
    weight, gain = slope.abs().div_(scale[:, None]), gain.abs() / scale
    room = torch.gt(towards, 0, out=torch.empty_like(towards)).sub_(points).abs_()  # to 1 or to 0
    size = _fill_greedily(weight, room, gain) if norm == "l1" else _clip_at_level(weight, room, gain, norm)
    return size.nan_to_num_(0, 0, 0).mul_(towards)


def _clip_at_level(weight: Tensor, room: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """Return the sizes of linf and l2 steps, min(t * pace, room); their gain is concave and piecewise linear in t.

    Newton's method approaches t from below and stops at the solution.
    """
    pace = weight if norm == "l2" else torch.ones_like(weight)
    rate, knee, bound = weight * pace, room / pace, weight * room
    t = torch.zeros_like(gain)
    part = torch.empty_like(room)  # masks as floats: five times faster than booleans
    while True:
        gaining = row_sum(torch.gt(knee, t[..., None], out=part).mul_(rate).flatten(0, 1)).view_as(gain)
        gained = row_sum(torch.le(knee, t[..., None], out=part).mul_(bound).flatten(0, 1)).view_as(gain)
        further = torch.where(gaining > 0, (gain - gained) / gaining, torch.inf).maximum(t)
        if not (further > t).any():
            return torch.minimum(t[..., None] * pace, room)
        t = further


def _fill_greedily(weight: Tensor, room: Tensor, gain: Tensor) -> Tensor:
    """Return the sizes of l1 steps: coordinates use all their room, largest weight first, until the gain is reached."""
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    order = order.expand_as(room)
    room = room.gather(2, order)
    bound = weight * room
    missing = gain[..., None] - (bound.cumsum(2) - bound)
    size = (missing / weight).clamp_min(0).minimum(room)
    return torch.empty_like(room).scatter_(2, order, size)
