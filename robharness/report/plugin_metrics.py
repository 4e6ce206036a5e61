"""Metrics of plugins, computed from stored results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robharness.findings import Finding, finding
from robharness.specs.records import MetricResult
from robharness.store.results import Results


def compute_metrics(results: Results) -> tuple[dict[str, dict[str, MetricResult]], list[Finding]]:
    """Compute the suite's metrics.

    Returns the results by metric and label, and a finding for each metric that raised an exception.
    """
    values: dict[str, dict[str, MetricResult]] = {}
    failed = []
    for entry in results.suite.metrics:
        try:
            values[entry.name] = {str(label): measured(value) for label, value in entry.spec.compute(results).items()}
        except Exception as error:  # a plugin may raise anything
            message = f"{type(error).__name__}: {error} ({entry.origin})"
            failed.append(finding("metric-failed", message, subject=entry.name))
    return values, failed


def measured(value: Any) -> MetricResult:
    """Return a metric's result with its details as plain data.

    value: a number or a MetricResult.
    Raises TypeError or ValueError if the value is not a number, or if a detail is not plain data.
    """
    given = value if isinstance(value, MetricResult) else MetricResult(value=value)
    if isinstance(value, str):
        raise TypeError(f"{value!r} is not a number")
    details = {str(name): _as_plain_data(part) for name, part in given.details.items()}
    return MetricResult(value=float(given.value), details=details, unavailable_reason=given.unavailable_reason)


def _as_plain_data(value: Any) -> Any:
    """Return arrays and NumPy numbers as lists and Python numbers; nan stays, and is null in the JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return _as_plain_data(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): _as_plain_data(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain_data(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{value!r} cannot be a detail of a metric; details are numbers, texts, lists and mappings")
