"""Auto-PGD (Croce and Hein, 2020; under l1: 2021): projected ascent that chooses its step lengths as it goes.

All targets of an example climb in lock-step, and it leaves at once when one clearly fools the model. Examples never
meet. Inside, inputs are flat, a row per example and target: (P, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.norms import direction, project
from robharness_attacks.objectives import clearly_fooled, lead, likely_targets, objective_of
from robharness_attacks.pairs import first_of_each, runs, start_draws
from robharness_attacks.params import APGDParams, Norm, Objective

MOMENTUM = 0.75
"""Weight of the new step; the rest is the step before."""

CHECK, SOONER, SHORTEST, L1_CHECK = Fraction("0.22"), Fraction("0.03"), Fraction("0.06"), Fraction("0.04")
"""Shares of all steps: until the first check, by how much the next comes sooner, and at least; under l1, always."""

L1_SHARE, L1_SPARSER, L1_SHRINK, L1_RANGE = Fraction("0.2"), 0.95, 1.5, 10
"""l1: the share of coordinates that move at first; the best point is sparser if it has less than this part of what it
had; if not, the step is divided by 1.5, in all by 10 at most; two thirds of its coordinates move next."""

LARGER = ((3, Fraction("0.3")), (2, Fraction("0.3")), (1, Fraction("0.4")))
"""Multiples of eps, one after the other, each with its share of all steps."""

Ascent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(x (P, n), about (P, ...)) -> the objective's values, its gradient, as x, and the logits."""


