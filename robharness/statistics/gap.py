"""The gap between two models that a third one closes."""

from __future__ import annotations

import numpy.typing as npt

from robharness.statistics.accuracy import whole_percent
from robharness.statistics.fieller import ratio_interval
from robharness.statistics.intervals import Interval, ZeroBase


def gap_closed(method: float, self_supervised: float, supervised: float) -> float:
    """Return the closed fraction of a gap: 0 at the self-supervised model, 1 at the supervised model.

    method, self_supervised, supervised: unrounded attacked accuracies.
    The fraction is outside of [0, 1] for a method outside of the two.
    Raises ZeroBase when the two are equal. Source: the up-arrows of the paper's Table 4, see `gap_closed_printed`.
    """
    if supervised == self_supervised:
        raise ZeroBase("There is no gap to close between two equal numbers.")
    return (method - self_supervised) / (supervised - self_supervised)


def gap_closed_interval(
    method: npt.ArrayLike,
    self_supervised: npt.ArrayLike,
    supervised: npt.ArrayLike,
    *,
    paired: bool,
    level: float = 0.95,
) -> Interval:
    """Return an interval for `gap_closed` of means; (-inf, inf) if the gap may be 0 at this level.

    method, self_supervised, supervised: (n,) each if paired, else any lengths of two at least.
    paired: whether they are outcomes of the same n examples under three models. If not, they are attacked accuracies
        of independent runs.
    level: the confidence level.
    Raises EmptySample and has the source of `ratio_interval`.
    """
    samples = (method, self_supervised, supervised)
    return ratio_interval(samples, (1, -1, 0), (0, -1, 1), paired=paired, level=level)


def gap_closed_printed(method_drop: float, self_supervised_drop: float, supervised_drop: float) -> float:
    """`gap_closed` as the paper's Table 4 computes it: from relative drops rounded to whole percentages first.

    With a gap of 7 points of drop, one unit of rounding is 14 points of this. Raises ZeroBase as `gap_closed` does.
    """
    return gap_closed(*map(whole_percent, (method_drop, self_supervised_drop, supervised_drop)))
