"""Linearity of a model's head, and the distance of features to its decision boundary.

A linear head computes logits z = W f + b from the features f. On the boundary between classes a and b their logits are
equal, so the distance to the boundary is (z_a - z_b) / |w_a - w_b|. Autograd gives the rows of W from one pass with
features that we set, so no layer needs to be known by name or type. Unlike a fit to the logits of examples, this needs
no more examples than features, and it sees units that no example activates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PROBES = 8
"""Number of inputs whose features are changed to test whether the head is linear."""
TOLERANCE = 1e-4
"""Largest deviation of a linear head's logits from W f + b, relative to the logit range."""


def pairwise_logit_distances(net: nn.Module, x: Tensor, features: str) -> np.ndarray | None:
    """Return |w_a - w_b| for all pairs of classes of a linear head, (classes, classes) float64.

    A distance is the change of the difference of two logits per unit of the features.
    net: in eval mode; it is not changed.
    x: at least 3 inputs, (N, *shape).
    features: the submodule whose output is the features; the head is all that follows.
    Returns None if the head is not linear.
    """
    replaced: list[Tensor] = []

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        replaced.append(_spread(output.detach()).requires_grad_(True))
        return replaced[-1]

    with torch.enable_grad(), net.get_submodule(features).register_forward_hook(replace):
        logits: Tensor = net(x)
    if len(replaced) != 1 or not logits.requires_grad:
        return None
    rows = []
    for column in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[0, column], replaced[0], retain_graph=True)
        rows.append(slope[0].flatten().cpu().numpy())
    weights = np.stack(rows).astype(np.float64)
    points = replaced[0].detach().flatten(1).cpu().numpy().astype(np.float64)
    found = logits.detach().cpu().numpy().astype(np.float64)
    expected = found[:1] + (points - points[:1]) @ weights.T
    if not np.abs(found - expected).max() <= TOLERANCE * (found.max() - found.min()):
        return None
    products = weights @ weights.T
    squares = np.diag(products)
    distances: np.ndarray = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    return distances


def _spread(features: Tensor) -> Tensor:
    """Return features, (N, ...), that no input gives: rolled, with other lengths and signs; the first row is unchanged.

    A head that is linear for these features is linear; a nonlinear head deviates for another sign or length.
    """
    flat = features.flatten(1)
    moved = [row.roll(7 * place) * (1 + 0.5 * place) * (-1) ** place for place, row in enumerate(flat)]
    return torch.stack(moved).view_as(features)


def boundary(logits: np.ndarray, labels: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the distance of features to the nearest boundary between the true and another class, (N,) float32.

    logits: (N, classes) float32.
    labels: (N,).
    distances: (classes, classes), from `pairwise_logit_distances`.
    The distance is in units of the features. It is negative for a wrong prediction, then of the farthest boundary that
    was crossed, and NaN if a logit is NaN.
    """
    ahead = logits[np.arange(len(labels)), labels][:, None].astype(np.float64) - logits
    each = distances[labels]  # 0 for the true class itself, which has no boundary
    with np.errstate(divide="ignore", invalid="ignore"):
        to_others = np.where(each > 0, ahead / each, np.where(ahead < 0, -np.inf, np.inf))
    nearest: np.ndarray = np.where(np.isnan(logits).any(1), np.nan, to_others.min(1)).astype(np.float32)
    return nearest
