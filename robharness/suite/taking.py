"""Which items of a suite can take a key: its own keys, and the options of the plugins that the item names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from robharness.plugins import Entry, Registry
from robharness.suite.fields import field_names, meant
from robharness.suite.records import AttackRef, CorruptionRef, Header, ModelRef

LISTS: dict[str, type] = {"models": ModelRef, "attacks": AttackRef, "corruptions": CorruptionRef}
"""Lists of a suite -> the keys that each of their items has, whatever its plugin."""
SUITE_KEYS = [*field_names(Header), *LISTS, "expected", "extends", "defaults"]
"""All keys of a suite."""


def names_of(kind: str | int, item: Any) -> tuple[str, ...]:
    """Return the names of an item of a list: its label first, its full name, and its name without the plugin.

    An item of `expected` has its source as its name.
    """
    noun = str(kind).removesuffix("s")
    if kind == "expected" and isinstance(item, dict):
        return tuple(name for name in [item.get("source")] if isinstance(name, str))
    if kind not in LISTS or not isinstance(item, dict):
        return ()
    name, label = item.get(noun), item.get("label")
    full = (name, name.rpartition("/")[2]) if isinstance(name, str) else ()
    return (label, *full) if isinstance(label, str) else full


def takes(registry: Registry, kind: str, item: Any, key: str) -> bool:
    """Return whether an item can have a key. One whose plugin is not known can have any."""
    if not isinstance(item, dict):
        return False
    known = keys_of(registry, kind, item)
    return known is None or key in known


def keys_of(registry: Registry, kind: str, item: dict[str, Any]) -> list[str] | None:
    """Return the keys that an item can have, those that all entries of its pattern take; None if they are not known."""
    own, name = field_names(LISTS[kind]), item.get(kind.removesuffix("s"))
    found = meant(getattr(registry, kind), name) if isinstance(name, str) else []
    if not found:
        return None
    options = [options_of(entry) for entry in found]
    return [*own, *(key for key in options[0] if key not in own and all(key in others for others in options))]


def options_of(entry: Entry) -> list[str]:
    """Return the names of the options of a plugin's entry."""
    return field_names(entry.spec.params) if entry.spec.params else []


def every_key(registry: Registry, kind: str, items: Iterable[Any]) -> list[str]:
    """Return all keys that some of the items can have."""
    found = (keys_of(registry, kind, item) or [] for item in items if isinstance(item, dict))
    return list(dict.fromkeys(key for keys in found for key in keys))
