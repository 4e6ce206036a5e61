"""Statistics of paired outcomes: two results on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import (
    Bools,
    EmptySample,
    Floats,
    Interval,
    ZeroClean,
    check_outcomes,
    normal_quantile,
    wilson_bounds,
)


def relative_drop_interval(clean_correct: Bools, attacked_correct: Bools, level: float = 0.95) -> Interval:
    """Return an interval for the relative drop, from the outcomes of the same examples clean and attacked.

    clean_correct, attacked_correct: (n,) bool. The high end is at most 1; the low end is negative where the attack may
    help. Raises EmptySample when n is 0, ZeroClean when no clean example is right. Method: `relative_drop_bounds`.
    """
    check_outcomes(clean_correct, attacked_correct, dimensions=1)
    low, high = relative_drop_bounds(
        np.count_nonzero(clean_correct & attacked_correct),
        np.count_nonzero(clean_correct & ~attacked_correct),
        np.count_nonzero(~clean_correct & attacked_correct),
        level,
    )
    return Interval(float(low), float(high))


def relative_drop_bounds(
    kept: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Low and high ends of the relative drop's interval, for many tables of counts at once.

    kept, lost, gained: numbers of examples that are right both clean and attacked, only clean, only attacked; any
        shapes that broadcast.
    Returns two arrays of that shape. Two Wilson intervals, narrowed for the pairing, bound the ratio of the
    accuracies, and a drop is 1 - ratio. With the continuity correction, because the plain form covers only 90.5 % at
    n = 20, a clean accuracy of 0.9, nothing kept and 5 % of the wrong examples gained.
    Raises ZeroClean if kept + lost is 0.
    Source: Bonett and Price 2006, Statistics in Medicine 25:3039; corrected as in Fagerland, Lydersen and Laake 2017,
    Statistical Analysis of Contingency Tables, chapter 8.
    """
    return _drop_bounds(kept, lost, gained, level, wilson_bounds)


def _drop_bounds(
    kept: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, level: float, bounds: Callable[..., Any]
) -> tuple[Floats, Floats]:
    """Return the bounds of relative drops from the `bounds` of two accuracies, which take successes, n and z."""
    kept, lost, gained = (np.asarray(count, dtype=np.float64) for count in (kept, lost, gained))
    clean, attacked, n = kept + lost, kept + gained, kept + lost + gained
    if np.any(clean == 0):
        raise ZeroClean("The interval of a relative drop needs at least one clean example that is right.")
    # How much narrower than two independent intervals: standard error of log(ratio) over the sum of the two errors.
    error = np.sqrt((lost + gained + 2) / ((clean + 1) * (attacked + 1)))
    z = normal_quantile(level) * error / sum(np.sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (clean, attacked))
    clean_low, clean_high = bounds(clean, n, z)
    attacked_low, attacked_high = bounds(attacked, n, z)
    return 1 - attacked_high / clean_low, 1 - attacked_low / clean_high


def drop_difference_interval(
    clean: tuple[Bools, Bools], attacked: tuple[Bools, Bools], level: float = 0.95
) -> Interval:
    """Return an interval for the difference of the relative drops of two models, the first one's minus the other's.

    clean, attacked: outcomes of both models on the same examples, (n,) bool each.
    The intervals of the two drops, of Bonett and Price (2006) as published, are combined at their correlation. They
    have no zero width, unlike those of a bootstrap of few examples, which covers as little as 30 % at n = 20 if models
    lose all or nothing. Two examples are added to each variance, so that a correlation from few examples is below 1.
    Raises EmptySample when n is 0, ZeroClean when a model has no clean example right.
    Source: Zou and Donner 2008, Statistics in Medicine 27:1693, with the correlation as in Newcombe 1998,
    Statistics in Medicine 17:2635, method 10.
    """
    check_outcomes(*clean, *attacked, dimensions=1)
    drops, lows, highs, ratios, variances = [], [], [], [], []
    for before, after in zip(clean, attacked, strict=True):
        right, stays = _count(before), _count(after)
        kept = _count(before & after)
        low, high = _drop_bounds(kept, right - kept, stays - kept, level, _plain_wilson_bounds)
        ratio = stays / right
        drops.append(1 - ratio)
        lows.append(float(low))
        highs.append(float(high))
        ratios.append(ratio)
        variances.append(stays - 2 * ratio * kept + ratio**2 * right)  # of after - ratio * before, whose sum is 0
    covariance = (
        _count(attacked[0] & attacked[1])
        - ratios[0] * _count(clean[0] & attacked[1])
        - ratios[1] * _count(attacked[0] & clean[1])
        + ratios[0] * ratios[1] * _count(clean[0] & clean[1])
    )
    correlation = covariance / float(np.sqrt((variances[0] + 2) * (variances[1] + 2)))
    difference = drops[0] - drops[1]

    def reach(own: float, other: float) -> float:
        return float(np.sqrt(max(0.0, own**2 - 2 * correlation * own * other + other**2)))

    return Interval(
        difference - reach(drops[0] - lows[0], highs[1] - drops[1]),
        difference + reach(highs[0] - drops[0], drops[1] - lows[1]),
    )


