"""The JSON Schema of a suite, for editors."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import TypeAdapter

from robharness.plugins import Entry, Registry
from robharness.plugins.calls import plugin_code
from robharness.specs.references import Role, component_roles
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
        variants = [_variant(noun, ref, entry, definitions, registry) for entry in getattr(registry, key).values()]
        needs = [_needing(noun, variant) for variant in variants]
        strict[key] = {"items": {"required": [noun], **({"allOf": needs} if needs else {})}}
        pattern = TypeAdapter(ref).json_schema()
        pattern["properties"][noun] = {"type": "string", "pattern": "[*?\\[]"}
        alternatives = [*variants, pattern]
        for alternative in alternatives:  # `defaults` may have what an item lacks
            alternative.pop("required", None)
        schema["properties"][key] = {"type": "array", "items": {"anyOf": alternatives}}
    sets = registry.datasets.values()
    texts = [entry.name for entry in sets if len(entry.spec.splits) == 1 or entry.spec.given is not None]
    described = [_data(entry, definitions, registry) for entry in sets]
    schema["properties"]["data"] = {"anyOf": [*([{"enum": texts}] if texts else []), *described] or [{}]}
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    publication = {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, numbers]}}
    several = {"type": "array", "items": {**publication, "required": ["source"]}}
    schema["properties"]["expected"] = {"anyOf": [publication, several]}
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


def _data(entry: Entry, definitions: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the schema of a data set; a split may be left out where there is one."""
    variant, splits = _variant("name", DataRef, entry, definitions, registry), entry.spec.splits
    if entry.spec.given is not None:  # it may have other splits with other options
        return variant
    if splits:
        variant["properties"]["split"] = {"enum": list(splits)}
    if len(splits) != 1:
        variant["required"] = [*variant["required"], "split"]
    return variant


def _variant(noun: str, ref: type, entry: Entry, definitions: dict[str, Any], registry: Registry) -> dict[str, Any]:
    variant = TypeAdapter(ref).json_schema()
    if entry.spec.params is not None:
        params = _options(entry, definitions, registry)
        if params is None:  # JSON Schema cannot express the options: any are allowed
            params, variant["additionalProperties"] = {}, True
        variant["properties"].update(params.get("properties", {}))
        variant["required"] = [*variant.get("required", []), *params.get("required", [])]
    variant["properties"][noun] = {"const": entry.name, "description": entry.spec.summary}
    if noun == "attack" and not entry.spec.minimal:
        variant["required"] = [*variant["required"], "eps"]
    return {"additionalProperties": False, **variant, "title": entry.name}


def _options(entry: Entry, definitions: dict[str, Any], registry: Registry) -> dict[str, Any] | None:
    """Return the schema of an entry's options, or None for options that JSON Schema cannot express.

    definitions: gets the schemas of nested records.
    """
    try:
        with plugin_code():
            options = TypeAdapter(entry.spec.params).json_schema()
            params: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
            roles = component_roles(entry.spec.params)
    except Exception:  # a plugin's class may raise anything
        return None
    definitions.update(params.pop("$defs", {}))
    for name, role in roles.items():
        written = params["properties"][name]
        is_optional = {"type": "null"} in written.get("anyOf", ())
        kept = {key: value for key, value in written.items() if key in ("default", "description", "title")}
        offered = {"$ref": f"#/$defs/{_components(entry, role, definitions, registry)}"}
        params["properties"][name] = {**kept, "anyOf": [offered, *([{"type": "null"}] if is_optional else [])]}
    return params


def _components(owner: Entry, role: Role, definitions: dict[str, Any], registry: Registry) -> str:
    """Return the name of the definition of a role's components: their names, and mappings with their options.

    It is a definition, since a component may have a component of the same role among its options.
    """
    namespace = owner.origin.namespace
    name = re.sub(r"[^\w.-]", "_", ".".join((namespace, role.name, role.key, role.implied)), flags=re.ASCII)
    if name in definitions:
        return name
    names, mappings = list[str](), list[dict[str, Any]]()
    definitions[name] = {}
    for entry in registry.components.values():
        if role.name not in ("", entry.spec.role):
            continue
        own = entry.name.removeprefix(f"{namespace}/")
        alike = list(dict.fromkeys((own, entry.name)))
        names += alike
        options = {} if entry.spec.params is None else _options(entry, definitions, registry)
        key = [] if own == role.implied else [role.key]
        mappings.append(
            {
                "type": "object",
                "title": entry.name,
                "properties": {
                    role.key: {"enum": alike, "description": entry.spec.summary},
                    **(options or {}).get("properties", {}),
                },
                "required": [*key, *(options or {}).get("required", [])],
                "additionalProperties": options is None,
            }
        )
    definitions[name] = {"anyOf": [{"enum": names}, *mappings]}
    return name
