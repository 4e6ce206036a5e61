"""The instance-wise attack of adversarial contrastive training: PGD under linf that raises the loss between views.

It needs no classes. Its random start is drawn by the seed, the step and the example, as views are, so that a training
that resumes, another order of the batch, or several processes give the same adversarial views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from robharness_contrastive.augment import Draws
from robharness_contrastive.data import seed_of
from robharness_contrastive.networks import evaluating

if TYPE_CHECKING:
    from robharness_contrastive.objectives import TrainingStep
    from robharness_contrastive.options import Attacked


class Adversarial(NamedTuple):
    """Views under attack.

    views: as many as were attacked, (B, ...) each, in [0, 1] and in the ball; without gradients.
    notes: mean loss at the random start, "attack_start", and at the end, "attack_end", for the log.
    """

    views: list[Tensor]
    notes: dict[str, Tensor]


def attack(
    loss: Callable[[Sequence[Tensor]], Tensor],
    views: Sequence[Tensor],
    options: Attacked,
    step: TrainingStep,
    networks: Iterable[nn.Module],
) -> Adversarial:
    """Attack views of a batch together, so that the sum of a loss rises.

    Weights, buffers, gradients and modes of the networks are the same afterwards. No step waits for the device.

    loss: (views) -> losses, one per anchor or a mean; its size does not matter, since steps follow signs.
    views: (B, ...) in [0, 1] each.
    options: radius, number and length of the steps.
    step: selects the random start, by its seed, its number and its first B rows.
    networks: that the loss calls. They are in eval mode meanwhile.
    """
    eps, length = float(options.eps), float(options.eps * options.rel_step)
    bounds = [((view - eps).clamp(min=0), (view + eps).clamp(max=1)) for view in views]
    with evaluating(*networks), torch.enable_grad():
        found = [
            torch.clamp(view + _start(view, eps, step, number), *bounds[number]) for number, view in enumerate(views)
        ]
        at_start = None
        for _ in range(options.steps):
            found = [x.detach().requires_grad_(True) for x in found]
            losses = loss(found)
            gradients = torch.autograd.grad(losses.sum(), found)
            at_start = losses.detach().mean() if at_start is None else at_start
            found = [
                torch.clamp(x.detach() + length * gradient.sign(), *limits)
                for x, gradient, limits in zip(found, gradients, bounds, strict=True)
            ]
        with torch.no_grad():
            at_end = loss(found).mean()
    assert at_start is not None
    return Adversarial(found, {"attack_start": at_start, "attack_end": at_end})


def _start(view: Tensor, eps: float, step: TrainingStep, number: int) -> Tensor:
    """Return uniform noise in [-eps, eps) of the view's shape."""
    rows = np.arange(len(view)) if step.rows is None else step.rows[: len(view)]
    draws = Draws(seed_of(step.seed, "attack", step.step, number), rows)
    noise = draws.uniform("start", math.prod(view.shape[1:])).view(view.shape)
    return (2 * noise - 1).mul(eps).to(view.device, view.dtype, non_blocking=True)
