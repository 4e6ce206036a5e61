"""Auto-PGD (Croce and Hein, 2020; under l1: 2021): projected gradient ascent with adaptive step lengths.

The runs for all targets of an example advance together, or three at a time from the nearest one. An example leaves when
a run clearly fools the model. No example influences another. Inputs are flat inside, one row per pair of example
and target: (P, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from robharness import Batch, Classifier, Component, ExampleRNG, Perturbed
from robharness_attacks.components import CROSS_ENTROPY, DLR, EXCESS, MARGIN
from robharness_attacks.norms import direction, project
from robharness_attacks.objectives import clearly_fooled, lead, objective_of
from robharness_attacks.pairs import first_of_each, runs, start_draws
from robharness_attacks.params import APGDParams, Norm
from robharness_attacks.targets import targets_of

MOMENTUM = 0.75
"""Weight of the new step; the previous step has the rest."""

CHECK, SOONER, SHORTEST, L1_CHECK = Fraction("0.22"), Fraction("0.03"), Fraction("0.06"), Fraction("0.04")
"""Intervals between checks as shares of all steps: the first, the decrease, the shortest, and the only one under l1."""

L1_SHARE, L1_SPARSER, L1_SHRINK, L1_RANGE = Fraction("0.2"), 0.95, 1.5, 10
"""Constants under l1: the share of coordinates that move at first; the ratio of supports below which the best point
counts as sparser; the divisor of the step if it is not; and the largest total divisor."""

AT_ONCE = 3
"""Targets that advance together if the nearest come first: fewer would leave more of a pass idle."""

LARGER = ((3, Fraction("0.3")), (2, Fraction("0.3")), (1, Fraction("0.4")))
"""Phases with larger radii: the multiple of eps, and the share of all steps."""

Ascent = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(x (P, n), about (P, ...)) -> the objective's values, its gradient, as x, and the logits."""


@dataclass(frozen=True)
class APGD:
    """Auto-PGD. Returns a point that fools the model, or else the point with the largest objective.

    Rows whose clean input is misclassified are not changed.

    Notes:
    targets: number of target classes tried, 0 for an untargeted run.
    objective: the objective that was used, which with few classes may differ from the requested one.
    """

    params: APGDParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        params = self.params
        clean = batch.logits(model)
        about, ranks = batch.labels[:, None], torch.zeros_like(batch.labels)[:, None]
        if params.targets:
            targets, ranks = targets_of(model, batch, params)
            about = torch.stack([about.expand_as(targets), targets], 2)
        objective = self._objective(clean.shape[1])
        ascent = self._ascent(model, objective, batch.x.shape[1:])
        found = _Found(model, batch, clean)
        at_once = AT_ONCE if params.order == "near" else ranks.shape[1]
        for some, places in zip(torch.split(about, at_once, 1), torch.split(ranks, at_once, 1), strict=True):
            turns = places.shape[1]
            for active, restart in runs(found.done, turns, params.restarts, model.batch_size):
                draws = self._draws(rng.select(active), places[active], restart, found.origin)
                self._run(ascent, found, active.repeat_interleave(turns), some[active].flatten(0, 1), eps, draws)
        tries = torch.full_like(batch.labels, ranks.shape[1] if params.targets else 0)
        return Perturbed(x=found.x, notes={"targets": tries, "objective": [str(objective)] * len(batch)})

    def _draws(self, rng: ExampleRNG, ranks: Tensor, restart: int, like: Tensor) -> Tensor:
        """Draw the starts of the pairs, (P, n): a target has the same start in every order."""
        drawn = start_draws(rng, int(ranks.max()) + 1, restart, like, self.params.norm)
        drawn = drawn.view(len(ranks), -1, drawn.shape[1])
        return drawn[torch.arange(len(ranks), device=ranks.device)[:, None], ranks].flatten(0, 1)

    def _objective(self, classes: int) -> Component:
        """Return the objective for this number of classes. Averages over draws need the weights of cross-entropy."""
        if self.params.objective == DLR and classes < (4 if self.params.targets else 3):
            return MARGIN
        if self.params.objective == EXCESS and self.params.draws > 1:
            return CROSS_ENTROPY
        return self.params.objective

    def _ascent(self, model: Classifier, chosen: Component, shape: tuple[int, ...]) -> Ascent:
        """Return a function that computes values, gradient and logits, averaged over draws."""
        objective = objective_of(chosen, targeted=self.params.targets > 0)

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
        """Make all steps from one start, for the pairs of these examples."""
        params, origin = self.params, found.origin[examples]
        phases = LARGER if params.larger_eps else ((1, Fraction(1)),)
        x = _start(draws, origin, eps * phases[0][0], params.norm)
        steps_left = params.steps
        for multiple, share in phases:
            radius = eps * multiple
            steps = steps_left if multiple == 1 else min(steps_left, ceil(share * params.steps))
            steps_left -= steps
            x = x if multiple == phases[0][0] else project(x, origin, radius, params.norm)
            state = _State.at(examples, about, origin, x, radius, params)
            self._climb(ascent, state, radius, steps, found if multiple == 1 else None)
            x = state.best
        found.settle(state.examples, state.best, state.best_value)

    def _climb(self, ascent: Ascent, state: _State, eps: float, steps: int, found: _Found | None) -> None:
        """Make the steps at one radius. Pairs leave the state when the model is clearly fooled on their example."""
        norm = self.params.norm
        every = until_check = max(1, int((L1_CHECK if norm == "l1" else CHECK) * steps))
        for step in range(steps + 1):
            state.value, state.gradient, logits = ascent(state.x, state.about)
            if found is not None:
                active = found.record(state.examples, state.x, logits)
                if active is not None:
                    state.select(active)
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
    """The result for a batch.

    x: (N, *shape), the point found for each example.
    origin: (N, n), the flat clean inputs.
    done: (N,) bool, examples on which the model is clearly fooled.
    """

    def __init__(self, model: Classifier, batch: Batch, clean: Tensor) -> None:
        self.x, self.origin = batch.x.clone(), batch.x.flatten(1)
        self.done = lead(clean, batch.labels) > 0
        self._fooled = self.done.clone()  # even if not clearly; their point is final
        self._model, self._labels = model, batch.labels
        self._value = torch.full_like(clean[:, 0], -torch.inf)

    def record(self, examples: Tensor, x: Tensor, logits: Tensor) -> Tensor | None:
        """Store points that fool the model. Returns the indices of pairs that are still active, or None for all."""
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
        """Store the best points of a run, for the examples on which nothing fooled the model."""
        best = first_of_each(examples, -value)
        x, value, examples = x[best], value[best], examples[best]
        better = (value > self._value[examples]) & ~self._fooled[examples]
        self.x[examples[better]] = x[better].reshape(-1, *self.x.shape[1:])
        self._value[examples[better]] = value[better]


