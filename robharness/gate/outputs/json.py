"""A check as JSON, schema 1, and its JSON Schema. Accuracies, differences and the tolerance are fractions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from robharness.comparison.baseline import BaselineUpdate
from robharness.findings import Finding
from robharness.gate.records import BenchmarkCheck, CellCheck, CheckReport
from robharness.report.renderers.json import finite
from robharness.report.schema import schema_of
from robharness.text import json_text

SCHEMA = 1
TYPES: dict[str, Any] = {
    "suite": str,
    "title": str,
    "baseline": str,
    "n": int,
    "n_baseline": int,
    "tolerance": float,
    "alpha": float,
    "exit_code": int,
    "cells": tuple[CellCheck, ...],
    "benchmarks": tuple[BenchmarkCheck, ...],
    "findings": tuple[Finding, ...],
    "settings": tuple[str, ...],
    "accept": str,
    "update": BaselineUpdate | None,
}
"""key of the JSON -> the type of its value."""


def render(report: CheckReport) -> str:
    """Return a check as JSON text, keys in a fixed order."""
    return json_text(finite(as_data(report))) + "\n"


def as_data(report: CheckReport) -> dict[str, Any]:
    """Return a check as dicts, lists and plain values; numbers may be infinite."""
    fields = {**asdict(report), "exit_code": int(report.exit_code)}
    return {"schema": SCHEMA, **{name: fields[name] for name in TYPES}}


def check_schema() -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of what `render` returns."""
    return schema_of("robharness check", TYPES, SCHEMA)
