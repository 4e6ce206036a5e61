"""Metrics of plugins, computed from stored results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robharness.errors import describe
from robharness.findings import Finding, finding
from robharness.planning.outline import PlanOutline
from robharness.plugins.calls import plugin_code, returned, shown
from robharness.specs.records import MetricResult
from robharness.store.results import Results
from robharness.text import attributed, printable, quoted_commands


def compute_metrics(results: Results) -> tuple[dict[str, dict[str, MetricResult]], list[Finding]]:
    """Compute the suite's metrics.

    Returns the results by metric and label, and a finding for each metric that raised an exception. Results from a
    store alone have no plugins to compute metrics with, and one finding for all of them.
    """
    values: dict[str, dict[str, MetricResult]] = {}
    failed: list[Finding] = []
    if not results.outline.is_planned:
        return values, list(_not_computed(results.outline))
    for entry in results.suite.metrics:
        try:
            with plugin_code():
                values[entry.name] = _measured_by_label(entry.spec.compute(results.copied()), results.labels)
        except Exception as error:  # a plugin may raise anything
            message = attributed(describe(error), entry.origin)
            failed.append(finding("metric-failed", message, subject=entry.name))
    return values, failed


def _not_computed(outline: PlanOutline) -> Iterator[Finding]:
    """Yield a finding that names the suite's metrics, the plugins that compute them, and the command."""
    metrics, origins = outline.suite.metrics, outline.run.origins
    if metrics:
        plugins = dict.fromkeys(origins.get(metric.name, metric.name.partition("/")[0]) for metric in metrics)
        yield finding(
            "metrics-not-computed",
            f"no {_shown(metric.name for metric in metrics)}: this report is made from the store alone, and metrics "
            f"are computed by {_shown(plugins)}",
            hint=f"to compute them: {outline.command('report')}",
        )


def _shown(names: Iterable[str]) -> str:
    """Return names that a store brings as part of a sentence."""
    return ", ".join(quoted_commands(printable(name)) for name in names)


def _measured_by_label(found: Any, labels: Sequence[str]) -> dict[str, MetricResult]:
    """Return what a metric's function returned. Raises TypeError or ValueError for anything but numbers of models."""
    values = {}
    for label, value in returned("compute", found, Mapping).items():
        if label not in labels:
            raise ValueError(f"it returned a number for {shown(label)}, and the models are {', '.join(labels)}")
        values[labels[labels.index(label)]] = measured(value)
    return values


def measured(value: Any) -> MetricResult:
    """Return a metric's result with its details as plain data.

    value: a number or a MetricResult.
    Raises TypeError or ValueError if the value is not a number, or if a detail is not plain data.
    """
    given = value if isinstance(value, MetricResult) else MetricResult(value=value)
    number: Any = given.value
    reason = given.unavailable_reason
    if isinstance(number, str | bytes | bytearray):
        raise TypeError(f"{shown(number)} is not a number")
    if not isinstance(reason, str):
        raise TypeError(f"its `unavailable_reason` is {shown(reason)}, not a sentence")
    details = _as_plain_data(returned("compute", given.details, Mapping))
    return MetricResult(value=float(number), details=details, unavailable_reason=str.__str__(reason))


def _as_plain_data(value: Any) -> Any:
    """Return arrays and NumPy numbers as lists and Python numbers; nan stays, and is null in the JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return _as_plain_data(value.tolist())
    if isinstance(value, Mapping):
        return {str.__str__(str(name)): _as_plain_data(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain_data(part) for part in value]
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in _PLAIN.items():
        if isinstance(value, kind):  # perhaps of a class of the plugin
            return plain(value)
    raise TypeError(f"{shown(value)} cannot be a detail of a metric; details are numbers, texts, lists and mappings")


_PLAIN: dict[type, Callable[[Any], Any]] = {str: str.__str__, int: int.__int__, float: float.__float__}
"""Conversions to the classes of Python itself, which run no code of a class that is derived from one of them."""
