"""Metrics of plugins, computed from stored results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robharness.findings import Finding, finding
from robharness.specs.records import MetricResult
from robharness.store.results import Results


def compute_metrics(results: Results) -> tuple[dict[str, dict[str, MetricResult]], list[Finding]]:
    """The suite's metrics by name and label; and what went wrong in one, since a plugin may raise anything."""
    values: dict[str, dict[str, MetricResult]] = {}
    failed = []
    for entry in results.suite.metrics:
        try:
            values[entry.name] = {str(label): measured(value) for label, value in entry.spec.compute(results).items()}
        except Exception as error:
            message = f"{type(error).__name__}: {error} ({entry.origin})"
            failed.append(finding("metric-failed", message, subject=entry.name))
    return values, failed


def measured(value: Any) -> MetricResult:
    """What a metric gave, with its details as plain data. Raises TypeError or ValueError for what is no number."""
    given = value if isinstance(value, MetricResult) else MetricResult(value=value)
    if isinstance(value, str):
        raise TypeError(f"{value!r} is not a number")
    details = {str(name): _as_plain_data(part) for name, part in given.details.items()}
    return MetricResult(value=float(given.value), details=details, unavailable_reason=given.unavailable_reason)


def _as_plain_data(value: Any) -> Any:
    """Arrays and NumPy's numbers as Python's; NaN stays, which the JSON has no number for and calls null."""
    if isinstance(value, np.ndarray | np.generic):
        return _as_plain_data(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _as_plain_data(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain_data(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} has no place among a metric's details: numbers, texts, lists and mappings have")
