"""Differences of two accuracies on the same examples: intervals, exact tests, and the smallest fall that shows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from robharness.statistics.exact import binomial_tail
from robharness.statistics.intervals import Bools, Floats, Interval, check_outcomes, normal_quantile


class PairedDifference(NamedTuple):
    """Two accuracies on the same examples.

    n: the number of examples.
    units: the number of independent units: of clusters, or of examples if each is a cluster by itself.
    lost, gained: the number of examples that are right only before, and only after.
    difference: the accuracy after minus that before, a fraction.
    interval: of the difference.
    p_fall: of the exact one-sided test against "the accuracy did not fall".
    p: of the exact two-sided test against "the accuracy did not change".
    """

    n: int
    units: int
    lost: int
    gained: int
    difference: float
    interval: Interval
    p_fall: float
    p: float

    @property
    def discordance(self) -> float:
        """The share of examples that changed."""
        return (self.lost + self.gained) / self.n


def paired_difference(
    before: Bools, after: Bools, clusters: np.ndarray | None = None, level: float = 0.95
) -> PairedDifference:
    """Compare two accuracies on the same examples.

    before, after: whether each prediction is right, (n,) bool.
    clusters: the number of each example's cluster, (n,) int; None if examples are independent.
    Raises EmptySample when n is 0.
    Sources: interval, Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37:479; test, McNemar
    1947, Psychometrika 12:153, as the exact binomial test.
    """
    check_outcomes(before, after, dimensions=1)
    n = len(before)
    lost, gained = int(np.count_nonzero(before & ~after)), int(np.count_nonzero(~before & after))
    first, second = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = second - first
    reach = normal_quantile(level) * float(np.sqrt((first + second - centre**2) / (n + 2)))
    changed = lost + gained
    p_fall, p_rise = binomial_tail(lost, changed), binomial_tail(gained, changed)
    return PairedDifference(
        n=n,
        units=n,
        lost=lost,
        gained=gained,
        difference=(gained - lost) / n,
        interval=Interval(max(-1.0, centre - reach), min(1.0, centre + reach)),
        p_fall=p_fall,
        p=min(1.0, 2 * min(p_fall, p_rise)),
    )


def holm(p_values: Sequence[float]) -> Floats:
    """Return the p values adjusted for testing them together, in their order, (k,).

    The chance of any false rejection is at most the level, whatever their dependence.
    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def smallest_fall(n: int, discordance: float, alpha: float, *, tolerance: float = 0.0, power: float = 0.9) -> float:
    """Return the smallest fall, a fraction, that a gate finds with this probability; inf if it finds none at this n.

    discordance: the share of examples that change; a larger fall changes at least as many as it loses.
    alpha: the level of the one-sided exact test, divided by the number of tests that are made together.
    tolerance: the fall, a fraction, up to which the gate passes.
    """
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(power)

    def is_found(fall: float) -> bool:
        changed = max(discordance, fall)
        needed = max(tolerance, z_alpha * float(np.sqrt(changed / n)))
        return fall - z_power * float(np.sqrt(max(0.0, changed - fall**2) / n)) >= needed

    low, high = 0.0, 1.0
    if not is_found(high):
        return float("inf")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high
