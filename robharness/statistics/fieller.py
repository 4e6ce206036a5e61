"""Fieller's interval for the ratio of two differences, or sums, of means."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import EmptySample, Interval, student_quantile


def ratio_interval(
    samples: Sequence[npt.ArrayLike],
    numerator: Sequence[int],
    denominator: Sequence[int],
    *,
    paired: bool,
    level: float = 0.95,
) -> Interval:
    """Return an interval for a ratio of combinations of means; (-inf, inf) if the denominator may be 0 at this level.

    samples: one per mean: (n,) each if paired, else any lengths of two at least.
    numerator, denominator: the factor of each mean, (1, -1) for the difference of two.
    paired: whether the samples are outcomes of the same n examples under several models. If not, they are accuracies of
        independent runs.
    level: the confidence level.
    Raises EmptySample for fewer than two, and if runs of one kind do not differ, since their variance is then unknown.
    Source: Fieller 1954, the ratio g for which numerator - g denominator is not surely other than 0, with Student's t;
    its degrees of freedom are Satterthwaite's (1946) at the estimate. Of outcomes the variances are those with one more
    example of every kind, as Agresti and Min (2005) have it: few may have no variance by chance.
    """
    values = [np.asarray(each, dtype=np.float64) for each in samples]
    if min(map(len, values)) < 2 or (not paired and min(map(np.ptp, values)) == 0):
        raise EmptySample("An interval for a ratio needs two examples, or two runs of each kind that differ.")
    means = np.array([each.mean() for each in values])
    if paired:
        kinds = np.array(list(itertools.product((0.0, 1.0), repeat=len(values)))).T
        covariance = np.cov(np.hstack([values, kinds])) / len(values[0])
    else:
        covariance = np.diag([each.var(ddof=1) / len(each) for each in values])
    above, below = np.array(numerator), np.array(denominator)
    freedom = float(len(values[0]) - 1)
    if not paired and means @ below:
        parts = np.diag(covariance) * (above - means @ above / (means @ below) * below) ** 2
        terms = parts**2 / [len(each) - 1 for each in values]
        freedom = float(parts.sum() ** 2 / terms.sum()) if terms.sum() else math.inf
    t = student_quantile(level, freedom)
    a = (means @ below) ** 2 - t**2 * (below @ covariance @ below)
    b = (means @ above) * (means @ below) - t**2 * (above @ covariance @ below)
    c = (means @ above) ** 2 - t**2 * (above @ covariance @ above)
    if a <= 0:
        return Interval(-math.inf, math.inf)
    root = math.sqrt(max(0.0, b**2 - a * c))
    return Interval(float((b - root) / a), float((b + root) / a))
