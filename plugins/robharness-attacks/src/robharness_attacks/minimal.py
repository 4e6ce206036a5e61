"""DDN, FMN and sigma-zero: the nearest input that fools the model, by gradient steps.

One search per batch serves all budgets: `within` replaces results outside the ball by clean inputs. So the accuracy at
a budget is the share of examples with a larger distance, whatever the other budgets are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.minimal_params import DDNParams, FMNParams, MinimalNorm, SigmaZeroParams
from robharness_attacks.norms import DUAL, direction, length, per_row, project
from robharness_attacks.objectives import excess, lead
from robharness_attacks.params import Norm

LAST_STEP = 0.01
"""Ratio of the last step to the first one, in DDN and FMN."""

LAST_GAMMA = 0.001
"""Relative change of FMN's radius at the end."""

SLOWEST, MOMENTS, STABLE, SMALLEST = 0.1, (0.9, 0.999), 1e-8, 1e-12
"""Constants of sigma-zero: the ratio of the last step to the first one, the decays of Adam's two moments, the number
that Adam adds to its divisor, and the least divisor of a gradient."""


def within(batch: Batch, x: Tensor, eps: float, norm: MinimalNorm) -> Tensor:
    """Return x, (N, *shape), with rows farther than eps from the clean input replaced by it. eps may be inf."""
    distance = length(x.double() - batch.x.double(), norm)
    return torch.where(per_row(distance <= eps, x), x, batch.x)


@dataclass(frozen=True)
class DDN:
    """Decoupled direction and norm (Rony et al., 2019): a sphere shrinks if the model is fooled, and grows otherwise.

    An example whose gradient is 0 at the input does not change; the authors draw a random direction.
    """

    params: DDNParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        return _perturbed(model, batch, self.smallest(model, batch, rng), eps, "l2")

    def smallest(self, model: Classifier, batch: Batch, rng: ExampleRNG) -> Tensor:
        """Return the nearest inputs that fool the model, (N, *shape); computed once per batch.

        An input stays clean if it is misclassified, or if the search finds nothing.
        """
        start = float(self.params.init)
        return _cached(self, batch, lambda: _smallest(model, batch, self.params, excess, start, self._follow))

    def _follow(self, at: _Point, cosine: float) -> tuple[Tensor, Tensor]:
        gamma = float(self.params.gamma)
        radius = (at.radius * torch.where(at.is_fooled, 1 - gamma, 1 + gamma)).minimum(at.farthest)
        delta = at.x + _between(LAST_STEP, 1, cosine) * direction(at.gradient, "l2") - at.origin
        scale = radius / length(delta, "l2").clamp_min(torch.finfo(delta.dtype).tiny)
        return (at.origin + delta * per_row(scale, delta)).clamp(0, 1), radius


@dataclass(frozen=True)
class FMN:
    """Fast minimum norm (Pintor et al., 2021): the ball's radius goes to the boundary's linear estimate, then adapts.

    Under l0 the radius is a number of values, and changes by at least 1.

    There are two differences from the paper. Until the model is first fooled, the radius grows by at least gamma, even
    if the boundary seems nearer: if the box cuts off a part of every step, an l2 search as published approaches the
    boundary and never crosses it. And l1 projects onto ball and box together.
    """

    params: FMNParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        return _perturbed(model, batch, self.smallest(model, batch, rng), eps, self.params.norm)

    def smallest(self, model: Classifier, batch: Batch, rng: ExampleRNG) -> Tensor:
        """Return the nearest inputs that fool the model, (N, *shape); computed once per batch.

        An input stays clean if it is misclassified, or if the search finds nothing.
        """
        start = 1.0 if self.params.norm == "l0" else 0.0
        return _cached(self, batch, lambda: _smallest(model, batch, self.params, lead, start, self._follow))

    def _follow(self, at: _Point, cosine: float) -> tuple[Tensor, Tensor]:
        norm, gamma = self.params.norm, _between(LAST_GAMMA, float(self.params.gamma), cosine)
        radius = (_count(at, gamma) if norm == "l0" else _radius(at, gamma, norm)).minimum(at.farthest)
        step = float(self.params.step) * _between(LAST_STEP, 1, cosine)
        return project(at.x + step * direction(at.gradient, "l2"), at.origin, radius, norm), radius


def _radius(at: _Point, gamma: float, norm: Norm) -> Tensor:
    """Return the next radius of FMN, (n,). gamma: its relative change."""
    slope = length(at.gradient.nan_to_num(), DUAL[norm]).clamp_min(torch.finfo(at.x.dtype).tiny)
    to_boundary = length(at.x - at.origin, norm) + at.value.abs().to(slope.dtype) / slope
    grown = at.radius * (1 + gamma)
    missed = torch.where(at.nearest < torch.inf, grown, grown.maximum(to_boundary))
    return torch.where(at.is_fooled, (at.radius * (1 - gamma)).minimum(at.nearest), missed)


def _count(at: _Point, gamma: float) -> Tensor:
    """Return the next radius of FMN under l0, (n,), whole numbers. gamma: its relative change."""
    smaller = (at.radius - 1).minimum((at.radius * (1 - gamma)).floor()).minimum(at.nearest)
    larger = (at.radius + 1).maximum((at.radius * (1 + gamma)).floor())
    return torch.where(at.is_fooled, smaller.clamp_min(0), larger)


@dataclass(frozen=True)
class SigmaZero:
    """sigma-zero (Cina et al., 2025): Adam on the lead of the true class plus a smooth l0 norm of the perturbation.

    After each step, changes below a threshold are set to 0. The threshold of an example rises while the model is
    fooled, and falls otherwise.
    """

    params: SigmaZeroParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        return _perturbed(model, batch, self.smallest(model, batch, rng), eps, "l0")

    def smallest(self, model: Classifier, batch: Batch, rng: ExampleRNG) -> Tensor:
        """Return the nearest inputs that fool the model, (N, *shape); computed once per batch.

        An input stays clean if it is misclassified, or if the search finds nothing.
        """
        params = self.params
        return _cached(self, batch, lambda: _smallest(model, batch, params, lead, 0.0, _SparseDescent(params)))


