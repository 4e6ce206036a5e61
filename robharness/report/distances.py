"""Numbers of attacks without a budget: the sizes of the smallest perturbations that they find."""

from __future__ import annotations

import math

import numpy as np

from robharness import statistics
from robharness.report.details import Distances
from robharness.statistics.intervals import Interval
from robharness.store.results import Results

CURVE_STEPS = 101
"""Shares of the examples at which the accuracy over the budget is listed."""


def distances(results: Results) -> dict[str, Distances]:
    """Return the distances of every cell with outcomes of an attack without a budget, by the cell's key.

    The areas of an attack reach up to the same budget for all models: the largest third quartile of a model, rounded
    up to two significant digits. Models of which fewer than three quarters of the examples were made wrong have none;
    if that holds for all of them, it is the largest distance that was found.
    """
    by_attack: dict[str, dict[str, np.ndarray]] = {}
    for result in results.cells:
        if result.n and result.is_unbounded:
            by_attack.setdefault(result.cell.short_name, {})[result.cell.key] = np.sort(result.distances)
    found: dict[str, Distances] = {}
    for cells in by_attack.values():
        until = area_until(list(cells.values()))
        found |= {key: _distances(ordered, until) for key, ordered in cells.items()}
    return found


def area_until(ordered: list[np.ndarray]) -> float | None:
    """Return the budget up to which areas reach; None if no model needs a perturbation, or none was found.

    ordered: distances of each model, ascending.
    """
    thirds = [float(statistics.quantiles(each, [0.75])[0]) for each in ordered]
    largest = max((value for value in thirds if 0 < value < math.inf), default=0.0)
    if not largest:
        largest = max((float(each[np.isfinite(each)].max(initial=0)) for each in ordered), default=0.0)
    return _rounded_up(largest) if largest else None


def _rounded_up(value: float) -> float:
    """Return the smallest number with two significant digits that is not below a positive value."""
    decimals = 1 - math.floor(math.log10(value))
    tenths = math.ceil(round(value * 10.0**decimals, 6))
    return float(f"{tenths}e{-decimals}")


def _distances(ordered: np.ndarray, until: float | None) -> Distances:
    n = len(ordered)
    first, median, third = (
        value if math.isfinite(value) else None for value in statistics.quantiles(ordered, [0.25, 0.5, 0.75]).tolist()
    )
    interval = statistics.median_interval(ordered)
    budgets = statistics.quantiles(ordered, np.linspace(0, 1, CURVE_STEPS))
    accuracies = (n - np.searchsorted(ordered, budgets, side="right")) / n
    curve = [(eps, accuracy) for eps, accuracy in zip(budgets.tolist(), accuracies.tolist(), strict=True)]
    return Distances(
        n=n,
        found=int(np.isfinite(ordered).sum()),
        median=median,
        interval=Interval(max(0.0, interval.low), interval.high),
        quartiles=(first, third),
        curve=tuple((eps, accuracy) for eps, accuracy in curve if math.isfinite(eps)),
        area=None if until is None else float(np.minimum(ordered, until).mean() / until),
        area_until=until,
    )
