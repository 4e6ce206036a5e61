"""Records of the audit: the attacks that it adds to a suite, and what each of them is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from robharness.specs.budget import Budget
from robharness.specs.checks import Record
from robharness.specs.inputs import check_choices
from robharness.specs.types import Norm

AuditRole = Literal["probe", "noise", "single-step", "stronger", "black-box", "transfer", "unbounded"]
"""The purpose of an attack in the audit.

probe: returns the inputs unchanged, with notes on the model; see `PROBE_NOTES`.
noise: moves inputs at random, to the edge of the ball.
single-step: takes one step along the gradient.
stronger: takes more steps and restarts than the suite's attacks, or another objective.
black-box: uses no gradients.
transfer: is crafted on another model of the suite.
unbounded: may change every pixel to every value.
"""
PROBE_NOTES: Mapping[str, type] = {
    "zero_gradient": bool,
    "nan_gradient": bool,
    "underflow": bool,
    "repeat_difference": float,
    "neighbour_difference": float,
    "blind_step": float,
    "gradient_rise": float,
    "random_rise": float,
    "predicted_rise": float,
}
"""The notes per example that an attack of the role "probe" returns.

zero_gradient: whether the gradient of a margin at the clean input is 0 in all entries.
nan_gradient: whether it has an entry that is not finite.
underflow: whether the gradient of the cross-entropy is 0 although that of the margin is not.
repeat_difference: largest difference of the logits in a second pass, over the range of the example's logits.
neighbour_difference: the same in passes with other neighbours, and alone.
blind_step: largest tried size of a random step of all pixels that leaves every logit as it is; 0 if there is none.
gradient_rise: how much a step along the sign of the gradient raises the margin.
random_rise: how much a random step, uniform up to the same size per pixel, raises it.
predicted_rise: how much the gradient predicts for its own step.
"""


@dataclass(frozen=True, kw_only=True)
class AuditTarget:
    """The threat model that an audit is of.

    norm: of the suite's attacks; None if it has none with a budget.
    eps: the largest budget of the suite's attacks in this norm; None likewise.
    steps: the largest number of gradients per example of these attacks.
    sources: labels of models for transfer attacks; empty if the suite has a single model.
    """

    norm: Norm | None = None
    eps: Budget | None = None
    steps: int = 0
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditSpec(Record):
    """Attacks that the audit adds to a suite.

    role: what the attacks are for: probe, noise, single-step, stronger, black-box, transfer or unbounded.
    items: `AuditTarget` -> items as a suite has them under `attacks:`, such as
        {"attack": "mine/noise", "norm": "linf", "eps": "8/255"}. It is called once for each norm of the suite.
    """

    role: AuditRole
    items: Callable[[AuditTarget], Sequence[Mapping[str, Any]]] | str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("AuditSpec", self, role=get_args(AuditRole))
