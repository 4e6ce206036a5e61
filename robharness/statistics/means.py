"""Means and differences of means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import EmptySample, Interval, student_quantile


def mean_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Return Student's interval for the mean of a sample, (n,).

    Raises EmptySample for fewer than two values.
    """
    sample = np.asarray(values, np.float64)
    if len(sample) < 2:
        raise EmptySample("The interval of a mean needs two values.")
    mean = float(sample.mean())
    reach = student_quantile(level, len(sample) - 1) * float(sample.std(ddof=1)) / float(np.sqrt(len(sample)))
    return Interval(mean - reach, mean + reach)


def mean_difference_interval(before: npt.ArrayLike, after: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Return an interval for the mean after minus the mean before, of two independent samples.

    before, after: a number per run, (n,) and (m,).
    Raises EmptySample for fewer than two runs on a side, and if the runs of neither side differ, since their variance
    is then unknown.
    Source: Welch 1947, Biometrika 34:28, with Satterthwaite's (1946) degrees of freedom.
    """
    samples = [np.asarray(values, np.float64) for values in (before, after)]
    if min(map(len, samples)) < 2 or not any(map(np.ptp, samples)):
        raise EmptySample("The difference of two means needs two runs on each side, and runs that differ.")
    parts = np.array([values.var(ddof=1) / len(values) for values in samples])
    freedom = float(parts.sum() ** 2 / sum(parts**2 / [len(values) - 1 for values in samples]))
    difference = float(samples[1].mean() - samples[0].mean())
    reach = student_quantile(level, freedom) * float(np.sqrt(parts.sum()))
    return Interval(difference - reach, difference + reach)
