"""A probe of a model for audits: it returns the inputs as they are, with notes on gradients and logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.norms import row_sum
from robharness_attacks.objectives import cross_entropy, excess
from robharness_attacks.params import ProbeParams

STEPS = (1, 4, 16)
"""The tried steps, as multiples of eps."""
GRAY = 0.5
"""The value of all pixels of the neighbours that an example gets."""


@dataclass(frozen=True)
class Probe:
    """Measures what the notes of the role "probe" say, `robharness.specs.audits.PROBE_NOTES`, with steps of eps.

    The margin of these notes is `excess`, whose gradient does not underflow.
    """

    params: ProbeParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        x, labels = batch.x, batch.labels
        logits = batch.logits(model)
        gradient = model.gradient(x, labels, excess).gradient
        of_loss = model.gradient(x, labels, cross_entropy).gradient
        is_zero, is_finite = _is_zero(gradient), gradient.isfinite().flatten(1).all(1)
        random = (2 * rng.uniform("step", x.shape[1:]) - 1).to(x.dtype)  # signs alone may cancel to the last bit
        moved = [model.logits(_moved(x, random * (eps * factor))) for factor in STEPS]
        blind = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for factor, after in zip(STEPS, moved, strict=True):
            blind = torch.where((after == logits).all(1), eps * factor, blind)
        step = _moved(x, eps * gradient.nan_to_num().sign(), reflected=False)
        before = excess(logits, labels)
        predicted = row_sum(gradient.nan_to_num().double() * (step.double() - x.double()))
        notes = {
            "zero_gradient": is_zero,
            "nan_gradient": ~is_finite,
            "underflow": _is_zero(of_loss) & ~is_zero,
            "repeat_difference": _difference(model.logits(x), logits),
            "neighbour_difference": _neighbour_difference(model, x, logits),
            "blind_step": blind,
            "gradient_rise": (excess(model.logits(step), labels) - before).double(),
            "random_rise": (excess(moved[0], labels) - before).double(),
            "predicted_rise": predicted,
        }
        return Perturbed(x=x, notes=notes)


def _is_zero(gradient: Tensor) -> Tensor:
    """Return whether all entries of a row are 0, (N,) bool."""
    return (gradient == 0).flatten(1).all(1)


def _moved(x: Tensor, step: Tensor, *, reflected: bool = True) -> Tensor:
    """Return x after a step, in [0, 1].

    reflected: whether a pixel that would leave the box moves the other way by as much, else it stops at the edge.
    """
    moved = x + step
    if reflected:
        moved = torch.where((moved < 0) | (moved > 1), x - step, moved)
    return moved.clamp(0, 1)


def _difference(other: Tensor, logits: Tensor) -> Tensor:
    """Return the largest difference of the logits of a row over their range, (N,) float64; inf if one is not finite."""
    span = (logits.amax(1) - logits.amin(1)).double().clamp_min(torch.finfo(torch.float32).tiny)
    by = (other.double() - logits.double()).abs().amax(1) / span
    same = ((other == logits) | (other.isnan() & logits.isnan())).all(1)
    return torch.where(same, 0.0, by.nan_to_num(torch.inf, torch.inf))


def _neighbour_difference(model: Classifier, x: Tensor, logits: Tensor) -> Tensor:
    """Return the difference of logits in passes with the examples in reverse order, and beside gray neighbours."""
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    reversed_ = model.logits(x[order])[order]
    beside = torch.stack([x, torch.full_like(x, GRAY)], 1).flatten(0, 1)
    return torch.maximum(_difference(reversed_, logits), _difference(model.logits(beside)[::2], logits))
