"""JSON Schemas of what is written as JSON, from the types of its records: of reports, and of comparisons."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robharness.audit.records import ModelAudit
from robharness.findings import Finding
from robharness.report import records
from robharness.report.details import (
    BestDistances,
    Environment,
    Gain,
    GainSummary,
    GapClosed,
    GlobalOptimality,
    Published,
)
from robharness.report.renderers.json import DERIVED, LEFT_OUT, SCHEMA
from robharness.specs.tables import meanings
from robharness.statistics import Interval

TYPES: dict[str, Any] = {
    "suite": str,
    "title": str,
    "data": str,
    "n": int,
    "compat": Literal["none", "imagenet-c"],
    "count": Literal["all", "robust"],
    "measure": Literal["accuracy", "retrieval"],
    "reference": str | None,
    "pixels": dict[str, str],
    "protocols": dict[str, str],
    "settings": tuple[str, ...],
    "complete": bool,
    "answer": tuple[str, ...],
    "cells": tuple[records.CellNumbers, ...],
    "runs": tuple[records.RunNumbers, ...],
    "differences": tuple[records.DifferenceNumbers, ...],
    "worst_cases": tuple[records.WorstCase, ...],
    "optimalities": tuple[GlobalOptimality, ...],
    "best_distances": tuple[BestDistances, ...],
    "corruption_means": tuple[records.MeanAccuracy, ...],
    "slopes": tuple[records.SlopeNumbers, ...],
    "corruption_errors": tuple[records.CorruptionErrors, ...],
    "gap": tuple[str, str] | None,
    "gaps_closed": tuple[GapClosed, ...],
    "gain": dict[str, str] | None,
    "gains": tuple[Gain, ...],
    "gain_summaries": tuple[GainSummary, ...],
    "metrics": dict[str, dict[str, float]],
    "metric_details": dict[str, dict[str, Any]],
    "expected_metrics": dict[str, dict[str, float]],
    "expected_source": str,
    "published_metrics": dict[str, dict[str, tuple[Published, ...]]],
    "published_sources": tuple[str, ...],
    "audits": tuple[ModelAudit, ...],
    "environments": tuple[Environment, ...],
    "problems": tuple[str, ...],
    "warnings": tuple[str, ...],
    "notes": tuple[str, ...],
    "findings": tuple[Finding, ...],
}
"""key of the JSON -> the type of its value."""
_PLAIN = {str: "string", int: "integer", bool: "boolean", type(None): "null"}


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of what `robharness.report.renderers.json` writes."""
    return schema_of("robharness report", TYPES, SCHEMA)


def schema_of(title: str, kinds: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of an object with the key `schema` and others.

    kinds: key -> the type of its value: plain types, collections of them, and records, whose fields become keys.
    version: the value of `schema`.
    """
    definitions: dict[str, Any] = {}
    properties = {name: _schema(kind, definitions) for name, kind in kinds.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": "Accuracies and drops are fractions; a number that does not exist is null.",
        **_object({"schema": {"const": version}, **properties}),
        "$defs": definitions,
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of values of a type, and add those of its records to the definitions."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind is float:
        return {"type": ["number", "null"]}  # null if it is infinite or nan, which JSON does not have
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each, definitions) for each in arguments]}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple or kind is Interval:
        items = [_schema(each, definitions) for each in arguments or get_type_hints(kind).values()]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if not is_dataclass(kind) or not isinstance(kind, type):
        raise TypeError(f"JSON has no values of the type {kind}")
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}
        definitions[kind.__name__] = {
            "description": (kind.__doc__ or "").partition("\n")[0],
            **_record(kind, definitions),
        }
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a record; the JSON has its numbers as keys of its own."""
    hints, descriptions, properties = get_type_hints(kind), meanings(kind), dict[str, Any]()
    for item in fields(kind):
        if hints[item.name] is records.Numbers:
            properties |= _record(records.Numbers, definitions)["properties"]
        elif item.name not in LEFT_OUT:
            described = {"description": descriptions[item.name]} if item.name in descriptions else {}
            properties[item.name] = {**_schema(hints[item.name], definitions), **described}
    if kind is records.CellNumbers:
        derived = DERIVED.items()
        properties |= {name: {**_schema(each, definitions), "description": text} for name, (each, text) in derived}
    return _object(properties)
