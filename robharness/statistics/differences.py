"""Differences of two accuracies, or of two relative drops, on the same examples: intervals and exact tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robharness.statistics.accuracy import accuracy, relative_drop, relative_drops
from robharness.statistics.exact import sign_flip_tail
from robharness.statistics.intervals import (
    Bools,
    Floats,
    Interval,
    check_outcomes,
    normal_quantile,
    percentile_interval,
    student_quantile,
)
from robharness.statistics.paired import drop_difference_interval, resampled_accuracies


class PairedDifference(NamedTuple):
    """Two accuracies on the same examples.

    n: the number of examples.
    units: the number of independent units: of clusters, or of examples if each is a cluster by itself.
    lost, gained: the number of examples that are right only before, and only after.
    difference: the accuracy after minus that before, a fraction.
    interval: of the difference.
    p_fall: of the exact one-sided test against "the accuracy did not fall".
    p: of the exact two-sided test against "the accuracy did not change".
    design_effect: the variance of the difference over that of as many independent examples, at least 1.
    """

    n: int
    units: int
    lost: int
    gained: int
    difference: float
    interval: Interval
    p_fall: float
    p: float
    design_effect: float = 1.0

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
    With clusters, the test gives random signs to the net losses of clusters, and the interval has as many examples as
    independent ones would give this precision.
    Raises EmptySample when n is 0.
    Sources: interval, Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37:479; test, McNemar
    1947, Psychometrika 12:153, as the exact binomial test; design effect, Kish 1965, Survey Sampling, 8.2.
    """
    check_outcomes(before, after, dimensions=1)
    n, losses = len(before), before.astype(np.int64) - after
    lost, gained = int(np.count_nonzero(losses > 0)), int(np.count_nonzero(losses < 0))
    units, effect, quantile = n, 1.0, normal_quantile(level)
    if clusters is not None:
        _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
        if len(sizes) < n:
            totals = np.rint(np.bincount(numbers, weights=losses)).astype(np.int64)
            units, effect = len(sizes), _design_effect(losses, totals, sizes)
            quantile = student_quantile(level, units - 1) if units > 1 else np.inf
            losses = totals
    p_fall, p_rise = sign_flip_tail(losses), sign_flip_tail(-losses)
    return PairedDifference(
        n=n,
        units=units,
        lost=lost,
        gained=gained,
        difference=(gained - lost) / n,
        interval=_difference_interval(lost / effect, gained / effect, n / effect, quantile),
        p_fall=p_fall,
        p=min(1.0, 2 * min(p_fall, p_rise)),
        design_effect=effect,
    )


def _difference_interval(lost: float, gained: float, n: float, quantile: float) -> Interval:
    """Return the adjusted Wald interval of Bonett and Price for the difference of paired proportions."""
    first, second = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = second - first
    reach = quantile * float(np.sqrt((first + second - centre**2) / (n + 2)))
    return Interval(max(-1.0, centre - reach), min(1.0, centre + reach))


def _design_effect(losses: np.ndarray, totals: np.ndarray, sizes: np.ndarray) -> float:
    """Return the variance of the difference with clusters over that of independent examples, at least 1.

    losses: of examples, (n,) int; totals, sizes: of clusters, (k,) int.
    Two clusters of mean size, of which one loses all and the other gains all, are added to both variances. Few changes
    then count as changes of whole clusters, as they may be.
    """
    mean, size = losses.mean(), sizes.mean()
    clustered = np.sum((totals - mean * sizes) ** 2) + 2 * size**2
    independent = np.sum((losses - mean) ** 2) + 2 * size
    return max(1.0, float(clustered / independent))


class DropDifference(NamedTuple):
    """The relative drops before and after, the drop after minus that before, and its interval; fractions."""

    before: float
    after: float
    difference: float
    interval: Interval


def drop_difference(
    clean: tuple[Bools, Bools], attacked: tuple[Bools, Bools], clusters: np.ndarray | None = None, level: float = 0.95
) -> DropDifference:
    """Compare two relative drops on the same examples, which are in random order.

    clean, attacked: outcomes before and after, (n,) bool each.
    clusters: the number of each example's cluster, (n,) int; None if examples are independent.
    The interval of independent examples is `drop_difference_interval`. That of clusters is the percentile bootstrap over
    clusters, with a fixed seed.
    Raises EmptySample when n is 0, ZeroClean when a side has no clean example right.
    """
    before, after = (
        relative_drop(accuracy(right), accuracy(kept)) for right, kept in zip(clean, attacked, strict=True)
    )
    if clusters is None:
        interval = drop_difference_interval(clean[::-1], attacked[::-1], level)
    else:
        rows = np.stack([clean[0], attacked[0], clean[1], attacked[1]])
        drops = relative_drops(resampled_accuracies(rows, clusters=clusters).reshape(-1, 2, 2))[..., 0]
        interval = percentile_interval(drops[:, 1] - drops[:, 0], level)
    return DropDifference(before, after, after - before, interval)


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
