"""Accuracy of cells per class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robharness import statistics
from robharness.report.details import MOST_CLASSES, ClassAccuracy, ClassNumbers
from robharness.statistics.intervals import Interval
from robharness.store.results import CellResult


class _Classes(NamedTuple):
    """The classes of examples.

    labels: the classes that have examples, ascending, (classes,) int64.
    place: of each example's class among these, (n,).
    n: the number of examples per class, (classes,) int64.
    """

    labels: np.ndarray
    place: np.ndarray
    n: np.ndarray


class PerClass:
    """Accuracies per class of the cells of one data set, whose labels are read once for all complete cells."""

    def __init__(self) -> None:
        self._complete: _Classes | None = None

    def numbers(self, result: CellResult) -> ClassNumbers | None:
        """Return the accuracies of a cell per class; None without outcomes."""
        if not result.n:
            return None
        classes = self._classes(result)
        right = np.bincount(classes.place, result.correct, len(classes.n)).astype(np.int64)  # exact up to 2**53
        accuracies = right / classes.n
        lowest = np.lexsort((classes.labels, accuracies))[:MOST_CLASSES]
        intervals = statistics.class_intervals(right, classes.n, lowest)
        columns = (classes.labels[lowest], classes.n[lowest], accuracies[lowest], intervals.low, intervals.high)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return ClassNumbers(
            classes=len(classes.n),
            lowest=tuple(
                ClassAccuracy(label=label, n=n, accuracy=accuracy, interval=Interval(low, high))
                for label, n, accuracy, low, high in rows
            ),
            worst=float(accuracies[lowest[0]]),
            worst_interval=intervals.worst,
        )

    def _classes(self, result: CellResult) -> _Classes:
        if result.is_complete and self._complete is not None:
            return self._complete
        classes = _Classes(*np.unique(result.columns["label"], return_inverse=True, return_counts=True))
        if result.is_complete:
            self._complete = classes
        return classes
