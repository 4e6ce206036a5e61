"""What lies behind the features: whether it is linear, as a probe is, and how far features are from where it decides.

A linear head is logits = W f + b of the features f. Where the class with logit a gives way to that with logit b, these
two are equal, so that the distance to there is (z_a - z_b) / |w_a - w_b|. The rows of W are read off the network by
autograd, from one pass into which we put the features: no layer needs to be known by name or type, and, unlike a fit
to the logits of examples, that takes no more examples than features, and sees units that no example wakes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PROBES = 8
"""Inputs whose features are turned about to see whether the head is linear."""
TOLERANCE = 1e-4
"""Of the logit range: how far the logits of a linear head may be from W f + b."""


def pairwise_logit_distances(net: nn.Module, x: Tensor, features: str) -> np.ndarray | None:
    """How fast each two logits part, per unit of the features: |w_a - w_b|, (classes, classes) float64.

    None where the head, all behind the submodule `features`, is not linear. net: in eval mode; left as it is. x: a few
    inputs (N, *shape), of at least 3.
    """
    put_in: list[Tensor] = []

    def turn(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        put_in.append(_turned(output.detach()).requires_grad_(True))
        return put_in[-1]

    with torch.enable_grad(), net.get_submodule(features).register_forward_hook(turn):
        logits: Tensor = net(x)
    if len(put_in) != 1 or not logits.requires_grad:
        return None
    rows = []
    for column in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[0, column], put_in[0], retain_graph=True)
        rows.append(slope[0].flatten().cpu().numpy())
    weights, points = np.stack(rows).astype(np.float64), put_in[0].detach().flatten(1).cpu().numpy().astype(np.float64)
    found = logits.detach().cpu().numpy().astype(np.float64)
    expected = found[:1] + (points - points[:1]) @ weights.T
    if not np.abs(found - expected).max() <= TOLERANCE * (found.max() - found.min()):
        return None
    products = weights @ weights.T
    squares = np.diag(products)
    parted: np.ndarray = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    return parted


def _turned(features: Tensor) -> Tensor:
    """Features (N, ...) as no input makes them: shifted, of other lengths and signs, the first as it is.

    What is linear for these is linear; a head with a bend would be found out by a sign or a length.
    """
    flat = features.flatten(1)
    moved = [row.roll(7 * place) * (1 + 0.5 * place) * (-1) ** place for place, row in enumerate(flat)]
    return torch.stack(moved).view_as(features)


def boundary(logits: np.ndarray, labels: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """How far features are from the nearest place where another class takes over from the true one, (N,) float32.

    logits: (N, classes) float32. labels: (N,). apart: from `pairwise_logit_distances`. In units of the features; below 0 where another class
    has taken over already, then of the farthest boundary that was crossed; NaN where logits are not numbers.
    """
    ahead = logits[np.arange(len(labels)), labels][:, None].astype(np.float64) - logits
    each = apart[labels]  # 0 from itself, which never takes over
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.where(each > 0, ahead / each, np.where(ahead < 0, -np.inf, np.inf))
    nearest: np.ndarray = np.where(np.isnan(logits).any(1), np.nan, distances.min(1)).astype(np.float32)
    return nearest
