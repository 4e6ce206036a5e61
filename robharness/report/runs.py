"""The spread of a model's numbers over its runs: trainings that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence

from robharness import statistics
from robharness.report.records import Numbers, RunNumbers


def over_runs(model: str, perturbation: str, asked: int, numbers: Sequence[Numbers]) -> RunNumbers:
    """The spread of these numbers, one per run that is complete."""
    found: dict[str, float | None] = {}
    for name in ("accuracy", "robust_accuracy", "relative_drop"):
        mean, deviation = spread([getattr(each, name) for each in numbers])
        found |= {name: mean, f"{name}_deviation": deviation}
    return RunNumbers(model=model, perturbation=perturbation, runs=len(numbers), asked=asked, **found)


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The mean and the sample standard deviation; None where a value is none, or where there are too few of them."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None, None
    return statistics.mean_and_deviation(there)
