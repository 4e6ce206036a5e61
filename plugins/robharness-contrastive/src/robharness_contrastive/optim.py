"""Optimisers and the schedule of the learning rate."""

from __future__ import annotations

import math

from torch import nn, optim

from robharness_contrastive.params import Recipe
from robharness_probe.fitting import set_rate

__all__ = ["TRUST", "optimizer", "rate", "set_rate"]

TRUST = 0.001
"""Trust coefficient of LARS, as in RoCL and ACL."""


def optimizer(recipe: Recipe, module: nn.Module) -> optim.Optimizer:
    """Return the recipe's optimiser for all parameters of the module that require gradients."""
    parameters = [value for value in module.parameters() if value.requires_grad]
    if recipe.optimizer == "adamw":
        return optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer in ("lars", "lars-all"):
        from lightly.utils.lars import LARS

        scaled = [value for value in parameters if value.ndim > 1 or recipe.optimizer == "lars-all"]
        others = [value for value in parameters if value.ndim <= 1 and recipe.optimizer == "lars"]
        groups = [
            {"params": scaled, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},  # LARS does not scale steps of groups without decay
        ]
        lars: optim.Optimizer = LARS(groups, lr=recipe.lr, momentum=recipe.momentum, trust_coefficient=TRUST)
        return lars
    return optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step: linear in the warm-up, then half a cosine down to lr * decay ** 3.

    The schedule is that of SupContrast's `adjust_learning_rate` and `warmup_learning_rate`, but changes with each step.
    The end of the warm-up lies on the cosine.

    step: from 0, over all epochs.
    """
    total, warm = recipe.epochs * steps_per_epoch, recipe.warmup * steps_per_epoch
    least = recipe.lr * recipe.decay**3

    def cosine(at: float) -> float:
        return least + (recipe.lr - least) * (1 + math.cos(math.pi * at / total)) / 2

    if step >= warm:
        return cosine(step)
    start = recipe.lr / 100
    return start + (cosine(warm) - start) * step / warm
