"""Means and standard deviations over the runs of a model: trainings that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence

from robharness import statistics
from robharness.report.records import Numbers, RunNumbers


def over_runs(model: str, perturbation: str, expected: int, numbers: Sequence[Numbers]) -> RunNumbers:
    """Return the means and sample standard deviations over runs.

    model: the label that the runs share.
    expected: number of runs in the suite.
    numbers: one per complete run.
    """
    found: dict[str, float | None] = {}
    for name in ("accuracy", "robust_accuracy", "relative_drop"):
        mean, deviation = spread([getattr(each, name) for each in numbers])
        found |= {name: mean, f"{name}_deviation": deviation}
    return RunNumbers(model=model, perturbation=perturbation, runs=len(numbers), asked=expected, **found)


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return the mean and the sample standard deviation.

    Both are None if any value is None or there are no values; the deviation is None for a single value.
    """
    available = [value for value in values if value is not None]
    if not available or len(available) < len(values):
        return None, None
    return statistics.mean_and_deviation(available)
