"""The JSON Schema of a suite, for editors."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from robharness.plugins import Entry, Registry
from robharness.plugins.calls import plugin_code
from robharness.suite.records import DataRef, Header
from robharness.suite.taking import LISTS


def json_schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema of a suite, with the options of every installed plugin, for editors."""
    schema = TypeAdapter(Header).json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions["Check"]["additionalProperties"] = False
    schema["properties"]["precision"]["anyOf"][1]["additionalProperties"] = False
    schema.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": False})
    strict: dict[str, Any] = {}
    for key, ref in LISTS.items():
        noun = key.removesuffix("s")
        variants = [_variant(noun, ref, entry, definitions) for entry in getattr(registry, key).values()]
        strict[key] = {"items": {"required": [noun], "allOf": [_needing(noun, variant) for variant in variants]}}
        pattern = TypeAdapter(ref).json_schema()
        pattern["properties"][noun] = {"type": "string", "pattern": "[*?\\[]"}
        alternatives = [*variants, pattern]
        for alternative in alternatives:  # `defaults` may have what an item lacks
            alternative.pop("required", None)
        schema["properties"][key] = {"type": "array", "items": {"anyOf": alternatives}}
    sets = registry.datasets.values()
    texts = [entry.name for entry in sets if len(entry.spec.splits) == 1 or entry.spec.given is not None]
    described = [_data(entry, definitions) for entry in sets]
    schema["properties"]["data"] = {"anyOf": [*([{"enum": texts}] if texts else []), *described] or [{}]}
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    schema["properties"]["expected"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "string"}, numbers]},
    }
    schema["properties"]["extends"] = {"type": "string", "minLength": 1, "description": "a suite that this one changes"}
    schema["properties"]["defaults"] = {
        "type": "object",
        "properties": {key: {"type": "object"} for key in LISTS},
        "additionalProperties": False,
    }
    whole = {"required": [*schema.pop("required"), "models"]}
    schema["allOf"] = [
        {"if": {"required": ["extends"]}, "else": whole},
        {"if": {"anyOf": [{"required": ["extends"]}, {"required": ["defaults"]}]}, "else": {"properties": strict}},
    ]
    return schema


def _needing(noun: str, variant: dict[str, Any]) -> dict[str, Any]:
    """Return the rule that an item of this name has the keys that it needs."""
    is_of_name = {"properties": {noun: {"const": variant["properties"][noun]["const"]}}, "required": [noun]}
    return {"if": is_of_name, "then": {"required": variant["required"]}}


def _data(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a data set; a split may be left out where there is one."""
    variant, splits = _variant("name", DataRef, entry, definitions), entry.spec.splits
    if entry.spec.given is not None:  # it may have other splits with other options
        return variant
    if splits:
        variant["properties"]["split"] = {"enum": list(splits)}
    if len(splits) != 1:
        variant["required"] = [*variant["required"], "split"]
    return variant


def _variant(noun: str, ref: type, entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    variant = TypeAdapter(ref).json_schema()
    if entry.spec.params is not None:
        try:
            with plugin_code():
                params = json.loads(json.dumps(TypeAdapter(entry.spec.params).json_schema(), allow_nan=False))
        except Exception:  # a plugin's options that JSON Schema cannot say: any are allowed
            params, variant["additionalProperties"] = {}, True
        definitions.update(params.pop("$defs", {}))
        variant["properties"].update(params.get("properties", {}))
        variant["required"] = [*variant.get("required", []), *params.get("required", [])]
    variant["properties"][noun] = {"const": entry.name, "description": entry.spec.summary}
    if noun == "attack" and not entry.spec.minimal:
        variant["required"] = [*variant["required"], "eps"]
    return {"additionalProperties": False, **variant, "title": entry.name}
