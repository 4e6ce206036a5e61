"""Confidence intervals and quantiles, and the errors of numbers that are not defined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.int64]


class UndefinedNumber(ValueError):
    """A number that is not defined for its inputs; base of the four errors below."""


class EmptySample(UndefinedNumber):
    """There is no example (or no attack) to count."""


class ZeroClean(UndefinedNumber):
    """No clean example is right, so that the accuracy cannot drop."""


class UndefinedSlope(UndefinedNumber):
    """No line can be drawn through these drops."""


class ZeroBase(UndefinedNumber):
    """The accuracy or gap in a denominator is 0."""


class Interval(NamedTuple):
    """Both ends of a confidence interval, in the unit of the number that it belongs to."""

    low: float
    high: float


def quantile(values: Numbers, share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed; inf counts as a value.

    values: (n,). Raises EmptySample without values.
    """
    return float(quantiles(np.sort(values), [share])[0])


def quantiles(ordered: npt.ArrayLike, shares: npt.ArrayLike) -> Floats:
    """Return the `quantile` of each share, (k,).

    ordered: the values, ascending, (n,). Raises EmptySample without values.
    """
    values = np.asarray(ordered, np.float64)
    if len(values) == 0:
        raise EmptySample("there is no quantile of nothing")
    ranks = np.ceil(np.asarray(shares, np.float64) * len(values) - 1e-9).astype(np.intp)
    found: Floats = values[np.maximum(ranks, 1) - 1]
    return found


def median_interval(values: Numbers, level: float = 0.95) -> Interval:
    """Return an interval for the median between two of the values, without assumptions on their distribution.

    The number of values below the median is binomial with n trials of probability 1/2. inf counts as a value, and is
    the upper bound of a sample that is too small. Source: e.g. Conover, Practical Nonparametric Statistics, 3.2.
    Raises EmptySample without values.
    """
    n = len(values)
    if n == 0:
        raise EmptySample("there is no median of nothing")
    chances = np.cumsum([_coin(n, k) for k in range(n)])
    outside = int(np.searchsorted(chances, (1 - level) / 2, side="right"))  # P(heads < outside) is at most that
    ordered = np.sort(values)
    if outside == 0:
        return Interval(-math.inf, math.inf)
    return Interval(float(ordered[outside - 1]), float(ordered[n - outside]))


def _coin(n: int, k: int) -> float:
    """Return the probability of k successes in n trials of probability 1/2."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the sample standard deviation (n - 1), None for a single value.

    Raises EmptySample without values.
    """
    if not len(values):
        raise EmptySample("no values")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def percentile_interval(resampled: Floats, level: float = 0.95) -> Interval:
    """Return the interval between percentiles of a number over resamples, (resamples,), of which some may be nan.

    The interval is (-inf, inf) if half of them or more are nan.
    """
    defined = resampled[np.isfinite(resampled)]
    if 2 * defined.size <= resampled.size:
        return Interval(-math.inf, math.inf)
    tail = tail_probability(level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def check_outcomes(*arrays: Bools, dimensions: int) -> None:
    for array in arrays:
        if array.dtype != np.bool_ or array.ndim != dimensions or array.shape != arrays[0].shape:
            raise ValueError(
                f"Outcomes are bool arrays of one shape with {dimensions} dimension(s), not {array.dtype}{array.shape}."
            )
        if array.size == 0:
            raise EmptySample("There is no outcome to count.")


def tail_probability(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"A confidence level lies between 0 and 1, unlike {level}.")
    return (1 - level) / 2


def normal_quantile(level: float) -> float:
    return NormalDist().inv_cdf(1 - tail_probability(level))


@lru_cache(maxsize=64)
def student_quantile(level: float, freedom: float) -> float:
    """Student's t that both tails beyond have 1 - level of: with t = sqrt(freedom) tan(a), a's density is a power of
    cos(a)."""
    if freedom > 1e6:
        return normal_quantile(level)
    angles = np.linspace(-math.pi / 2, math.pi / 2, 2**16 + 1)
    mass = np.cumsum(np.cos((angles[1:] + angles[:-1]) / 2) ** (freedom - 1))
    angle = np.interp(1 - tail_probability(level), mass / mass[-1], angles[1:])
    return math.sqrt(freedom) * math.tan(angle)


def wilson_bounds(successes: Numbers, n: Numbers, z: Numbers) -> tuple[Floats, Floats]:
    """Low and high ends of the corrected Wilson interval, broadcast; n > 0."""
    return _wilson_low(successes, n, z), 1 - _wilson_low(n - successes, n, z)


def _wilson_low(successes: Numbers, n: Numbers, z: Numbers) -> Floats:
    # The formula holds from one success on, where the root's argument is at least z * z + 1.
    x = np.maximum(successes, 1)
    root = np.sqrt(z * z - 2 - 1 / n + 4 * x / n * (n - x + 1))
    return np.where(successes > 0, (2 * x + z * z - 1 - z * root) / (2 * (n + z * z)), 0.0)


def ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotient, nan if the denominator is not above 0."""
    ratio: Floats = above / np.where(below > 0, below, np.nan)
    return ratio
