"""Descriptions of what plugins declare: each option with type, default and meaning, and an item for a suite."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from robharness.errors import UserError, describe
from robharness.planning.weights import locate, where
from robharness.plugins.calls import call_spec, plugin_code
from robharness.plugins.registry import Entry
from robharness.specs.budget import Budget
from robharness.specs.measures import NORMS, Measure
from robharness.specs.references import Component, Encoder
from robharness.specs.sources import DataRef, Train
from robharness.specs.tables import meanings
from robharness.suite import changed_fields, yaml

REQUIRED = "required"


def describe_entry(kind: str, entry: Entry, data_root: Path) -> dict[str, Any]:
    """Return the description of an entry as plain data, without importing what builds it.

    kind: a key of `KINDS`.
    data_root: the folder of data and weights.

    Keys of all entries: kind, name, summary, plugin, version, location, paper, licence, options, example. Others are
    fields of the record of this kind; of attacks also `measures`, each with its name and the unit of its budgets, which
    is empty if they have none. An option has name, type, default, meaning and `identity`, whether its value counts in
    the identity of cells.
    """
    spec = entry.spec
    facts: dict[str, Any] = {
        "kind": kind.removesuffix("s"),
        "name": entry.name,
        "summary": spec.summary,
        "plugin": entry.origin.distribution,
        "version": entry.origin.version,
        "location": entry.origin.location,
        "paper": getattr(spec, "paper", ""),
        "licence": getattr(spec, "licence", ""),
    }
    for name in _FIELDS[kind]:
        if (value := getattr(spec, name, None)) is not None:
            facts["examples" if name == "kind" else name] = _plain(value)
    if kind == "attacks":
        facts["measures"] = [{"name": each.name, "unit": each.unit} for each in measures(entry)]
    if kind == "models":
        facts["trained"] = isinstance(spec.weights, Train)
        facts["weights"] = list(_weights(entry, data_root))
    params = getattr(spec, "params", None)
    try:
        with plugin_code():
            facts["options"] = [] if params is None else list(options(params))
            facts["example"] = _example(kind, entry)
    except UserError:
        raise
    except Exception as error:  # the classes of options are the plugin's
        raise UserError(
            f"{entry.name} of {entry.origin} cannot be described: {describe(error)}. Try: robharness list plugins"
        ) from error
    return facts


def measures(entry: Entry) -> list[Measure]:
    """Return the norms and measures that an attack takes budgets in.

    They are the norms that its option `norm` may name, without a call of the plugin. Without such an option, it is the
    measure at its defaults: empty if an option has none, or if the plugin's code fails.
    """
    spec = entry.spec
    try:
        with plugin_code():
            hint = get_type_hints(spec.params, include_extras=True).get("norm")
            if get_origin(hint) is Literal and all(norm in NORMS for norm in get_args(hint)):
                return [NORMS[norm] for norm in get_args(hint)]
            return [] if any(_needed(spec.params)) else [call_spec(spec.threat, spec.params()).bound]
    except Exception:
        return []


_FIELDS: dict[str, tuple[str, ...]] = {
    "models": ("input", "labels", "preprocessing", "features", "expected"),
    "attacks": ("access", "randomness", "inputs", "minimal", "ensemble", "notes"),
    "corruptions": ("group", "severities", "canvas", "smallest", "channels", "randomness", "inputs"),
    "datasets": ("kind", "labels", "splits", "classes"),
    "metrics": ("needs",),
    "components": ("role",),
}
"""Fields of the records that a description has, beside those of all kinds."""


def options(params: type, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Yield each option of a dataclass: name, type, default, meaning, identity. Those of records inside follow it.

    prefix: of the names: options of a record `probe` are called "probe.epochs".
    """
    hints, words = get_type_hints(params, include_extras=True), inherited_meanings(params)
    for item in dataclasses.fields(params):
        if not item.init:
            continue
        hint = hints[item.name]
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        is_required = default is dataclasses.MISSING
        yield {
            "name": f"{prefix}{item.name}",
            "type": type_text(hint),
            "default": REQUIRED if is_required else value_text(default),
            "meaning": words.get(item.name, ""),
            "identity": not item.metadata.get("runtime", False),
        }
        for inner in _records(hint):
            yield from options(inner, f"{prefix}{item.name}.")


def inherited_meanings(params: type) -> dict[str, str]:
    """Return the meaning of each option, from the lines `name: meaning` of the dataclass or of one that it extends."""
    found: dict[str, str] = {}
    for each in reversed(params.__mro__):
        if dataclasses.is_dataclass(each) and "__doc__" in vars(each):
            found |= meanings(each)
    return found


