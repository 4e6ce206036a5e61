"""A comparison as JSON, schema 1, and its JSON Schema. Accuracies, drops and differences are fractions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from robharness.comparison.outputs.answer import answer
from robharness.comparison.records import LEVEL, CellDifference, Comparison, RunsDifference
from robharness.findings import Finding
from robharness.report.renderers.json import finite
from robharness.report.schema import schema_of
from robharness.text import json_text

SCHEMA = 1
TYPES: dict[str, Any] = {
    "title": str,
    "before": str,
    "after": str,
    "data": str,
    "pairs": tuple[tuple[str, str], ...],
    "n": int,
    "n_before": int,
    "n_after": int,
    "clusters": str | None,
    "complete": bool,
    "level": float,
    "answer": tuple[str, ...],
    "cells": tuple[CellDifference, ...],
    "only_before": tuple[str, ...],
    "only_after": tuple[str, ...],
    "runs": tuple[RunsDifference, ...],
    "run_of": dict[str, str],
    "findings": tuple[Finding, ...],
}
"""key of the JSON -> the type of its value."""


def render(comparison: Comparison) -> str:
    """Return a comparison as JSON text, keys in a fixed order."""
    return json_text(finite(as_data(comparison))) + "\n"


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as dicts, lists and plain values."""
    return {
        "schema": SCHEMA,
        "title": comparison.title,
        "before": comparison.before,
        "after": comparison.after,
        "data": comparison.data,
        "pairs": comparison.pairs,
        "n": comparison.n,
        "n_before": comparison.n_before,
        "n_after": comparison.n_after,
        "clusters": comparison.clusters,
        "complete": comparison.is_complete,
        "level": LEVEL,
        "answer": answer(comparison),
        "cells": [asdict(cell) for cell in comparison.cells],
        "only_before": comparison.only_before,
        "only_after": comparison.only_after,
        "runs": [asdict(runs) for runs in comparison.runs],
        "run_of": dict(comparison.run_of),
        "findings": [asdict(found) for found in comparison.findings],
    }


def comparison_schema() -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of what `render` returns."""
    return schema_of("robharness comparison", TYPES, SCHEMA)
