"""Bounds of the checks, each with its reason, and the test of a share of examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robharness import statistics
from robharness.audit.records import AuditCheck

ALPHA = 1e-3
"""Level of each test: an audit makes about twenty, so that two honest models of a hundred have a false alarm at most.

Where a check compares several pairs, it divides the level by their number (Bonferroni).
"""
FEW = 0.01
"""The share of examples that may have a defect: a point of accuracy, as far as benchmarks of attacks distinguish."""
LITTLE = 0.02
"""The fall of accuracy that more effort may bring: about the difference between strong attacks on honest models."""
NEAR = 0.05
"""The distance from the strongest attack to the worst case: beyond it, no attack of the suite stands for the others."""
ROUNDING = 1e-4
"""The largest difference of logits between passes, as a share of their range; see `BOUNDARY_TOLERANCE`."""
LARGEST_RANGE = 2**24 * 1e-3
"""The range of logits, 16,777, at which float32 rounds them by a thousandth, as much as an attack's last steps gain."""
SLOPE = 4
"""The factor by which a loss may rise more or less than its gradient predicts over a quarter of a grey level."""
MOST_STEPS_UP = 0.9
"""The share of examples for which a step along the gradient must raise the loss more than a random step.

Along the gradient, a linear loss of d inputs rises 1.4 sqrt(d) times as much as by the random step's standard
deviation, so nearly all examples do; half of them do if the gradient says nothing.
"""
USED = 0.9
"""The share of its budget that an attack should use where the model withstands it."""


class Share(NamedTuple):
    """A number of examples out of all, with bounds of the share at the level ALPHA on each side."""

    found: int
    n: int

    @property
    def value(self) -> float:
        return self.found / self.n

    @property
    def low(self) -> float:
        return self.low_at(ALPHA)

    @property
    def high(self) -> float:
        return 1 - Share(self.n - self.found, self.n).low_at(ALPHA)

    def low_at(self, level: float) -> float:
        """Return the low end of the exact one-sided interval at a level."""
        return float(statistics.exact_lower(np.array([self.found]), np.array([self.n]), np.array([level]))[0])

    def __str__(self) -> str:
        return f"{self.found} of {self.n} examples"


def share_of(is_so: np.ndarray) -> Share:
    """Count the examples, (n,) bool, n > 0."""
    return Share(int(np.count_nonzero(is_so)), len(is_so))


def rare(code: str, is_so: np.ndarray, what: str, advice: str) -> AuditCheck:
    """Return a check that fails if significantly more than FEW of the examples have a defect.

    is_so: whether an example has it, (n,) bool.
    what: the defect, as the end of a sentence on examples.
    """
    if not len(is_so):
        return not_measured(code, "no example was probed")
    share = share_of(is_so)
    failed = share.low > FEW
    return verdict(code, not failed, f"{share} {what}", advice, share=share.value, n=share.n)


def verdict(code: str, passed: bool, figures: str, advice: str, **numbers: float) -> AuditCheck:
    """Return a check with the numbers behind it; the advice is kept if it failed."""
    return AuditCheck(
        code=code,
        verdict="passed" if passed else "failed",
        figures=figures,
        numbers=numbers,
        advice="" if passed else advice,
    )


def not_measured(code: str, reason: str, advice: str = "") -> AuditCheck:
    return AuditCheck(code=code, verdict="not measured", figures=reason, advice=advice)
