"""A report as JSON, schema 1. Accuracies and drops are fractions; numbers that do not exist are null."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from robharness.report.details import Published
from robharness.report.records import Numbers, Report
from robharness.text import json_text

name, suffix = "JSON", ".json"
SCHEMA = 1
LEFT_OUT = ("alarms",)
"""Fields of cells that are not in the JSON."""
DERIVED = {"expected": (float | None, "the published accuracy of the first source that has one, a fraction.")}
"""Keys of cells in the JSON that are no fields -> their types and meanings."""


def render(report: Report) -> str:
    """Return the report as JSON text, keys in a fixed order."""
    return json_text(finite(as_data(report))) + "\n"


def as_data(report: Report) -> dict[str, Any]:
    """Return the report as dicts, lists and plain values; numbers may be infinite or nan."""
    return {
        "schema": SCHEMA,
        "suite": report.suite,
        "title": report.title,
        "data": report.data,
        "n": report.n,
        "compat": report.compat,
        "count": report.count,
        "measure": report.measure,
        "reference": report.reference,
        "pixels": report.pixels,
        "protocols": report.protocols,
        "settings": report.settings,
        "complete": report.complete,
        "answer": report.answer,
        "cells": [_flat(asdict(cell), cell.numbers) | {"expected": _first(cell.published)} for cell in report.cells],
        "runs": [asdict(numbers) for numbers in report.runs],
        "differences": [asdict(difference) for difference in report.differences],
        "worst_cases": [_flat(asdict(case), case.numbers) for case in report.worst_cases],
        "optimalities": [asdict(found) for found in report.optimalities],
        "best_distances": [asdict(found) for found in report.best_distances],
        "corruption_means": [asdict(mean) for mean in report.corruption_means],
        "slopes": [asdict(slope) for slope in report.slopes],
        "corruption_errors": [asdict(errors) for errors in report.corruption_errors],
        "gap": report.gap,
        "gaps_closed": [asdict(gap) for gap in report.gaps_closed],
        "gain": report.gain,
        "gains": [asdict(gain) for gain in report.gains],
        "gain_summaries": [asdict(summary) for summary in report.gain_summaries],
        "metrics": {name: {m: each.value for m, each in by.items()} for name, by in report.metrics.items()},
        "metric_details": {
            name: details
            for name, by in report.metrics.items()
            if (details := {m: each.details for m, each in by.items() if each.details})
        },
        "expected_metrics": {
            name: {label: _first(found) for label, found in by.items()} for name, by in report.published_metrics.items()
        },
        "expected_source": "; ".join(filter(None, report.published_sources)),
        "published_metrics": {
            name: {label: list(map(asdict, found)) for label, found in by.items()}
            for name, by in report.published_metrics.items()
        },
        "published_sources": report.published_sources,
        "audits": [asdict(each) for each in report.audits],
        "environments": [asdict(environment) for environment in report.environments],
        "problems": list(report.problems),
        "warnings": list(report.warnings),
        "notes": list(report.notes),
        "findings": [asdict(found) for found in report.findings],
    }


def _first(published: Sequence[Published]) -> float | None:
    """Return the published number of the first source that has one, as the JSON had it for suites of one source."""
    return published[0].value if published else None


def _flat(record: dict[str, Any], numbers: Numbers) -> dict[str, Any]:
    """Return the record with its numbers as keys of its own."""
    kept = {name: value for name, value in record.items() if name not in ("numbers", *LEFT_OUT)}
    return kept | asdict(numbers)


def finite(value: Any) -> Any:
    """Return the same with None for infinite numbers and nan, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