def _records(hint: Any) -> list[type]:
    """Return the dataclasses of a type, whose fields are options inside of an option."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not issubclass(hint, DataRef):
        return [hint]
    return [each for inner in get_args(hint) if get_origin(hint) is not Literal for each in _records(inner)]


# --- texts of types and values ----------------------------------------------------------------------------------------

_NAMES: dict[Any, str] = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    Budget: "number or fraction",
    Fraction: "number or fraction",
    Encoder: "encoder",
    Component: "component",
    DataRef: "data set",
    type(None): "null",
    Any: "any value",
}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def type_text(hint: Any) -> str:
    """Return the values that a type takes, as a suite writes them: "linf | l2", "integer > 0", "list of text"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(inner[0], inner[1:])
    if origin is Literal:
        return " | ".join(map(value_text, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_text, inner)))
    if origin in (tuple, list, set, frozenset) or (origin is not None and origin.__name__ == "Sequence"):
        if origin is tuple and Ellipsis not in inner:
            return f"[{', '.join(map(type_text, inner))}]"
        return f"list of {_grouped(type_text(inner[0]))}" if inner else "list"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_grouped(type_text(inner[0]))} to {_grouped(type_text(inner[1]))}"
    if hint in _NAMES:
        return _NAMES[hint]
    return "mapping" if dataclasses.is_dataclass(hint) else str(getattr(hint, "__name__", hint))


def _annotated(hint: Any, notes: tuple[Any, ...]) -> str:
    """Return the text of a type with bounds, which may be those of pydantic or of annotated-types."""
    text = type_text(hint)
    if hint is Component:
        return next((f"{note}, a {text}" for note in notes if isinstance(note, str)), text)
    every = [each for note in notes for each in (note, *getattr(note, "metadata", ()))]
    bounds = [f"{sign} {getattr(note, key)}" for note in every for key, sign in _BOUNDS.items()
              if getattr(note, key, None) is not None]  # fmt: skip
    return f"{text} {' and '.join(bounds)}" if bounds else text


def _grouped(text: str) -> str:
    return f"({text})" if " | " in text else text


def value_text(value: Any) -> str:
    """Return a value as a suite writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = changed_fields(value)
        return f"{{{', '.join(f'{key}: {value_text(each)}' for key, each in changed.items())}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{value_text(key)}: {value_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(value_text, value))}]"
    return yaml.quoted(value) if isinstance(value, str) else str(value)


def _plain(value: Any) -> Any:
    """Return a field of a spec as plain data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    if isinstance(value, type):
        return value.__name__
    return "depends on its options" if callable(value) else value


# --- weights and examples ---------------------------------------------------------------------------------------------


def _weights(entry: Entry, data_root: Path) -> Iterator[dict[str, Any]]:
    """Yield each declared file of weights: its name among several, where it is expected, and whether it is there."""
    declared = entry.spec.weights
    if declared is None or isinstance(declared, Train):
        return
    for name, part in (declared if isinstance(declared, Mapping) else {"": declared}).items():
        path = locate(part, data_root)
        is_there = path is not None and path.is_file()
        hint = "" if is_there else part.hint(path or Path(part.path))
        yield {"name": name, "path": where(part, path), "is_there": is_there, "hint": hint}


def _example(kind: str, entry: Entry) -> str:
    """Return lines of a suite with an item of this name and the options that it needs."""
    spec, noun = entry.spec, kind.removesuffix("s")
    if kind == "metrics":
        return f"metrics: [{entry.name}]"
    if kind == "components":
        return f"{spec.role}: {entry.name}"
    needed = dict(_needed(getattr(spec, "params", None)))
    if kind == "datasets":
        split = {"split": spec.splits[0] if spec.splits else "SPLIT"} if spec.given is None else {}  # those of a file
        items = {"name": entry.name, **split, **needed}
        return f"data: {_flow(items)}"
    items = {noun: entry.name, **needed}
    if kind == "attacks" and spec.minimal is not True:
        items["eps"] = _typical_budget(entry, needed)
    if kind == "corruptions":
        items["severity"] = value_text([each for each in (1, 3, 5) if each in spec.severities] or spec.severities[:1])
    return f"{kind}:\n  - {_flow(items)}"


def _typical_budget(entry: Entry, needed: Mapping[str, str]) -> str:
    """Return a budget of an attack at its defaults. The measure of an attack with required options is not known."""
    bound = NORMS["linf"] if needed else call_spec(entry.spec.threat, entry.spec.params()).bound
    return str(bound.typical)


def _needed(params: type | None) -> Iterator[tuple[str, str]]:
    """Yield the options without a default, each with a value that it may take."""
    hints = get_type_hints(params, include_extras=True) if params is not None else {}
    for item in dataclasses.fields(params) if params is not None else ():
        if item.init and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            yield item.name, _value_of(hints[item.name])


def _value_of(hint: Any) -> str:
    """Return a value that a type takes, or a word in capitals that says what goes there."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Annotated, Union, types.UnionType):
        return _value_of(inner[0])
    if origin is Literal:
        return value_text(inner[0])
    if origin in (tuple, list):
        return f"[{_value_of(inner[0])}]"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not issubclass(hint, DataRef):
        return _flow(dict(_needed(hint)))
    return _VALUES.get(hint, "VALUE")


_VALUES: dict[Any, str] = {
    bool: "true", int: "1", float: "1.0", str: "TEXT", Path: "./FILE", Budget: "1", Encoder: "{model: MODEL}",
    Component: "COMPONENT", DataRef: "DATA",
}  # fmt: skip


def _flow(items: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{key}: {text}' for key, text in items.items())}}}"
