"""The contract of metrics, on a small stored result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from robharness import api
from robharness.engine import listeners
from robharness.engine.run import run_plan
from robharness.report.plugin_metrics import measured
from robharness.store import Store, results
from robharness.store.results import Results
from robharness.testing import toys
from robharness.testing.contract import Broken, Subject


def gives_numbers_by_label(metric: Subject) -> None:
    """From stored results it returns a mapping of the models' labels to numbers, or to numbers with plain details."""
    with stored(metric) as found:
        values = metric.entry.spec.compute(found)
        if not isinstance(values, Mapping) or not values:
            raise Broken(f"it returned {values!r}, not a mapping of labels to numbers")
        for label, value in values.items():
            if label not in found.labels:
                raise Broken(f"it returned a number for {label!r}, and the models are {', '.join(found.labels)}")
            try:
                measured(value)
            except (TypeError, ValueError):
                raise Broken(f"for {label!r} it returned {value!r}, not a number") from None


def same_numbers_again(metric: Subject) -> None:
    """Computed twice from the same results, the numbers are the same."""
    with stored(metric) as found:
        first, second = (dict(metric.entry.spec.compute(found)) for _ in range(2))
        if repr(first) != repr(second):
            raise Broken(f"first it returned {first!r}, then {second!r}")


RULES = (gives_numbers_by_label, same_numbers_again)


@contextmanager
def stored(metric: Subject) -> Iterator[Results]:
    """Yield results of two models on a toy: clean, an attack at two budgets and a corruption at two severities.

    If the metric needs distances, there is also an attack without a budget.
    """
    with TemporaryDirectory() as folder:
        registry = toys.exact("image", 3).beside(metric.plugin.registry)
        toys.declare_perturbations(registry)
        minimal = [{"attack": "testing/negative"}] if "distances" in metric.entry.spec.needs else []
        suite: dict[str, Any] = {
            "robharness": 1,
            "name": "contract",
            "canvas": 8,
            "data": {"name": "testing/exact-image-3", "split": "all"},
            "models": [
                {"model": "testing/exact-image-3", "label": "A", "reference": True},
                {"model": "testing/exact-image-3", "label": "B"},
            ],
            "attacks": [{"attack": "testing/sign", "eps": ["1/32", "1/16"]}, *minimal],
            "corruptions": [{"corruption": "testing/darker", "severity": [1, 2]}],
            "metrics": [metric.entry.name],
        }
        plan = api.plan(suite, data=metric.data_root, registry=registry)
        store = Store(Path(folder) / "store")
        run_plan(plan, store, listeners.Silent())
        yield results.load(plan, store)
