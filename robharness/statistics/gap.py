"""The gap between two models that a third one closes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from robharness.statistics.accuracy import whole_percent
from robharness.statistics.intervals import EmptySample, Interval, ZeroBase, student_quantile


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
    Raises EmptySample for fewer than two, and if runs of one kind do not differ, since their variance is then unknown.
    Source: Fieller 1954, the ratio g for which method - self - g (supervised - self) is not surely other than 0, with
    Student's t; its degrees of freedom are Satterthwaite's (1946) at the estimate. Of outcomes the variances are those
    with one more example of every kind, as Agresti and Min (2005) have it: few may have no variance by chance.
    """
    samples = [np.asarray(values, dtype=np.float64) for values in (method, self_supervised, supervised)]
    if min(map(len, samples)) < 2 or (not paired and min(map(np.ptp, samples)) == 0):
        raise EmptySample("An interval for a gap needs two examples, or two runs of each kind that differ.")
    means = np.array([values.mean() for values in samples])
    if paired:
        kinds = np.array(list(itertools.product((0.0, 1.0), repeat=3))).T
        covariance = np.cov(np.hstack([samples, kinds])) / len(samples[0])
    else:
        covariance = np.diag([values.var(ddof=1) / len(values) for values in samples])
    gain, gap = np.array([1, -1, 0]), np.array([0, -1, 1])
    freedom = float(len(samples[0]) - 1)
    if not paired and means @ gap:
        parts = np.diag(covariance) * (gain - means @ gain / (means @ gap) * gap) ** 2
        terms = parts**2 / [len(values) - 1 for values in samples]
        freedom = float(parts.sum() ** 2 / terms.sum()) if terms.sum() else math.inf
    t = student_quantile(level, freedom)
    a = (means @ gap) ** 2 - t**2 * (gap @ covariance @ gap)
    b = (means @ gain) * (means @ gap) - t**2 * (gain @ covariance @ gap)
    c = (means @ gain) ** 2 - t**2 * (gain @ covariance @ gain)
    if a <= 0:
        return Interval(-math.inf, math.inf)
    root = math.sqrt(max(0.0, b**2 - a * c))
    return Interval(float((b - root) / a), float((b + root) / a))


def gap_closed_printed(method_drop: float, self_supervised_drop: float, supervised_drop: float) -> float:
    """`gap_closed` as the paper's Table 4 computes it: from relative drops rounded to whole percentages first.

    With a gap of 7 points of drop, one unit of rounding is 14 points of this. Raises ZeroBase as `gap_closed` does.
    """
    return gap_closed(*map(whole_percent, (method_drop, self_supervised_drop, supervised_drop)))
