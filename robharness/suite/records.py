"""Keys of a suite as written in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema

from robharness.specs.budget import Budget
from robharness.suite.clusters import ClusterPattern
from robharness.text import NAME_LENGTH, TITLE_LENGTH, is_printable

Count = Literal["all", "robust"]
Compat = Literal["none", "imagenet-c"]
DEFAULT_CANVAS = 224
LARGEST_CANVAS = 4096
"""Pixels; an image of this side takes 200 MB as float32."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that the global generators of NumPy take."""
LARGEST_INTEGER = 2**63 - 1
"""The largest integer of an option; NumPy and torch have 64 bits."""
MOST_SEEDS = 1000


def _as_switch(value: Any) -> Any:
    return bool(value) if type(value) is int and value in (0, 1) else value


Switch = Annotated[bool, BeforeValidator(_as_switch)]
"""true or false; 1 and 0 say the same."""


def _as_tuple(value: Any) -> Any:
    if value == []:
        raise ValueError("at least one is needed")
    return tuple(value) if isinstance(value, list) else (value,)


def _one_or_list(item: Any) -> WithJsonSchema:
    schema = TypeAdapter(item).json_schema()
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]})


def _visible(value: str) -> str:
    if not is_printable(value):
        raise ValueError("it must be one line of visible characters")
    return value


def _word(value: str) -> str:
    if not value.strip():
        raise ValueError("it has no visible character; leave it out, or give a name")
    return _visible(value)


def _visible_words(value: str) -> str:
    _visible(" ".join(value.split()))
    return value


Label = Annotated[str, Field(max_length=NAME_LENGTH), AfterValidator(_word)]
"""A name that tables and messages show."""
Title = Annotated[str, Field(max_length=TITLE_LENGTH), AfterValidator(_visible_words)]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""The name of a suite, which is a part of the names of files."""
Budgets = Annotated[tuple[Annotated[Budget, Field(gt=0)], ...], BeforeValidator(_as_tuple), _one_or_list(Budget)]
Severities = Annotated[tuple[int, ...], BeforeValidator(_as_tuple), _one_or_list(int)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), _one_or_list(str)]


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """`data:` the data set, its split and the number of examples. Other keys are the data set's own options."""

    name: str
    split: str | None = None
    limit: Annotated[int, Field(gt=0)] | None = None
    classes: str | tuple[Annotated[int, Field(ge=0)], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """One of `models:`. Other keys are the plugin's own options."""

    model: str
    label: Label | None = None
    reference: Switch = False
    weights: str | dict[str, str] | None = None
    inside: str | dict[str, str] | None = None
    strip: str | dict[str, str] | None = None
    preprocessing: dict[str, Any] | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] | None = None
    clean_at_least: Annotated[float, Field(ge=0, le=100)] | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderRef:
    """Keys of an encoder in an option. Other keys are the options of its plugin."""

    model: str
    weights: str | dict[str, str] | None = None
    inside: str | dict[str, str] | None = None
    strip: str | dict[str, str] | None = None
    preprocessing: dict[str, Any] | None = None
    features: str | None = None


@dataclass(frozen=True, kw_only=True)
class EnsembleRef:
    """`{ensemble: ...}` in a `source`: the labels, or patterns, of models that the attack is crafted on together."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    ensemble: Patterns


def _word_or_record(word: Any, record: Any) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [TypeAdapter(word).json_schema(), TypeAdapter(record).json_schema()]})


Source = Annotated[str | EnsembleRef, _word_or_record(str, EnsembleRef)]
Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_tuple), _one_or_list(Source)]


@dataclass(frozen=True, kw_only=True)
class AttackRef:
    """One of `attacks:`. Other keys are the plugin's own options."""

    attack: str
    eps: Budgets | None = None
    nested: Switch | None = None
    source: Sources | None = None
    eight_bit: Switch = False


@dataclass(frozen=True, kw_only=True)
class CorruptionRef:
    """One of `corruptions:`. Other keys are the plugin's own options."""

    corruption: str
    severity: Severities


@dataclass(frozen=True, kw_only=True)
class Check:
    """`check:` when a result counts as a regression: points of accuracy, and the level of the test."""

    tolerance: Annotated[float, Field(ge=0, lt=100)] = 0.5
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01


@dataclass(frozen=True, kw_only=True)
class Publication:
    """One source of `expected:`, with its numbers.

    source: empty if the suite does not name it.
    numbers: label -> {cell name: published accuracy in percent, metric: published value}.
    """

    source: str
    numbers: Mapping[str, Mapping[str, float]]

    def number(self, label: str, run_of: str | None, name: str) -> float | None:
        """Return the number of a model's cell or metric; a run has that of all runs. None if there is none.

        run_of: the label that the model shares with other runs.
        """
        return self.numbers.get(label, self.numbers.get(str(run_of), {})).get(name)


Judging = Literal["float32", "tf32"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`precision:` of the passes that decide, and of those that attacks take gradients from."""

    judge: Judging = "float32"
    gradient: Literal["same", "bfloat16"] = "same"

    def of(self, kind: str) -> Any:
        """Return the part of the identity of a cell of this kind; only attacks take gradients."""
        if kind != "attack" or self.gradient == "same":
            return self.judge
        return {"judge": self.judge, "gradient": self.gradient}


def _as_precision(value: Any) -> Any:
    return {"judge": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Header:
    """The keys of a suite that need no plugin."""

    robharness: Literal[1]
    name: Name
    title: Title = ""
    data: Any
    canvas: Annotated[int, Field(ge=8, le=LARGEST_CANVAS)] | Literal["none", "auto"] = "auto"
    compat: Compat = "none"
    baseline: str | None = None
    gap: tuple[str, str] | None = None
    gain: dict[str, str] | None = None
    metrics: tuple[str, ...] = ()
    count: Count = "all"
    precision: Annotated[Precision, BeforeValidator(_as_precision), _word_or_record(Judging, Precision)] = Precision()
    compile: Switch = False
    audit: Switch = False
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    check: Check = Check()
    clusters: ClusterPattern | None = None