@dataclass
class _State:
    """State of an ascent; the first axis of every field has the active pairs.

    examples: indices in the batch.
    x, before: the current and the previous point.
    value, gradient: of the objective at x.
    best, best_gradient, best_value: the point with the largest objective so far.
    checked_value: best value at the last check.
    step: length of a step.
    gains: number of steps since the last check that raised the objective.
    halved: whether the last check halved the step.
    moving: under l1, number of coordinates that a step moves.
    support: under l1, number of coordinates in which the best point differed from the input at the last check.
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
        """Return the state of an ascent that starts at x."""
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
            value_before=-low,  # the start does not count as a gain
            best=x.clone(),
            best_gradient=torch.zeros_like(x),
            best_value=low,
            checked_value=low,
            step=torch.full_like(x[:, 0], eps if params.norm == "l1" else 2 * eps),
            gains=count,
            halved=count == 0,  # the first check depends on gains only
            moving=torch.full_like(count, ceil(L1_SHARE * size)),
            support=torch.full_like(count, size),
        )
        if params.larger_eps:
            state.support = (x != origin).sum(1)
            state.moving = _two_thirds(state.support)
        return state

    def select(self, active: Tensor) -> None:
        """Keep only these pairs, given by their indices among the active ones."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name).index_select(0, active))

    def compare(self) -> None:
        """Count gains and update the best point."""
        self.gains = self.gains + (self.value > self.value_before)
        self.value_before = self.value
        better = (self.value > self.best_value).nonzero().flatten()
        self.best.index_copy_(0, better, self.x.index_select(0, better))  # five times faster than indexing
        self.best_gradient.index_copy_(0, better, self.gradient.index_select(0, better))
        self.best_value = self.best_value.fmax(self.value)

    def check_gains(self, enough: float) -> None:
        """Halve the step after too few gains, or if the best value did not rise since a check that kept the step."""
        self.halved = (self.gains < enough) | (~self.halved & (self.best_value <= self.checked_value))
        self.gains = torch.zeros_like(self.gains)
        self.checked_value = self.best_value
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self._restart_from_best(self.halved)

    def check_sparsity(self, eps: float) -> None:
        """Set the sparsity of steps from that of the best point, and shorten the step if it did not become sparser."""
        support = (self.best != self.origin).sum(1)
        sparser = support < L1_SPARSER * self.support
        self.support, self.moving = support, _two_thirds(support)
        self.step = torch.where(sparser, eps, (self.step / L1_SHRINK).clamp_min(eps / L1_RANGE))
        self._restart_from_best(sparser)

    def _restart_from_best(self, mask: Tensor) -> None:
        rows = mask.nonzero().flatten()
        self.x[rows], self.gradient[rows] = self.best[rows], self.best_gradient[rows]

    def move(self, eps: float, norm: Norm, weight: float) -> None:
        """Make a step of this weight, plus the previous step with the rest of the weight."""
        step = _sparse_sign(self.gradient, self.moving) if norm == "l1" else direction(self.gradient, norm)
        x = project(step.mul_(self.step[:, None]).add_(self.x), self.origin, eps, norm)
        if norm != "l1" and weight < 1:
            # Both tensors may be overwritten: x + weight (to - x) + (1 - weight) (x - before), in place.
            drift = self.before.sub_(self.x).mul_(weight - 1)
            x = project(x.sub_(self.x).mul_(weight).add_(self.x).add_(drift), self.origin, eps, norm)
        self.before, self.x = self.x, x


def _start(draws: Tensor, origin: Tensor, eps: float, norm: Norm) -> Tensor:
    """Return the published start: on the sphere around the origin, or under l1 the projection of a normal draw."""
    if norm == "linf":
        return (origin + eps * draws / draws.abs().amax(1, keepdim=True)).clamp(0, 1)
    return project(origin + (draws if norm == "l1" else eps * direction(draws, norm)), origin, eps, norm)


def _sparse_sign(gradient: Tensor, counts: Tensor) -> Tensor:
    """Return the signs of the largest entries of each row, scaled to length 1 in l1. counts: (N,), of such entries."""
    sizes = gradient.nan_to_num().abs()
    largest = sizes.topk(int(counts.max()), 1).values
    least = largest.gather(1, counts[:, None] - 1)
    signs = torch.ge(sizes, least, out=torch.empty_like(sizes)).mul_(gradient.sign()).nan_to_num_(0)
    return signs / signs.count_nonzero(1).clamp_min(1)[:, None]


def _two_thirds(counts: Tensor) -> Tensor:
    return ((2 * counts + 2) // 3).clamp_min(1)
