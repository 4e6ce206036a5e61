"""Optimisers and the rate at every step."""

from __future__ import annotations

import math

from torch import nn, optim

from robharness_contrastive.params import Recipe

TRUST = 0.001
"""LARS's coefficient, as RoCL and ACL have it."""


def optimizer(recipe: Recipe, module: nn.Module) -> optim.Optimizer:
    """The optimiser of all that learns in the module, by the recipe's name for it."""
    everything = [value for value in module.parameters() if value.requires_grad]
    if recipe.optimizer == "adamw":
        return optim.AdamW(everything, lr=recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "lars":
        from lightly.utils.lars import LARS

        shapes, vectors = [v for v in everything if v.ndim > 1], [v for v in everything if v.ndim <= 1]
        groups = [
            {"params": shapes, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},  # biases and norms: LARS leaves those without decay unscaled
        ]
        scaled: optim.Optimizer = LARS(groups, lr=recipe.lr, momentum=recipe.momentum, trust_coefficient=TRUST)
        return scaled
    return optim.SGD(everything, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def rate(recipe: Recipe, step: int, steps_an_epoch: int) -> float:
    """The learning rate of a step, from 0: linear through the warm-up, then half a cosine down to lr * decay ** 3.

    As SupContrast's `adjust_learning_rate` and `warmup_learning_rate`, but by steps: the end of the warm-up lies on the
    cosine.
    """
    total, warm = recipe.epochs * steps_an_epoch, recipe.warmup * steps_an_epoch
    least = recipe.lr * recipe.decay**3

    def cosine(at: float) -> float:
        return least + (recipe.lr - least) * (1 + math.cos(math.pi * at / total)) / 2

    if step >= warm:
        return cosine(step)
    start = recipe.lr / 100
    return start + (cosine(warm) - start) * step / warm


def set_rate(optimizer: optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
