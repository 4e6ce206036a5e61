"""The gain of a model over the model that it builds on."""

from __future__ import annotations

import numpy.typing as npt

from robharness.statistics.fieller import ratio_interval
from robharness.statistics.intervals import Interval, ZeroBase


def gain(ours: float, base: float) -> float:
    """Return the relative improvement of an attacked accuracy over that of a base: 0.05 for 42 % where it has 40 %.

    ours, base: unrounded attacked accuracies, as fractions or both in percent.
    Raises ZeroBase if the base's is 0. Source: the up-arrows of the paper's Table 5.
    """
    if base == 0:
        raise ZeroBase("There is no gain over an accuracy of 0.")
    return (ours - base) / base


def gain_interval(ours: npt.ArrayLike, base: npt.ArrayLike, *, paired: bool, level: float = 0.95) -> Interval:
    """Return an interval for `gain` of means; (-inf, inf) if the base's accuracy may be 0 at this level.

    ours, base: (n,) each if paired, else any lengths of two at least.
    paired: whether they are outcomes of the same n examples under two models. If not, they are attacked accuracies of
        independent runs.
    level: the confidence level.
    Raises EmptySample and has the source of `ratio_interval`.
    """
    return ratio_interval((ours, base), (1, -1), (0, 1), paired=paired, level=level)
