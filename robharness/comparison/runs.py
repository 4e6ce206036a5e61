"""Means over the runs of a model, trainings that differ in their seed alone, and the differences of two means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from robharness import statistics
from robharness.comparison.records import MeasuredCell, RunsDifference, Side
from robharness.report.runs import spread


def runs_of(side: Side, label: str) -> list[str]:
    """Return the labels of the runs that share a label; the label itself for a model that is no group of runs."""
    return [each for each in side.labels if side.run_of.get(each) == label] or [label]


def runs_differences(before: Side, after: Side, label_before: str, label_after: str) -> list[RunsDifference]:
    """Compare the means over runs in each cell that both sides have.

    label_before, label_after: a label that runs share, or that of a single model.
    """
    firsts, seconds = runs_of(before, label_before), runs_of(after, label_after)
    names = dict.fromkeys(cell.perturbation for cell in before.cells if cell.model in firsts)
    found = []
    for name in names:
        first = [before.by_name[label, name] for label in firsts if (label, name) in before.by_name]
        second = [after.by_name[label, name] for label in seconds if (label, name) in after.by_name]
        if first and second:
            found.append(_difference(label_before, label_after, name, first, second))
    return found


def _difference(
    label_before: str, label_after: str, name: str, first: Sequence[MeasuredCell], second: Sequence[MeasuredCell]
) -> RunsDifference:
    common = np.intersect1d(_covered(first), _covered(second), assume_unique=True)
    one, other = _accuracies(first, common), _accuracies(second, common)
    (before, before_deviation), (after, after_deviation) = spread(one), spread(other)
    try:
        interval = statistics.mean_difference_interval(one, other)
    except statistics.EmptySample:
        interval = None
    return RunsDifference(
        model=label_after,
        other=label_before,
        perturbation=name,
        n=len(common),
        runs_before=len(one),
        runs_after=len(other),
        asked_before=len(first),
        asked_after=len(second),
        before=before,
        before_deviation=before_deviation,
        after=after,
        after_deviation=after_deviation,
        difference=None if before is None or after is None else after - before,
        interval=interval,
    )


def _covered(cells: Sequence[MeasuredCell]) -> np.ndarray:
    """Return the positions with an outcome of at least one of these runs, ascending."""
    return reduce(np.union1d, [cell.positions for cell in cells])


def _accuracies(cells: Sequence[MeasuredCell], positions: np.ndarray) -> list[float]:
    """Return the accuracy at these positions of each run that has outcomes at all of them; none without positions."""
    if not len(positions):
        return []
    complete = [cell for cell in cells if np.isin(positions, cell.positions, assume_unique=True).all()]
    return [statistics.accuracy(cell.at(positions)) for cell in complete]
