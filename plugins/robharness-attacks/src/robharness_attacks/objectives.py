"""What attacks climb and what they compare: functions of logits (N, classes) that give one value per row, (N,).

They come in pairs. Away from the true class: with labels, (N,). Toward a target: with labels and targets, (N, 2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robharness_attacks import params

CLEAR = 1e-3
"""Share of the logit range; smaller leads can vanish in a pass of another shape or precision."""

_TINY = 1e-12
"""What the authors of DLR add to its denominator."""


def excess(logits: Tensor, labels: Tensor) -> Tensor:
    """m: logsumexp of the other logits minus the true logit, (N,), in the logits' type; at least 2 classes.

    Cross-entropy is log(1 + exp(m)) and its gradient (1 - p_true) times that of m: the same direction, which does not
    underflow when the model is sure of itself.
    """
    return _others(logits, labels).logsumexp(1) - _of(logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Plain cross-entropy, (N,); its gradient underflows when the model is sure of itself."""
    return functional.cross_entropy(logits, labels, reduction="none")


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the true one, (N,): positive where the model is fooled; inf where logits are NaN.

    m can be positive while the true class still wins, over several wrong ones that share the rest; this cannot.
    """
    return (_others(logits, labels).amax(1) - _of(logits, labels)).nan_to_num(torch.inf, torch.inf, -torch.inf)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein, 2020), (N,): `lead` over the gap from the first to the third logit.

    The scale of the logits does not matter. Of two classes: `lead`.
    """
    if logits.shape[1] < 3:
        return lead(logits, labels)
    top = logits.topk(3).values
    return lead(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def toward_excess(logits: Tensor, about: Tensor) -> Tensor:
    """The target's logit minus logsumexp of the others, (N,)."""
    return -excess(logits, about[:, 1])


def toward_cross_entropy(logits: Tensor, about: Tensor) -> Tensor:
    """Minus the plain cross-entropy of the target, (N,)."""
    return -cross_entropy(logits, about[:, 1])


def toward_margin(logits: Tensor, about: Tensor) -> Tensor:
    """The target's logit minus the true one, (N,)."""
    return _of(logits, about[:, 1]) - _of(logits, about[:, 0])


def toward_dlr(logits: Tensor, about: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce and Hein, 2020), (N,): `toward_margin` over a gap of the logits.

    The gap is from the first to the middle of the third and the fourth. Below four classes: `toward_margin`.
    """
    if logits.shape[1] < 4:
        return toward_margin(logits, about)
    top = logits.topk(4).values
    return toward_margin(logits, about) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def objective_of(name: params.Objective, targeted: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of this name; the same object at every call, so that batches can share its gradients."""
    return _OBJECTIVES[name][targeted]


def target_lead(logits: Tensor, targets: Tensor) -> Tensor:
    """The target's logit minus the best of the others, (N,): positive where it wins; -inf where logits are NaN."""
    return -lead(logits, targets)


def clearly_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the model is fooled by so much that another pass will say so, too; (N,) bool."""
    return lead(logits, labels) > _clear(logits)


def clearly_reached(logits: Tensor, targets: Tensor) -> Tensor:
    """Where the target wins by so much that another pass will say so, too; (N,) bool."""
    return target_lead(logits, targets) > _clear(logits)


def likely_targets(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The wrong classes, most likely first, (N, min(count, classes - 1)); of equals the lower number."""
    order: Tensor = _others(logits.nan_to_num(), labels).sort(dim=1, descending=True, stable=True).indices
    return order[:, : min(count, logits.shape[1] - 1)]


def _clear(logits: Tensor) -> Tensor:
    return CLEAR * (logits.amax(1) - logits.amin(1))


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


_OBJECTIVES = {
    "excess": (excess, toward_excess),
    "cross-entropy": (cross_entropy, toward_cross_entropy),
    "margin": (lead, toward_margin),
    "dlr": (dlr, toward_dlr),
}