def _count(right: Bools) -> int:
    return int(np.count_nonzero(right))


def _plain_wilson_bounds(successes: Floats, n: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Low and high ends of the Wilson interval without a correction for continuity, broadcast; n > 0."""
    centre, reach = 2 * successes + z**2, z * np.sqrt(z**2 + 4 * successes * (1 - successes / n))
    return (centre - reach) / (2 * (n + z**2)), (centre + reach) / (2 * (n + z**2))


BLOCK_VALUES = 2**21
"""Doubles of memory for one block of resamples: about 50 MB, whatever the number of examples."""
MOST_DRAWN = 5000
"""The largest number of units that a bootstrap draws: examples or clusters, or groups of them if there are more."""


def resampled_accuracies(
    correct: Bools,
    *,
    clusters: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    most_drawn: int = MOST_DRAWN,
    block_values: int = BLOCK_VALUES,
) -> Floats:
    """Return the accuracy of each row in each bootstrap resample of the units, the same resample for all rows.

    correct: (rows, n) bool, the examples in random order.
    Other arguments and the returned array are those of `resampled_means`.
    Raises EmptySample without any outcome.
    """
    check_outcomes(correct, dimensions=2)
    return resampled_means(
        correct, clusters=clusters, resamples=resamples, seed=seed, most_drawn=most_drawn, block_values=block_values
    )


def resampled_means(
    values: Bools | Floats,
    *,
    clusters: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    most_drawn: int = MOST_DRAWN,
    block_values: int = BLOCK_VALUES,
) -> Floats:
    """Return the mean of each row in each bootstrap resample of the units, the same resample for all rows.

    values: (rows, n) finite, the examples in random order.
    clusters: the number of each example's cluster, (n,) int; a cluster is a unit. Without, each example is a unit.
    most_drawn: from more units, as many groups of neighbours are drawn in place of single units. In random order, for
        clusters that of their first examples, the groups are independent and alike, as units are. The standard
        deviation of a mean is then estimated from `most_drawn` values instead of all, with a relative error of
        1 / sqrt(2 * most_drawn), 1 %.
    block_values: counts in memory at once; no result depends on it.
    Returns (resamples, rows). What is drawn depends on the units and the seed alone, so rows of several calls belong
    together.
    Raises EmptySample without any example.
    """
    n = values.shape[1]
    if n == 0:
        raise EmptySample("There is no example to resample.")
    firsts = np.arange(n)  # of each unit, its first example
    if clusters is not None:
        order, firsts = _by_cluster(clusters)
        values = values[:, order]
    units = len(firsts)
    groups = min(units, most_drawn)
    starts = firsts[np.arange(groups) * units // groups]
    sizes = np.diff(starts, append=n)
    sums = values if groups == n else np.add.reduceat(values, starts, axis=1, dtype=np.float64)
    columns = np.vstack([sums, sizes]).T.astype(np.float32)  # counts are exact up to 2**24 examples
    rng = np.random.Generator(np.random.Philox(seed))
    totals = np.vstack([weights @ columns for weights in _resampled_weights(groups, resamples, rng, block_values)])
    means: Floats = totals[:, :-1].astype(np.float64) / totals[:, -1:]
    return means


def _by_cluster(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of examples, (n,), that puts clusters one after another, and the places of their first ones.

    Clusters keep the order of their first examples.
    """
    _, firsts, numbers, sizes = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    ranks = np.argsort(firsts)
    return np.argsort(firsts[numbers], kind="stable"), np.concatenate([[0], np.cumsum(sizes[ranks])[:-1]])


def _resampled_weights(
    n: int, resamples: int, rng: np.random.Generator, block_values: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the number of draws of each of n units per resample, in blocks (rows, n) of bounded memory."""
    rows = max(1, block_values // n)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = rng.integers(0, n, (block, n)) + n * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n).astype(np.float32)