@dataclass(frozen=True)
class APGD:
    """Returns a point that fools the model, or else the one with the largest objective.

    Rows that the model gets wrong as they are stay so. Notes: how many target classes there were to try, 0 for any
    wrong class; and which objective was climbed, which with few classes is not the one asked for.
    """

    params: APGDParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        params = self.params
        clean = batch.logits(model)
        about = batch.labels[:, None]
        if params.targets:
            targets = likely_targets(clean, batch.labels, params.targets)
            about = torch.stack([about.expand_as(targets), targets], 2)
        turns = about.shape[1]
        objective = self._objective(clean.shape[1])
        ascent = self._ascent(model, objective, batch.x.shape[1:])
        found = _Found(model, batch, clean)
        for left, restart in runs(found.done, turns, params.restarts, model.batch_size):
            draws = start_draws(rng.select(left), turns, restart, found.origin, params.norm)
            self._run(ascent, found, left.repeat_interleave(turns), about[left].flatten(0, 1), eps, draws)
        tries = torch.full_like(batch.labels, turns if params.targets else 0)
        return Perturbed(x=found.x, notes={"targets": tries, "objective": [objective] * len(batch)})

    def _objective(self, classes: int) -> Objective:
        """What is climbed. An average of gradients needs the weights that cross-entropy gives them."""
        if self.params.objective == "dlr" and classes < (4 if self.params.targets else 3):
            return "margin"
        if self.params.objective == "excess" and self.params.draws > 1:
            return "cross-entropy"
        return self.params.objective

    def _ascent(self, model: Classifier, name: Objective, shape: tuple[int, ...]) -> Ascent:
        """Values, gradient and logits, averaged over the draws."""
        objective = objective_of(name, targeted=self.params.targets > 0)

        def ascent(x: Tensor, about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            values, gradient, logits = model.gradient(x.reshape(-1, *shape), about, objective)
            draws = self.params.draws
            for _ in range(draws - 1):
                again = model.gradient(x.reshape(-1, *shape), about, objective)
                values, gradient, logits = values + again.values, gradient + again.gradient, logits + again.logits
            if draws > 1:
                values, gradient, logits = values / draws, gradient / draws, logits / draws
            return values, gradient.flatten(1), logits

        return ascent

    def _run(self, ascent: Ascent, found: _Found, examples: Tensor, about: Tensor, eps: float, draws: Tensor) -> None:
        """All steps from one start, for pairs of these examples."""
        params, origin = self.params, found.origin[examples]
        phases = LARGER if params.larger_eps else ((1, Fraction(1)),)
        x = _start(draws, origin, eps * phases[0][0], params.norm)
        left = params.steps
        for multiple, share in phases:
            radius = eps * multiple
            steps = left if multiple == 1 else min(left, ceil(share * params.steps))
            left -= steps
            x = x if multiple == phases[0][0] else project(x, origin, radius, params.norm)
            state = _State.at(examples, about, origin, x, radius, params)
            self._climb(ascent, state, radius, steps, found if multiple == 1 else None)
            x = state.best
        found.settle(state.examples, state.best, state.best_value)

    def _climb(self, ascent: Ascent, state: _State, eps: float, steps: int, found: _Found | None) -> None:
        """The steps at one radius; pairs leave the state as soon as their example is clearly fooled there."""
        norm = self.params.norm
        every = until_check = max(1, int((L1_CHECK if norm == "l1" else CHECK) * steps))
        for step in range(steps + 1):
            state.value, state.gradient, logits = ascent(state.x, state.about)
            if found is not None:
                on = found.record(state.examples, state.x, logits)
                if on is not None:
                    state.keep(on)
                if len(state.examples) == 0:
                    return
            state.compare()
            if step == steps:
                return
            if until_check == 0:
                if norm == "l1":
                    state.check_sparsity(eps)
                else:
                    state.check_gains(float(self.params.rho) * every)
                    every = max(every - max(1, int(SOONER * steps)), int(SHORTEST * steps), 1)
                until_check = every
            until_check -= 1
            state.move(eps, norm, MOMENTUM if step > 0 else 1)


class _Found:
    """What a batch is given back, and who needs no more.

    x: (N, *shape), the point that was found. origin: the clean inputs, flat. done: (N,), who is fooled.
    """

    def __init__(self, model: Classifier, batch: Batch, clean: Tensor) -> None:
        self.x, self.origin = batch.x.clone(), batch.x.flatten(1)
        self.done = lead(clean, batch.labels) > 0
        self._fooled = self.done.clone()  # by however little; of those the point stays
        self._model, self._labels = model, batch.labels
        self._value = torch.full_like(clean[:, 0], -torch.inf)

    def record(self, examples: Tensor, x: Tensor, logits: Tensor) -> Tensor | None:
        """Keep those x that fool the model. Which of these pairs go on, as indices; None for all."""
        labels = self._labels[examples]
        fooled = (lead(logits, labels) > 0).nonzero().flatten()
        if len(fooled) == 0:
            return None
        which, points = examples[fooled], x[fooled].reshape(-1, *self.x.shape[1:])
        labels, logits = labels[fooled], logits[fooled]
        logits = self._model.full_precision_logits(points, logits, clearly_fooled(logits, labels))
        clear = clearly_fooled(logits, labels)
        best = first_of_each(which, 1 - clear.float())
        self.x[which[best]], self._fooled[which[best]], self.done[which[best]] = points[best], True, clear[best]
        return (~self.done[examples]).nonzero().flatten() if clear.any() else None

    def settle(self, examples: Tensor, x: Tensor, value: Tensor) -> None:
        """The best points of a run, for the examples that nothing fooled."""
        best = first_of_each(examples, -value)
        x, value, examples = x[best], value[best], examples[best]
        better = (value > self._value[examples]) & ~self._fooled[examples]
        self.x[examples[better]] = x[better].reshape(-1, *self.x.shape[1:])
        self._value[examples[better]] = value[better]


@dataclass
class _State:
    """Where a climb stands; everything has the pairs that are still in it on its first axis.

    examples: their indices in the batch. x, before: this point and the last one. value, gradient: at x.
    step: its length. gains: how many steps since the last check raised the objective. halved: whether that check
    halved the step. Under l1, moving: how many coordinates a step moves; support: how many the best point had moved.
    """

    examples: Tensor
    about: Tensor
    origin: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    value_before: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    checked_value: Tensor
    step: Tensor
    gains: Tensor
    halved: Tensor
    moving: Tensor
    support: Tensor

    @classmethod
    def at(cls, examples: Tensor, about: Tensor, origin: Tensor, x: Tensor, eps: float, params: APGDParams) -> _State:
        """The beginning of a climb at these points."""
        count = torch.zeros_like(examples)
        low = torch.full_like(x[:, 0], -torch.inf, dtype=torch.float32)  # as the values are
        size = x.shape[1]
        state = cls(
            examples=examples,
            about=about,
            origin=origin,
            x=x,
            before=x,
            gradient=x,
            value=low,
            value_before=-low,  # so that the start is no gain
            best=x.clone(),
            best_gradient=torch.zeros_like(x),
            best_value=low,
            checked_value=low,
            step=torch.full_like(x[:, 0], eps if params.norm == "l1" else 2 * eps),
            gains=count,
            halved=count == 0,  # so that the first check asks for gains alone
            moving=torch.full_like(count, ceil(L1_SHARE * size)),
            support=torch.full_like(count, size),
        )
        if params.larger_eps:
            state.support = (x != origin).sum(1)
            state.moving = _two_thirds(state.support)
        return state

    def keep(self, on: Tensor) -> None:
        """These pairs alone, by their indices among those that are left."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name).index_select(0, on))

    def compare(self) -> None:
        """Count gains and keep the best point."""
        self.gains = self.gains + (self.value > self.value_before)
        self.value_before = self.value
        better = (self.value > self.best_value).nonzero().flatten()
        self.best.index_copy_(0, better, self.x.index_select(0, better))  # five times faster than with brackets
        self.best_gradient.index_copy_(0, better, self.gradient.index_select(0, better))
        self.best_value = self.best_value.fmax(self.value)

    def check_gains(self, enough: float) -> None:
        """Halve the step where too few steps helped, or where the best point has stayed for two checks at one step."""
        self.halved = (self.gains < enough) | (~self.halved & (self.best_value <= self.checked_value))
        self.gains = torch.zeros_like(self.gains)
        self.checked_value = self.best_value
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self._go_back(self.halved)

    def check_sparsity(self, eps: float) -> None:
        """Move as few coordinates as suits the best point, and shorten the step where they get no fewer."""
        support = (self.best != self.origin).sum(1)
        sparser = support < L1_SPARSER * self.support
        self.support, self.moving = support, _two_thirds(support)
        self.step = torch.where(sparser, eps, (self.step / L1_SHRINK).clamp_min(eps / L1_RANGE))
        self._go_back(sparser)

    def _go_back(self, where: Tensor) -> None:
        rows = where.nonzero().flatten()
        self.x[rows], self.gradient[rows] = self.best[rows], self.best_gradient[rows]

    def move(self, eps: float, norm: Norm, weight: float) -> None:
        """One step, then `weight` of it and the rest of the step before."""
        way = _sparse_sign(self.gradient, self.moving) if norm == "l1" else direction(self.gradient, norm)
        x = project(way.mul_(self.step[:, None]).add_(self.x), self.origin, eps, norm)
        if norm != "l1" and weight < 1:
            # Both points are ours: x + weight (to - x) + (1 - weight) (x - before), in place.
            drift = self.before.sub_(self.x).mul_(weight - 1)
            x = project(x.sub_(self.x).mul_(weight).add_(self.x).add_(drift), self.origin, eps, norm)
        self.before, self.x = self.x, x


def _start(draws: Tensor, origin: Tensor, eps: float, norm: Norm) -> Tensor:
    """The published starts: on the sphere around the origin, or under l1 the projection of a normal draw."""
    if norm == "linf":
        return (origin + eps * draws / draws.abs().amax(1, keepdim=True)).clamp(0, 1)
    return project(origin + (draws if norm == "l1" else eps * direction(draws, norm)), origin, eps, norm)


def _sparse_sign(gradient: Tensor, counts: Tensor) -> Tensor:
    """The sign of so many of the largest entries of each row, counts (N,), scaled to length 1 in l1."""
    sizes = gradient.nan_to_num().abs()
    largest = sizes.topk(int(counts.max()), 1).values
    least = largest.gather(1, counts[:, None] - 1)
    way = torch.ge(sizes, least, out=torch.empty_like(sizes)).mul_(gradient.sign()).nan_to_num_(0)
    return way / way.count_nonzero(1).clamp_min(1)[:, None]


def _two_thirds(counts: Tensor) -> Tensor:
    return ((2 * counts + 2) // 3).clamp_min(1)
