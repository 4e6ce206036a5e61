"""Records of an audit: the checks by code, and the verdicts on a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["passed", "failed", "not measured"]

CHECKS: Mapping[str, tuple[str, str]] = {
    # the model
    "probe": ("the model passes the probe at the start", "cell-failed"),
    "deterministic": ("predictions do not change in a second pass", ""),
    "independent": ("predictions do not depend on other examples of a pass", ""),
    "unchanged": ("BatchNorm stays in eval mode, and no parameter or buffer moves", "cell-failed"),
    "pass-shapes": ("passes of other shapes give the same logits", "inexact-passes"),
    "finite": ("logits are numbers", "logits-not-finite"),
    "outputs": ("the model has as many outputs as the data have classes", "more-outputs-than-classes"),
    "logit-scale": ("logits are small enough for float32", ""),
    "saturation": ("the cross-entropy has a gradient", ""),
    "gradient-zero": ("gradients are not zero", ""),
    "gradient-finite": ("gradients are numbers", ""),
    "gradient-direction": ("a step along the gradient raises the loss more than a random one", ""),
    "gradient-slope": ("the gradient predicts the loss after a small step", ""),
    "resolution": ("small changes of the input change the logits", ""),
    # the attacks
    "step-reach": ("steps times step size reach eps", "steps-too-short"),
    "budget-used": ("attacks use their budget", ""),
    "half-level": ("budgets are at least half a grey level", "budget-below-half-level"),
    "eps-scale": ("budgets are on the scale of inputs in [0, 1]", ""),
    "monotone": ("accuracy does not rise with the budget", ""),
    "iterated": ("iterated attacks are at least as strong as a single step", "weaker-iterated-attack"),
    "stronger": ("more steps, restarts and other objectives change little", ""),
    "union": ("the strongest attack is near the worst case per example", ""),
    "noise": ("random noise of the same size does less than the attacks", ""),
    "black-box": ("attacks without gradients are not stronger", ""),
    "transfer": ("attacks from other models are not stronger", ""),
    "unbounded": ("an attack without a bound leaves no example right", ""),
}
"""Code of a check -> the claim that it tests, and the code of the finding that reports a failure.

The code is empty for checks whose failures are reported as `audit-failed`.
"""


@dataclass(frozen=True, kw_only=True)
class AuditCheck:
    """One check of a model.

    code: a key of `CHECKS`.
    figures: the numbers behind the verdict, or the reason why nothing was measured, as a sentence without its stop.
    numbers: the same numbers by name; shares are fractions.
    advice: what to do; empty if the check passed.
    """

    code: str
    verdict: Verdict
    figures: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    advice: str = ""

    @property
    def title(self) -> str:
        """The claim that the check tests."""
        return CHECKS[self.code][0]


@dataclass(frozen=True, kw_only=True)
class ModelAudit:
    """The checks of one model, in the order of `CHECKS`.

    n: the number of examples per cell.
    """

    model: str
    n: int
    checks: tuple[AuditCheck, ...]

    def __getitem__(self, code: str) -> AuditCheck:
        return next(check for check in self.checks if check.code == code)

    @property
    def failed(self) -> tuple[AuditCheck, ...]:
        return tuple(check for check in self.checks if check.verdict == "failed")
