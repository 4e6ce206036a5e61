"""The spread of a model's numbers over its runs: trainings that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robharness import metrics

if TYPE_CHECKING:
    from robharness.report.model import Numbers


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """Means and sample standard deviations over runs, as fractions; None where there is no such number.

    model: the label that the runs share. runs: how many have all their examples, of `asked`. A relative drop is each
    run's own, against its own clean accuracy; with one run there is no deviation.
    """

    model: str
    perturbation: str
    runs: int
    asked: int
    accuracy: float | None
    accuracy_deviation: float | None
    robust_accuracy: float | None
    robust_accuracy_deviation: float | None
    relative_drop: float | None
    relative_drop_deviation: float | None


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
    return metrics.mean_and_deviation(there)
