"""Objectives of attacks, and values for comparisons: functions of logits (N, classes) with one value per row, (N,).

An untargeted function takes labels, (N,). A targeted one takes labels and targets, (N, 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from robharness import Component

Function = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, C), condition (N, ...)) -> (N,)."""

CLEAR = 1e-3
"""Share of the range of the logits; a smaller lead may vanish in a pass of another shape or precision."""

_TINY = 1e-12
"""Number that the authors of DLR add to its denominator."""


def excess(logits: Tensor, labels: Tensor) -> Tensor:
    """Return m, the logsumexp of the other logits minus the true logit, (N,), in the logits' type.

    Cross-entropy is log(1 + exp(m)), and its gradient is (1 - p_true) times that of m. Both have the same direction,
    but the gradient of m does not underflow for a confident model. It needs at least 2 classes.
    """
    return _others(logits, labels).logsumexp(1) - _of(logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, (N,), whose gradient underflows for a confident model."""
    return functional.cross_entropy(logits, labels, reduction="none")


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the best wrong logit minus the true one, (N,): positive if the model is fooled; inf if a logit is NaN.

    Unlike the lead, m can be positive although the true class has the largest logit.
    """
    return (_others(logits, labels).amax(1) - _of(logits, labels)).nan_to_num(torch.inf, torch.inf, -torch.inf)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio (Croce and Hein, 2020), (N,), which does not depend on the logits' scale.

    It is `lead` divided by the difference of the first and the third logit. With two classes, it is `lead`.
    """
    if logits.shape[1] < 3:
        return lead(logits, labels)
    top = logits.topk(3).values
    return lead(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def toward_excess(logits: Tensor, about: Tensor) -> Tensor:
    """Return the target's logit minus the logsumexp of the others, (N,)."""
    return -excess(logits, about[:, 1])


def toward_cross_entropy(logits: Tensor, about: Tensor) -> Tensor:
    """Return minus the cross-entropy of the target, (N,)."""
    return -cross_entropy(logits, about[:, 1])


def toward_margin(logits: Tensor, about: Tensor) -> Tensor:
    """Return the target's logit minus the true one, (N,)."""
    return _of(logits, about[:, 1]) - _of(logits, about[:, 0])


def toward_dlr(logits: Tensor, about: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein, 2020), (N,).

    It is `toward_margin` divided by the first logit minus the mean of the third and the fourth. With fewer than four
    classes, it is `toward_margin`.
    """
    if logits.shape[1] < 4:
        return toward_margin(logits, about)
    top = logits.topk(4).values
    return toward_margin(logits, about) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


@dataclass(frozen=True)
class Foreign:
    """Objective of another plugin. Equal components give equal objectives, so that batches can cache its gradients.

    function: (logits, labels) -> values, (N,).
    toward: (logits, labels and targets) -> values, for targeted attacks; None for minus the function of the target.
    """

    component: Component
    is_targeted: bool
    function: Function = field(compare=False)
    toward: Function | None = field(compare=False)

    def __call__(self, logits: Tensor, condition: Tensor) -> Tensor:
        """Return the values, (N,), in the logits' type.

        Raises TypeError for other values, and for values without a gradient, and ValueError if a value is NaN although
        the logits of its row are finite: the attack would stay where it is, and the model would seem robust.
        """
        if not self.is_targeted:
            values = self.function(logits, condition)
        elif self.toward is not None:
            values = self.toward(logits, condition)
        else:
            values = -self.function(logits, condition[:, 1])
        if not isinstance(values, Tensor) or values.shape != (len(logits),):
            shown = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(
                f"the objective {self.component.full_name} must return ({len(logits)},) values, not {shown}"
            )
        values = values.to(logits.dtype)
        if logits.requires_grad and not values.requires_grad:
            raise TypeError(f"the values of the objective {self.component.full_name} have no gradient")
        if bool((values.isnan() & logits.isfinite().all(1)).any()):
            raise ValueError(f"the objective {self.component.full_name} is NaN for finite logits")
        return values


def objective_of(objective: Component, targeted: bool) -> Function:
    """Return the function of an objective, an equal one at each call. Raises TypeError if its plugin gives no function.

    targeted: whether its condition is labels and targets, (N, 2), and not labels, (N,).
    """
    built = objective.build()
    pair = built if isinstance(built, tuple) else (built, None)
    if len(pair) != 2 or not callable(pair[0]) or not (pair[1] is None or callable(pair[1])):
        raise TypeError(f"the objective {objective.full_name} must be a function or a pair of functions, not {built!r}")
    own: Function | None = pair[targeted] if pair is OWN.get(objective.name) else None
    return own or Foreign(objective, targeted, *pair)


def target_lead(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the target's logit minus the best of the others, (N,): positive if it wins; -inf if a logit is NaN."""
    return -lead(logits, targets)


def clearly_fooled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the model is fooled by a lead that is large enough for passes of any shape, (N,) bool."""
    return lead(logits, labels) > _clear_lead(logits)


def clearly_reached(logits: Tensor, targets: Tensor) -> Tensor:
    """Return whether the target wins by a lead that is large enough for passes of any shape, (N,) bool."""
    return target_lead(logits, targets) > _clear_lead(logits)


def likely_targets(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the wrong classes, most likely first, (N, min(count, classes - 1)); of equal ones the lower first."""
    order: Tensor = _others(logits.nan_to_num(), labels).sort(dim=1, descending=True, stable=True).indices
    return order[:, : min(count, logits.shape[1] - 1)]


def _clear_lead(logits: Tensor) -> Tensor:
    return CLEAR * (logits.amax(1) - logits.amin(1))


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


OWN: dict[str, tuple[Function, Function]] = {
    "excess": (excess, toward_excess),
    "cross-entropy": (cross_entropy, toward_cross_entropy),
    "margin": (lead, toward_margin),
    "dlr": (dlr, toward_dlr),
}
"""The plugin's objectives: without and with targets."""
