"""Transfer rates: how many examples that fool one model fool another, and whether the way back is as easy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from robharness.statistics.accuracy import accuracy_interval
from robharness.statistics.intervals import Bools, EmptySample, Floats, Interval, check_outcomes


class TransferRate(NamedTuple):
    """The share of the examples that fool a source that fool a target, too.

    n: the number of examples that fool the source.
    rate: a fraction of these.
    interval: of the rate.
    """

    n: int
    rate: float
    interval: Interval


def transfer_rate(fools_source: Bools, fools_target: Bools, level: float = 0.95) -> TransferRate:
    """Return the share of the examples that fool the source that fool the target, too.

    fools_source: whether the source gets the example right clean and wrong under the attack, and the target gets it
        right clean, (n,) bool.
    fools_target: whether the target gets the example wrong under the attack, (n,) bool.
    level: confidence level of the interval, in (0, 1).
    Given the examples that fool the source, the number of those that fool the target is binomial, so that the interval
    is that of an accuracy. Raises EmptySample if no example fools the source.
    """
    check_outcomes(fools_source, fools_target, dimensions=1)
    n, both = int(np.count_nonzero(fools_source)), int(np.count_nonzero(fools_source & fools_target))
    if n == 0:
        raise EmptySample("A transfer rate needs at least one example that fools the source.")
    return TransferRate(n, both / n, accuracy_interval(both, n, level))


def transfer_asymmetry(
    there: tuple[Bools, Bools], back: tuple[Bools, Bools], level: float = 0.95
) -> tuple[float, Interval]:
    """Return the transfer rate one way minus that of the way back, and its interval, paired by example.

    there, back: `fools_source` and `fools_target` of `transfer_rate`, all on the same examples in the same order.
    level: confidence level of the interval, in (0, 1).
    The two rates have different denominators and share examples. Their intervals are joined with the correlation of
    the rates, estimated by linearisation; the joined interval has a width at rates of 0 and 1 as well.
    Raises EmptySample if no example fools one of the sources. Sources: Zou and Donner 2008, Statistics in Medicine
    27:1693; with correlation, Zou 2007, Psychological Methods 12:399.
    """
    check_outcomes(*there, *back, dimensions=1)
    one, other = transfer_rate(*there, level), transfer_rate(*back, level)
    parts = [_residuals(fooled, wrong, found.rate) for (fooled, wrong), found in ((there, one), (back, other))]
    scale = math.sqrt(float((parts[0] ** 2).sum() * (parts[1] ** 2).sum()))
    correlation = float((parts[0] * parts[1]).sum()) / scale if scale > 0 else 0.0
    difference = one.rate - other.rate
    below, above = one.rate - one.interval.low, one.interval.high - one.rate
    below_other, above_other = other.rate - other.interval.low, other.interval.high - other.rate
    low = difference - _joined(below, above_other, correlation)
    high = difference + _joined(above, below_other, correlation)
    return difference, Interval(max(-1.0, low), min(1.0, high))


def _residuals(fools_source: Bools, fools_target: Bools, rate: float) -> Floats:
    """Return what each example adds to a rate, up to a factor, by linearisation of the ratio, (n,)."""
    residuals: Floats = fools_source * (fools_target - rate)
    return residuals


def _joined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))
