"""What attacks climb and what they compare: functions of logits (N, classes) and labels (N,), one value per row."""

from __future__ import annotations

import torch
from torch import Tensor

CLEAR = 1e-3
"""Share of the logit range; smaller leads can vanish in a pass of another shape or precision."""


def excess(logits: Tensor, labels: Tensor) -> Tensor:
    """m: logsumexp of the other logits minus the true logit, (N,), in the logits' type; at least 2 classes.

    Cross-entropy is log(1 + exp(m)) and its gradient (1 - p_true) times that of m: the same direction, which does not
    underflow when the model is sure of itself.
    """
    return _others(logits, labels).logsumexp(1) - _true(logits, labels)


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the true one, (N,): positive where the model is fooled; inf where logits are NaN.

    m can be positive while the true class still wins, over several wrong ones that share the rest; this cannot.
    """
    return (_others(logits, labels).amax(1) - _true(logits, labels)).nan_to_num(torch.inf, torch.inf, -torch.inf)


def clearly_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the model is fooled by so much that another pass will say so, too; (N,) bool."""
    return lead(logits, labels) > CLEAR * (logits.amax(1) - logits.amin(1))


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


def _true(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]
