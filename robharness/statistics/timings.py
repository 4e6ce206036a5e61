"""Ratios of two samples of timings, of their medians or of their minima, with their spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from robharness.statistics.intervals import EmptySample, Interval, Numbers, median_interval, tail_probability


class RatioWithSpread(NamedTuple):
    """A ratio and its spread: an interval that contains the ratio."""

    ratio: float
    spread: Interval


def median_ratio(values: Numbers, reference: Numbers, level: float = 0.95) -> RatioWithSpread:
    """Return the ratio of two medians.

    Its spread reaches from the lower end of one median's interval over the upper end of the other's to the reverse.
    Each interval misses its median with at most half of 1 - level, so that the spread covers the ratio with at least
    this level. Both lie between two of the values; for fewer than 7 values they are the whole range, which covers less.
    values, reference: seconds, positive, (n,) and (m,).
    Raises EmptySample without values.
    """
    return _ratio(_median(values, (1 + level) / 2), _median(reference, (1 + level) / 2))


def minimum_ratio(values: Numbers, reference: Numbers, level: float = 0.95) -> RatioWithSpread:
    """Return the ratio of two minima.

    Its spread is made as that of `median_ratio`. The interval of a sample begins at its minimum. It ends at the value
    that the minimum of a resample exceeds with at most half of 1 - level: the fourth smallest of many values.
    values, reference: seconds, positive, (n,) and (m,).
    Raises EmptySample without values.
    """
    tail = tail_probability(level)
    return _ratio(_minimum(values, tail), _minimum(reference, tail))


def _median(values: Numbers, level: float) -> tuple[float, Interval]:
    low, high = median_interval(values, level)
    return float(np.median(values)), Interval(max(low, float(np.min(values))), min(high, float(np.max(values))))


def _minimum(values: Numbers, tail: float) -> tuple[float, Interval]:
    ordered = np.sort(values)
    if not len(ordered):
        raise EmptySample("there is no minimum of nothing")
    rank = math.ceil(len(ordered) * (1 - tail ** (1 / len(ordered))) - 1e-9)  # (1 - rank / n)^n is at most the tail
    return float(ordered[0]), Interval(float(ordered[0]), float(ordered[rank - 1]))


def _ratio(values: tuple[float, Interval], reference: tuple[float, Interval]) -> RatioWithSpread:
    (above, above_spread), (below, below_spread) = values, reference
    return RatioWithSpread(above / below, Interval(above_spread.low / below_spread.high,
                                                   above_spread.high / below_spread.low))  # fmt: skip
