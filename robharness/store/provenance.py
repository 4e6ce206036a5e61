"""The form of provenance, which anyone can write into a file: what reports read of it has the types that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def check_provenance(record: Any) -> None:
    """Raise ValueError, with the reason, unless a record of provenance has the types that robharness writes.

    Keys that are not known may hold anything, since later versions add some.
    """
    if not isinstance(record, dict):
        raise ValueError("its provenance is no list of JSON objects")
    for name, value in record.items():
        is_valid = _KNOWN.get(name, _is_plugin if name.endswith("_plugin") else _is_anything)
        if not is_valid(value):
            raise ValueError(f"its provenance has a '{name}' of another form")


def _is_anything(value: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_lists_of_texts(value: Any) -> bool:
    is_list = isinstance(value, dict) and all(isinstance(each, list) for each in value.values())
    return is_list and all(_is_text(text) for each in value.values() for text in each)


def _is_exact(value: Any) -> bool:
    return isinstance(value, dict) and all(
        (_is_number if name.endswith("_by") else _is_flag)(each) for name, each in value.items()
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_left_over(value: Any) -> bool:
    kinds: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("file", "network"), _is_text),
        **dict.fromkeys(("tensors", "more_parts"), _is_count),
        "parts": lambda parts: isinstance(parts, list) and all(map(_is_text, parts)),
    }
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(key in each and is_valid(each[key]) for key, is_valid in kinds.items())
        for each in value
    )


def _is_plugin(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("stands_on", []), list):
        return False
    return _is_text(value.get("plugin", "")) and (value.get("source") is None or _is_text(value["source"]))


_KNOWN: Mapping[str, Callable[[Any], bool]] = {
    "model_state": _is_text,
    "device": _is_text,
    "threads": _is_count,
    "rows": _is_count,
    "too_many_rows": _is_count,
    "folded": _is_count,
    "memory_format": _is_text,
    "precision": _is_text,
    "gradient_precision": _is_text,
    "sources": _is_text,
    "surplus_outputs": _is_pair,
    "left_over": _is_left_over,
    "exact": _is_exact,
    "versions": _is_texts,
    "unreadable": _is_texts,
    "restored": _is_lists_of_texts,
}
