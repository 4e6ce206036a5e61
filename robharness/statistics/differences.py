"""Differences of two accuracies, or of two relative drops, on the same examples: intervals and exact tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robharness.statistics.accuracy import accuracy, relative_drop, relative_drops
from robharness.statistics.exact import binomial_tail, sign_flip_tail
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


def paired_difference(
    before: Bools, after: Bools, clusters: np.ndarray | None = None, level: float = 0.95
) -> PairedDifference:
    """Compare two accuracies on the same examples.

    before, after: whether each prediction is right, (n,) bool.
    clusters: the number of each example's cluster, (n,) int; None if examples are independent.
    With clusters, the test gives random signs to the net losses of clusters. The interval counts n / design effect
    examples.
    Raises EmptySample when n is 0.
    Sources: interval, see `difference_bounds`; test, McNemar 1947, Psychometrika 12:153, as the exact binomial test;
    design effect, Kish 1965, Survey Sampling, 8.2.
    """
    check_outcomes(before, after, dimensions=1)
    n, right_in_both = len(before), int(np.count_nonzero(before & after))
    lost, gained = (int(np.count_nonzero(right)) - right_in_both for right in (before, after))
    units, effect, quantile = n, 1.0, normal_quantile(level)
    if (groups := _groups(clusters)) is None:
        p_fall, p_rise = (binomial_tail(changed, lost + gained) for changed in (lost, gained))
    else:
        numbers, sizes = groups
        losses = before.astype(np.int64) - after
        units, effect = len(sizes), _design_effect(losses, numbers, sizes)
        quantile = student_quantile(level, units - 1) if units > 1 else np.inf
        losses = np.rint(np.bincount(numbers, weights=losses)).astype(np.int64)
        p_fall, p_rise = sign_flip_tail(losses), sign_flip_tail(-losses)
    low, high = difference_bounds(lost / effect, gained / effect, n / effect, quantile)
    return PairedDifference(
        n=n,
        units=units,
        lost=lost,
        gained=gained,
        difference=(gained - lost) / n,
        interval=Interval(float(low), float(high)),
        p_fall=p_fall,
        p=min(1.0, 2 * min(p_fall, p_rise)),
        design_effect=effect,
    )


def difference_bounds(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, quantile: float
) -> tuple[Floats, Floats]:
    """Return the low and high ends of the difference's interval, for many tables of counts at once.

    lost, gained, n: numbers of examples that are right only before, only after, and of all; any shapes that broadcast.
    quantile: of the normal or Student's distribution.
    One example is added to each kind of change. The plain interval has no width without changes.
    Source: Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37:479.
    """
    n = np.asarray(n, np.float64)
    first, second = (np.asarray(lost) + 1) / (n + 2), (np.asarray(gained) + 1) / (n + 2)
    centre = second - first
    reach = quantile * np.sqrt((first + second - centre**2) / (n + 2))
    return np.maximum(-1, centre - reach), np.minimum(1, centre + reach)


def _groups(clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the numbers of the examples' clusters from 0, (n,), and the clusters' sizes; None if all sizes are 1."""
    if clusters is None:
        return None
    _, numbers, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return None if len(sizes) == len(clusters) else (numbers, sizes)


def _design_effect(values: np.ndarray, numbers: np.ndarray, sizes: np.ndarray) -> float:
    """Return the variance of the mean with clusters over that of independent examples, at least 1.

    values: of examples, (n,), in [-1, 1] or nearly.
    numbers, sizes: of clusters, as in `_groups`.
    Two clusters of mean size, all of 1 and all of -1, are added to both variances. Few changes then count as changes of
    whole clusters, as they may be.
    """
    mean, size = values.mean(), sizes.mean()
    totals = np.bincount(numbers, weights=values)
    clustered = np.sum((totals - mean * sizes) ** 2) + 2 * size**2
    independent = np.sum((values - mean) ** 2) + 2 * size
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
    The interval of independent examples is `drop_difference_interval`. With clusters it is the percentile bootstrap
    over clusters, with a fixed seed, and at least as wide as the other one with the design effect. The bootstrap alone
    covers 84 % if 2 % of 100 clusters of 3 examples change together.
    Raises EmptySample when n is 0, ZeroClean when a side has no clean example right.
    """
    before, after = (
        relative_drop(accuracy(right), accuracy(kept)) for right, kept in zip(clean, attacked, strict=True)
    )
    interval = drop_difference_interval(clean[::-1], attacked[::-1], level)
    if (groups := _groups(clusters)) is not None:
        interval = _with_clusters(interval, after - before, clean, attacked, *groups, level)
    return DropDifference(before, after, after - before, interval)


def _with_clusters(
    interval: Interval,
    difference: float,
    clean: tuple[Bools, Bools],
    attacked: tuple[Bools, Bools],
    numbers: np.ndarray,
    sizes: np.ndarray,
    level: float,
) -> Interval:
    """Return the interval of `drop_difference` with clusters, from that of independent examples."""
    if len(sizes) == 1:
        return Interval(-np.inf, np.inf)
    ratios = [kept.sum() / right.sum() for right, kept in zip(clean, attacked, strict=True)]
    first, second = (
        (kept - ratio * right) / right.mean() for right, kept, ratio in zip(clean, attacked, ratios, strict=True)
    )
    wider = float(np.sqrt(_design_effect(first - second, numbers, sizes)))
    wider *= student_quantile(level, len(sizes) - 1) / normal_quantile(level)
    rows = np.stack([clean[0], attacked[0], clean[1], attacked[1]])
    drops = relative_drops(resampled_accuracies(rows, clusters=numbers).reshape(-1, 2, 2))[..., 0]
    low, high = percentile_interval(drops[:, 1] - drops[:, 0], level)
    return Interval(
        min(low, difference - wider * (difference - interval.low)),
        max(high, difference + wider * (interval.high - difference)),
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
