"""FGSM and PGD. Rows of a batch never meet: what an example gets depends on itself alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks import FGSMParams, PGDParams
from robharness_attacks.norms import direction, per_row, project, random_start
from robharness_attacks.objectives import clearly_fooled, excess, lead


@dataclass(frozen=True)
class FGSM:
    """The gradient at the clean input serves all budgets: it is computed once per batch."""

    params: FGSMParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        way = direction(batch.gradient(model, excess).gradient, self.params.norm)
        return Perturbed(x=(batch.x + eps * way).clamp(0, 1), notes={"zero_gradients": _is_zero(way).long()})


@dataclass(frozen=True)
class PGD:
    """Where iterates are compared, the one with the largest lead of a wrong class wins."""

    params: PGDParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        params = self.params
        length = float(params.step(Fraction(eps)))
        best = _Best(batch)
        zero_gradients = torch.zeros_like(batch.labels)
        rows = torch.arange(len(batch), device=batch.x.device)  # those that are still attacked
        for restart in range(params.restarts):
            x = origin = batch.x[rows]
            labels = batch.labels[rows]
            if params.random_start:
                start = random_start(rng.select(rows.tolist()), f"start {restart}", x, eps, params.norm)
                x = (origin + start).clamp(0, 1)
            for step in range(params.steps):
                at_clean = step == 0 and not params.random_start
                here = batch.gradient(model, excess) if at_clean else model.gradient(x, labels, excess)
                gradient = here.gradient
                if params.keep == "best":
                    best.update(rows, x, here.logits)
                    on = (~clearly_fooled(here.logits, labels)).nonzero().flatten()
                    if len(on) < len(rows):
                        rows, origin, labels, x, gradient = rows[on], origin[on], labels[on], x[on], gradient[on]
                    if len(rows) == 0:
                        break
                way = direction(gradient, params.norm)
                zero_gradients[rows] += _is_zero(way)
                x = (origin + project(x + length * way - origin, eps, params.norm)).clamp(0, 1)
            if params.compares and len(rows) > 0:
                logits = model.logits(x)
                best.update(rows, x, logits)
                if params.keep == "best":
                    rows = rows[~clearly_fooled(logits, labels)]
            if len(rows) == 0:
                break
        return Perturbed(x=best.x if params.compares else x, notes={"zero_gradients": zero_gradients})


class _Best:
    """Per example, the iterate at which a wrong class led by most. x: (N, *shape)."""

    def __init__(self, batch: Batch) -> None:
        self.x = batch.x.clone()
        self._labels = batch.labels
        self._lead = torch.full((len(batch),), -torch.inf, device=batch.x.device)

    def update(self, rows: Tensor, x: Tensor, logits: Tensor) -> None:
        """Compare with these iterates of these rows (indices)."""
        found = lead(logits, self._labels[rows])
        better = found > self._lead[rows]
        self._lead[rows] = torch.where(better, found, self._lead[rows])
        self.x[rows] = torch.where(per_row(better, x), x, self.x[rows])


def _is_zero(direction: Tensor) -> Tensor:
    return direction.abs().amax(tuple(range(1, direction.ndim))) == 0
