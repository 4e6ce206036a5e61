"""Distances by which attacks on features move the features of examples, as they note them."""

from __future__ import annotations

import numpy as np

from robharness import statistics
from robharness.report.details import Movement
from robharness.store.results import CellResult


def movement(result: CellResult) -> Movement | None:
    """Return the mean of the first decimal note of an attack on features; None for other cells, and without outcomes.

    Examples without a number, such as unreadable ones, are left out.
    """
    perturbation = result.cell.perturbation
    if perturbation is None or perturbation.access != "features" or not result.n:
        return None
    name = next((name for name in perturbation.totals if perturbation.notes[name] is float), None)
    if name is None:
        return None
    values = np.array(result.columns[name], np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    interval = statistics.mean_interval(values) if len(values) > 1 else None
    return Movement(note=name, n=len(values), mean=float(values.mean()), interval=interval)