class _SparseDescent:
    """The steps of a search by sigma-zero."""

    def __init__(self, params: SigmaZeroParams) -> None:
        self._params, self._steps, self._rate = params, 0, float(params.step)
        self._mean = self._square = torch.tensor(0.0)  # moments of the gradient
        self._threshold = torch.tensor(float(params.threshold))

    def __call__(self, at: _Point, cosine: float) -> tuple[Tensor, Tensor]:
        self._steps += 1
        gradient = self._gradient(at)
        (first, second), device = MOMENTS, at.x.device
        self._mean = self._mean.to(device) * first + gradient * (1 - first)
        self._square = self._square.to(device) * second + gradient.square() * (1 - second)
        mean, square = self._mean / (1 - first**self._steps), self._square / (1 - second**self._steps)
        x = (at.x - self._rate * (mean / (square.sqrt() + STABLE))).clamp(0, 1)
        self._rate = float(self._params.step) * _between(SLOWEST, 1, cosine)
        change = float(self._params.threshold_step) * self._rate
        rise = change * (2 * at.is_fooled.to(x.dtype) - 1)
        self._threshold = (self._threshold.to(rise) + rise).clamp(0, 1)
        is_kept = (x - at.origin).abs() >= per_row(self._threshold, x)
        return torch.where(is_kept, x, at.origin), at.radius

    def _gradient(self, at: _Point) -> Tensor:
        """Return the gradient of the loss, (n, *shape), scaled to 1 in linf. Of a fooled row it is that of the norm."""
        delta, sigma = at.x - at.origin, float(self._params.sigma)
        of_norm = 2 * sigma * delta / (delta.square() + sigma).square() / delta[0].numel()
        gradient = of_norm - at.gradient.nan_to_num() * per_row(~at.is_fooled, delta)
        return gradient / per_row(length(gradient, "linf"), gradient).clamp_min(SMALLEST)


class _Point(NamedTuple):
    """State of a search for n rows.

    x, origin, gradient: (n, *shape).
    value: (n,), of the objective at x.
    radius: (n,), of the ball that contains x.
    is_fooled: (n,), whether the model is fooled at x.
    nearest: (n,), distance of the nearest point found that fools the model, or inf.
    farthest: (n,), distance of the farthest corner of the box.
    """

    x: Tensor
    origin: Tensor
    gradient: Tensor
    value: Tensor
    radius: Tensor
    is_fooled: Tensor
    nearest: Tensor
    farthest: Tensor


def _smallest(
    model: Classifier,
    batch: Batch,
    params: DDNParams | FMNParams | SigmaZeroParams,
    objective: Callable[[Tensor, Tensor], Tensor],
    radius: float,
    follow: Callable[[_Point, float], tuple[Tensor, Tensor]],
) -> Tensor:
    """Search the nearest inputs that fool the model.

    objective: function whose gradient is followed.
    radius: at the start.
    follow: returns the next x and radius from a point and a number that falls from 1 to 0 along a cosine.
    """
    result = batch.x.clone()
    rows = (lead(batch.logits(model), batch.labels) <= 0).nonzero().flatten()
    if len(rows) == 0:
        return result
    origin, labels = batch.x[rows], batch.labels[rows]
    farthest = length(origin.maximum(1 - origin), params.norm)
    x, best = origin, origin
    radii, nearest = torch.full_like(farthest, radius), torch.full_like(farthest, torch.inf)
    for step in range(params.steps):
        at_x = model.gradient(x, labels, objective) if step else batch.gradient(model, objective)
        value, gradient, logits = at_x if step else (part[rows] for part in at_x)
        is_fooled = _is_fooled(model, x, logits, labels)
        distance = length(x - origin, params.norm)
        nearer = is_fooled & (distance <= nearest)
        nearest = torch.where(nearer, distance, nearest)
        best = torch.where(per_row(nearer, x), x, best)
        point = _Point(x, origin, gradient, value, radii, is_fooled, nearest, farthest)
        x, radii = follow(point, (1 + math.cos(math.pi * step / params.steps)) / 2)
    result[rows] = best
    return result


def _is_fooled(model: Classifier, x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the model is fooled at x, (n,) bool. logits: of the gradient pass.

    A point near the boundary must be misclassified in the pass that judges it, too. Gradient passes may differ from
    that pass by rounding or precision. Then points that seem to fool the model are passed through it again.
    """
    is_fooled = lead(logits, labels) > 0
    if (model.low_precision_gradients or not model.grad_mode_exact) and is_fooled.any():
        candidates = is_fooled.nonzero().flatten()
        is_fooled[candidates] = lead(model.logits(x[candidates]), labels[candidates]) > 0
    return is_fooled


def _perturbed(model: Classifier, batch: Batch, x: Tensor, eps: float, norm: MinimalNorm) -> Perturbed:
    """Return the result at a budget, with a note whether any point fools the model, which may be the clean input."""
    found = (x != batch.x).flatten(1).any(1) | (lead(batch.logits(model), batch.labels) > 0)
    return Perturbed(x=within(batch, x, eps, norm), notes={"found": found})


def _cached(attack: DDN | FMN | SigmaZero, batch: Batch, search: Callable[[], Tensor]) -> Tensor:
    x: Tensor = batch.cached((type(attack), attack.params), search)
    return x


def _between(last: float, first: float, cosine: float) -> float:
    return last + (first - last) * cosine
