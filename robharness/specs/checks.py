"""Checks of the fields of records by their names, so that a mistake is a problem of its plugin alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from robharness.specs.budget import RATIONAL
from robharness.specs.inputs import InputSpec, Preprocessing
from robharness.specs.lazy import resolve_targets
from robharness.specs.published import Download
from robharness.specs.sources import File, Train
from robharness.specs.types import RESERVED, SUITE_KEYS, Access, Kind, Need, Randomness

_NAME = re.compile(r"(?=.{1,200}$)[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


class Record:
    """Base of the records, which checks their fields. Raises ValueError for a value that does not fit."""

    def __post_init__(self) -> None:
        names = tuple(item.name for item in fields(self) if item.name in (*_FUNCTIONS, "minimal"))  # type: ignore[arg-type]
        resolve_targets(self, names)
        for item in fields(self):  # type: ignore[arg-type]
            words, fits = _CHECKS.get(item.name, ("", lambda value: True))
            value = getattr(self, item.name)
            if not fits(value) and not (value is None and item.default is None):
                raise ValueError(f"{type(self).__name__}: {item.name}={value!r} must be {words}")
        params: Any = getattr(self, "params", None)
        options = () if params is None else fields(params)
        taken = [item.name for item in options if item.name in SUITE_KEYS.get(type(self).__name__, ())]
        if taken:
            raise ValueError(f"{type(self).__name__}: the option '{taken[0]}' has the name of a key of every suite")


Check = tuple[str, Callable[[Any], bool]]


def _a(words: str, *types: type) -> Check:
    return words, lambda value: isinstance(value, types)


def _one_of(literal: Any) -> Check:
    return f"one of {', '.join(get_args(literal))}", lambda value: value in get_args(literal)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_tolerance(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_mask(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and all(type(number) is int and number >= 0 for number in value)
    return is_list and 1 < len(value) == len(set(value))


_FUNCTION: Check = ("a function or 'module:function'", callable)
_FUNCTIONS = (
    *("build", "trunk", "threat", "cost", "open", "compute", "travel", "advise", "blocks", "given", "refuses"),
    *("distance", "largest", "fitted_on", "items", "runs_to_end"),
)
_CHECKS: dict[str, Check] = {
    "name": (
        "lower-case letters, digits and . _ - /, 200 characters at most",
        lambda v: isinstance(v, str) and bool(_NAME.fullmatch(v)),
    ),
    "summary": _a("a text", str),
    "labels": ("a text that is not empty", lambda v: isinstance(v, str) and bool(v.strip())),
    "group": _a("a text", str),
    "role": _a("a text", str),
    "revision": ("an integer", lambda v: type(v) is int),
    **dict.fromkeys(("features", "licence", "paper", "protocol"), _a("a text", str)),
    "expected": (
        "fractions in [0, 1] by name, such as clean",
        lambda v: isinstance(v, Mapping) and all(isinstance(n, str) for n in v) and all(map(_is_fraction, v.values())),
    ),
    "masks": (
        "sequences of at least two different whole numbers, by name",
        lambda v: isinstance(v, Mapping) and all(isinstance(name, str) and _is_mask(v[name]) for name in v),
    ),
    "alternatives": (
        "mappings of suite keys to values, by name",
        lambda v: isinstance(v, Mapping) and all(isinstance(each, Mapping) for each in v.values()),
    ),
    "canvas": ("a side in pixels, at least 1", lambda v: type(v) is int and v > 0),
    **dict.fromkeys(("smallest", "classes"), ("a whole number of at least 1", lambda v: type(v) is int and v >= 1)),
    "channels": ("a set of whole numbers", lambda v: isinstance(v, frozenset | set) and all(type(n) is int for n in v)),
    "input": _a("an InputSpec", InputSpec),
    "weights": (
        "a File, a Download or a Train, or Files and Downloads by name",
        lambda v: (
            isinstance(v, Train | File | Download)
            or (
                isinstance(v, Mapping)
                and bool(v)
                and all(isinstance(name, str) and name and isinstance(v[name], File | Download) for name in v)
            )
        ),
    ),
    "examples": (
        "whole numbers of at least 1 by the name of a split",
        lambda v: isinstance(v, Mapping) and all(isinstance(n, str) and type(v[n]) is int and v[n] >= 1 for n in v),
    ),
    "preprocessing": _a("a Preprocessing", Preprocessing),
    "severities": (
        "a tuple of different whole numbers of at least 1, such as (1, 2, 3)",
        lambda v: isinstance(v, tuple) and 0 < len(v) == len(set(v)) and all(type(n) is int and n > 0 for n in v),
    ),
    **dict.fromkeys(
        ("splits", "alarms"),
        ("a tuple of texts", lambda v: isinstance(v, tuple) and all(isinstance(each, str) and each for each in v)),
    ),
    "needs": (
        f"a set of {', '.join(get_args(Need))}",
        lambda v: isinstance(v, frozenset | set) and v <= set(get_args(Need)),
    ),
    "inputs": ("a set of image and video", lambda v: isinstance(v, frozenset | set) and v <= set(get_args(Kind))),
    "params": ("a dataclass", lambda v: isinstance(v, type) and is_dataclass(v)),
    "access": _one_of(Access),
    "randomness": _one_of(Randomness),
    "kind": _one_of(Kind),
    "notes": (
        f"a mapping of names to int, float, bool or str, none of them {', '.join(RESERVED)}",
        lambda v: (
            isinstance(v, Mapping)
            and all(isinstance(n, str) and n for n in v)
            and not set(v) & set(RESERVED)
            and set(v.values()) <= {int, float, bool, str}
        ),
    ),
    **dict.fromkeys(("ensemble", "is_count", "is_batched", "grows"), _a("true or false", bool)),
    "minimal": ("true or false, or a function or 'module:function'", lambda v: isinstance(v, bool) or callable(v)),
    "unit": ("words on one line, such as pixels", lambda v: isinstance(v, str) and (not v or v.strip() == v)),
    **dict.fromkeys(("slack", "absolute_slack"), ("a number of at least 0", _is_tolerance)),
    "typical": ("a budget as text, such as 8/255", lambda v: isinstance(v, str) and bool(re.fullmatch(RATIONAL, v))),
    **dict.fromkeys(_FUNCTIONS, _FUNCTION),
}
