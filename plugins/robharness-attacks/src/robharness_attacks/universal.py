"""A universal perturbation (Moosavi-Dezfooli et al., 2017): one for all examples, by projected gradient ascent."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG
from robharness_attacks.norms import direction, length, per_row
from robharness_attacks.objectives import clearly_fooled, objective_of
from robharness_attacks.params import UniversalParams


@dataclass(frozen=True)
class Fitted:
    """One perturbation for all examples.

    perturbation: (1, *shape).
    """

    perturbation: Tensor

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        return (batch.x + self.perturbation).clamp(0, 1)


@dataclass(frozen=True)
class Universal:
    """Ascent on the sum of the objective over the examples that the perturbation does not fool yet.

    The step follows the gradient of the perturbation, inside the ball. The one that fools most examples is returned, of
    equal ones the last.
    """

    params: UniversalParams

    def fit(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Fitted:
        """Return the perturbation that is fitted on a batch."""
        params, objective = self.params, objective_of(self.params.objective, targeted=False)
        assert params.rel_step is not None
        pace, most = float(params.rel_step * Fraction(eps)), -1
        best = perturbation = torch.zeros_like(batch.x[:1])
        for step in range(params.steps + 1):
            x = (batch.x + perturbation).clamp(0, 1)
            found = model.gradient(x, batch.labels, objective)
            gradient, fooled = found.gradient, clearly_fooled(found.logits, batch.labels)
            if int(fooled.sum()) >= most:
                most, best = int(fooled.sum()), perturbation
            if step == params.steps or fooled.all():
                break
            total = torch.where(per_row(fooled, x), 0, gradient.nan_to_num()).double().sum(0, keepdim=True).to(x.dtype)
            perturbation = _in_ball(perturbation + pace * direction(total, params.norm), eps, params.norm)
        return Fitted(best)

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Tensor:
        """Perturb a batch by what is fitted on it."""
        return self.fit(model, batch, eps, rng).perturb(model, batch, eps, rng)


def _in_ball(perturbation: Tensor, eps: float, norm: Literal["linf", "l2"]) -> Tensor:
    """Return the nearest point of the ball of radius eps around 0, (1, *shape), whose values may be negative."""
    if norm == "linf":
        return perturbation.clamp(-eps, eps)
    share = eps / length(perturbation, norm).clamp_min(torch.finfo(perturbation.dtype).tiny)
    return perturbation * per_row(share.clamp_max(1), perturbation)
