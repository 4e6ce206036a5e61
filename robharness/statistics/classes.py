"""Accuracy per class, with intervals that hold for all classes together and for the lowest accuracy of a class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robharness.statistics.exact import exact_lower
from robharness.statistics.intervals import EmptySample, Floats, Interval, tail_probability


class ClassIntervals(NamedTuple):
    """Confidence intervals of the accuracies of classes.

    worst: interval of the lowest accuracy of all classes.
    low, high: ends of intervals of the selected classes, which hold for all classes together, (selected,).
    """

    worst: Interval
    low: Floats
    high: Floats


def class_intervals(right: np.ndarray, n: np.ndarray, selected: np.ndarray, level: float = 0.95) -> ClassIntervals:
    """Return intervals of the lowest accuracy of a class and of the accuracies of some classes.

    right, n: numbers of right examples and of examples per class, (classes,) int64, n > 0.
    selected: indices of classes, (selected,).
    level: of each of the two statements: the interval of the lowest accuracy, and all intervals of classes together.

    Every end is one of Clopper and Pearson (1934), which covers at least at its level for any n. Classes are
    independent given their numbers of examples, so the levels of several classes multiply (Sidak 1967).
    The lowest accuracy is below the low end of no class only if its own class is below its low end: the smallest low
    end needs no correction for the number of classes (intersection-union test, Berger 1982). The smallest high end
    does. The observed lowest accuracy itself is too low by selection; the interval takes this into account.
    Raises EmptySample without classes.
    """
    classes, tail = len(n), tail_probability(level)
    if classes == 0:
        raise EmptySample("There is no class to count.")
    weakest = _weakest(right, n)
    some, each = len(weakest), len(selected)
    tail_of_all = -np.expm1(np.log1p(-tail) / classes)
    tail_of_each = -np.expm1(np.log(level) / classes) / 2
    at = np.concatenate([weakest, weakest, selected, selected])
    is_high = np.repeat([False, True, False, True], [some, some, each, each])
    tails = np.repeat([tail, tail_of_all, tail_of_each, tail_of_each], [some, some, each, each])
    ends = exact_lower(np.where(is_high, n[at] - right[at], right[at]), n[at], tails)
    ends = np.where(is_high, 1 - ends, ends)
    worst = Interval(float(ends[:some].min()), float(ends[some : 2 * some].min()))
    return ClassIntervals(worst, ends[2 * some : 2 * some + each], ends[2 * some + each :])


def _weakest(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the index of the class with the fewest right examples for each distinct n; its ends are the lowest."""
    order = np.lexsort((right, n))
    is_first = np.diff(n[order], prepend=-1) > 0
    return order[is_first]
