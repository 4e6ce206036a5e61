"""FGSM and PGD. The result of an example does not depend on the other rows of its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Gradient, Perturbed
from robharness_attacks.norms import direction, per_row, project, random_start, rescale, sparse_step, unit
from robharness_attacks.objectives import (
    clearly_fooled,
    clearly_reached,
    lead,
    likely_targets,
    objective_of,
    target_lead,
)
from robharness_attacks.params import DensePGDParams, FGSMParams, PGDParams, Steps, Target
from robharness_attacks.transfer import ResizeAndPad, draw_transform, smoothed

Measure = Callable[[Tensor, Tensor], Tensor]
"""(outputs of the model (N, ...), labels, targets or clean features (N, ...)) -> one value per row, (N,)."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The goal of a gradient ascent.

    about: (N, ...), labels, targets or clean features of each row, as arguments of the objective.
    objective: function whose value is increased.
    rank: value by which iterates are compared.
    is_reached: tells for which rows the attack may end, (N,) bool.
    rows: (N,) bool, rows that are attacked at all.
    outputs: x -> outputs of the model, for iterates whose gradient is not needed.
    at_clean: returns the gradient at the clean input.
    """

    about: Tensor
    objective: Measure
    rank: Measure
    is_reached: Measure
    rows: Tensor
    outputs: Callable[[Tensor], Tensor]
    at_clean: Callable[[], Gradient]


@dataclass(frozen=True)
class FGSM:
    """FGSM. The gradient at the clean input is computed once per batch and serves all budgets."""

    params: FGSMParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        goal, target = _goal(model, batch, self.params)
        gradient = goal.at_clean().gradient
        x = (batch.x + eps * direction(gradient, self.params.norm)).clamp(0, 1)
        x = torch.where(per_row(goal.rows, x), x, batch.x)
        return Perturbed(x=x, notes={"zero_gradients": (_is_zero(gradient) & goal.rows).long(), **target})


@dataclass(frozen=True)
class PGD:
    """PGD. If iterates are compared, the one with the largest lead of a wrong class, or of the target, is returned."""

    params: PGDParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        goal, target = _goal(model, batch, self.params)
        found = climb(model, batch, eps, rng, self.params, goal)
        return Perturbed(x=found.x, notes={"zero_gradients": found.zero_gradients, **target})


class Best:
    """The best iterate of each example.

    x: (N, *shape), the iterate of the highest rank.
    rank: (N,), of that iterate.
    zero_gradients: (N,), number of gradients that were 0.
    """

    def __init__(self, batch: Batch) -> None:
        self.x = batch.x.clone()
        self.rank = torch.full((len(batch),), -torch.inf, device=batch.x.device)
        self.zero_gradients = torch.zeros_like(batch.labels)

    def update(self, rows: Tensor, x: Tensor, rank: Tensor) -> None:
        """Compare with new iterates. rows: indices of their examples."""
        better = rank > self.rank[rows]
        self.rank[rows] = torch.where(better, rank, self.rank[rows])
        self.x[rows] = torch.where(per_row(better, x), x, self.x[rows])


def climb(model: Classifier, batch: Batch, eps: float, rng: ExampleRNG, params: Steps, goal: Goal) -> Best:
    """Run projected gradient ascent; with keep "best", a row leaves when its goal is reached.

    If iterates are not compared, x of the result is the final iterate, and rank is unknown.
    """
    best = Best(batch)
    length = float(params.step(Fraction(eps)))
    rows = goal.rows.nonzero().flatten()  # indices of active examples
    for restart in range(params.restarts):
        if len(rows) == 0:
            break
        x, origin, about = batch.x[rows], batch.x[rows], goal.about[rows]
        if params.random_start:
            start = random_start(rng.select(rows.tolist()), f"start {restart}", x, eps, params.norm)
            x = (origin + start).clamp(0, 1)
        momentum = torch.zeros_like(x)
        for step in range(params.steps):
            if step == 0 and params.starts_clean:
                _, gradient, outputs = (part[rows] for part in goal.at_clean())
            else:
                transform = _transform(rng, rows, f"{restart} {step}", x, params)
                gradient, outputs = _gradient(model, x, about, goal, transform, params.keep == "best")
            if params.keep == "best":
                reached = goal.is_reached(outputs, about)
                outputs = model.full_precision_logits(x, outputs, reached)
                best.update(rows, x, goal.rank(outputs, about))
                active = (~(reached & goal.is_reached(outputs, about))).nonzero().flatten()
                if len(active) < len(rows):
                    rows, x, origin = rows[active], x[active], origin[active]
                    about, gradient, momentum = about[active], gradient[active], momentum[active]
                if len(rows) == 0:
                    break
            best.zero_gradients[rows] += _is_zero(gradient)
            gradient = smoothed(gradient, params.translation_kernel)
            if params.momentum:
                gradient = momentum = float(params.momentum) * momentum + unit(gradient.nan_to_num(), "l1")
            x = _projected_step(x, gradient, origin, length, eps, params)
        if len(rows) == 0:
            break
        if params.compares:
            outputs = goal.outputs(x)
            best.update(rows, x, goal.rank(outputs, about))
            if params.keep == "best":
                rows = rows[~goal.is_reached(outputs, about)]
        else:
            best.x[rows] = x
    return best


def targets_of(target: Target, model: Classifier, batch: Batch) -> Tensor:
    """Return the target class of each example, (N,) int64; -1 if the target is the label.

    target: "least-likely"; "random", a wrong class drawn by the example's id, the same for all models, attacks, budgets
        and seeds; or a class.

    Raises ValueError for a class that the model does not have.
    """
    labels, logits = batch.labels, batch.logits(model)
    classes = logits.shape[1]
    if target == "least-likely":
        return likely_targets(logits, labels, classes)[:, -1]
    if target == "random":
        rng = ExampleRNG(0, "targets", batch.ids)
        draws = torch.tensor([rng.integer("target", row) % (classes - 1) for row in range(len(batch))])
        draws = draws.to(labels.device)
        return draws + (draws >= labels)
    if int(target) >= classes:
        raise ValueError(
            f"target {target} is not one of the model's {classes} classes, 0 to {classes - 1}. "
            f"Try: target: {classes - 1}"
        )
    return torch.full_like(labels, int(target)).masked_fill(labels == int(target), -1)


def _goal(model: Classifier, batch: Batch, params: FGSMParams | PGDParams) -> tuple[Goal, dict[str, Tensor]]:
    """Return the goal of these options, and the note on targets, if there are any."""
    labels, is_targeted = batch.labels, params.target != "none"
    objective = objective_of(params.objective, is_targeted)
    if not is_targeted:
        return Goal(
            about=labels,
            objective=objective,
            rank=lead,
            is_reached=clearly_fooled,
            rows=torch.ones_like(labels, dtype=torch.bool),
            outputs=model.logits,
            at_clean=partial(batch.gradient, model, objective),
        ), {}
    targets = targets_of(params.target, model, batch)
    about = torch.stack([labels, torch.where(targets < 0, labels, targets)], 1)
    shared = (objective, params.target)
    goal = Goal(
        about=about,
        objective=objective,
        rank=lambda logits, about: target_lead(logits, about[:, 1]),
        is_reached=lambda logits, about: clearly_reached(logits, about[:, 1]),
        rows=targets >= 0,
        outputs=model.logits,
        at_clean=lambda: batch.cached(shared, lambda: model.gradient(batch.x, about, objective)),
    )
    return goal, {"target": targets}


def _transform(rng: ExampleRNG, rows: Tensor, draw: str, x: Tensor, params: Steps) -> ResizeAndPad | None:
    """Draw the transform of a step under input diversity for the active examples; None without it."""
    if not params.diversity:
        return None
    probability, smallest = float(params.diversity), float(params.diversity_size)
    return draw_transform(rng.select(rows.tolist()), f"diversity {draw}", x, probability, smallest)


def _gradient(
    model: Classifier, x: Tensor, about: Tensor, goal: Goal, transform: ResizeAndPad | None, compares: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient with respect to x, (n, *shape), and outputs, (n, ...).

    transform: of x, after which the objective is taken.
    compares: whether outputs have to be those of x itself.
    """
    if transform is None:
        result = model.gradient(x, about, goal.objective)
        return result.gradient, result.logits
    result = model.gradient(transform(x), about, goal.objective)
    return transform.adjoint(result.gradient), goal.outputs(x) if compares else result.logits


def _projected_step(x: Tensor, gradient: Tensor, origin: Tensor, length: float, eps: float, params: Steps) -> Tensor:
    """Return x after one projected step."""
    if isinstance(params, DensePGDParams):
        return rescale(x + length * unit(gradient.nan_to_num(), "l1"), origin, eps, "l1")
    if params.norm != "l1":
        return project(x + length * direction(gradient, params.norm), origin, eps, params.norm)
    size = x[0].numel()
    count = size - ceil(params.sparsity * (size - 1))
    return project(x + sparse_step(x, gradient, length, count), origin, eps, params.norm)


def _is_zero(gradient: Tensor) -> Tensor:
    """Return whether all entries of a row are 0 or NaN, (N,) bool."""
    return ~(gradient.abs() > 0).flatten(1).any(1)
