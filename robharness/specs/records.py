"""The frozen records that plugins yield: models, attacks, corruptions, data sets, metrics.

A field of a record counts for a cell's identity unless it is marked `field(metadata={"runtime": True})`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from robharness.specs.budget import Budget
from robharness.specs.inputs import Clips, InputSpec, Preprocessing
from robharness.specs.protocols import Attack, Corruption, Dataset
from robharness.specs.sources import Download, File, Train
from robharness.specs.types import RESERVED, RUNTIME, Access, Kind, Need, Norm, Params, Randomness

if TYPE_CHECKING:
    from torch import nn

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")


class _Record:
    """What every record shares: its fields are checked, so that a mistake is a problem of its plugin alone."""

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            words, fits = _CHECKS.get(item.name, ("", lambda value: True))
            value = getattr(self, item.name)
            if not fits(value) and not (value is None and item.default is None):
                raise ValueError(f"{type(self).__name__}: {item.name}={value!r} must be {words}")


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Record):
    """A model: how to build it, and all that a fair measurement needs to know about it.

    name: within the plugin, e.g. "resnet50". labels: the label space, which must equal the data set's.
    input: of a video model that of one clip; `preprocessing.clips` says how many a video has.
    build: (params, weights) -> a network that maps float inputs in [0, 1], (N, *input.shape), to logits (N, classes).
        It only loads: it never trains and never downloads. Where several files are declared, or given by a suite,
        `weights` maps their names to paths.
    weights: where the file is, or the files by name, or how to train them; the core resolves them.
    preprocessing: None where the data already have the input's shape. params: the dataclass of options that a suite may
    set. given: params -> those fields of this record that depend on them, e.g. {"input": ...}.
    features: the submodule whose output is the representation.
    expected: published numbers, e.g. {"clean": 0.761}. alternatives: other ways to use the weights that `verify` tries:
    a label -> what a suite would say beside `model:`, e.g. {"BGR": {"preprocessing": {"channel_order": "bgr"}}}.
    revision: raise it when `build` starts to give another network.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    input: InputSpec
    labels: str
    build: Callable[[Params, Any], nn.Module] = field(metadata=RUNTIME)
    weights: File | Download | Train | Mapping[str, File | Download] | None = field(default=None, metadata=RUNTIME)
    preprocessing: Preprocessing | None = None
    params: type | None = field(default=None, metadata=RUNTIME)
    given: Callable[[Params], Mapping[str, Any]] | None = field(default=None, metadata=RUNTIME)
    features: str | None = field(default=None, metadata=RUNTIME)
    expected: Mapping[str, float] = field(default_factory=dict, metadata=RUNTIME)
    alternatives: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=RUNTIME)
    licence: str = field(default="", metadata=RUNTIME)
    paper: str = field(default="", metadata=RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips is not None and self.input.kind == "video" and self.input.shape[1] != self.clips.length:
            frames = f"{self.input.shape[1]} frames in its input and {self.clips.length} in a clip"
            raise ValueError(f"ModelSpec: {self.name} has {frames}; both are those of one clip")

    @property
    def clips(self) -> Clips | None:
        """The clips of a video that the model sees; None if it sees whole examples."""
        return self.preprocessing.clips if self.preprocessing else None


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """What an attack promises to stay within: a ball of radius eps around the input, and the box [0, 1].

    targeted: it wants a class of its choice instead of any wrong one, and returns the note "target": that class, or -1
    where it wants none.
    """

    norm: Norm
    targeted: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Passes per example that one cell needs, beside the one that judges it.

    forwards: forward passes alone. gradients: forward and backward passes.
    shared_gradients: gradients at the clean point, paid once for all budgets.
    """

    forwards: int = 0
    gradients: int = 0
    shared_gradients: int = 0


@dataclass(frozen=True, kw_only=True)
class AttackSpec(_Record):
    """An attack.

    access: what it may ask of the model: gradients, scores (logits), decisions, or features and their gradients alone.
    params: its options, without eps. threat: what ball it stays in. cost: what it spends, per example.
    build: params -> an `Attack`; for an ensemble, a mapping of names to attacks, each of which gets the examples that
        withstood those before it.
    randomness: "example" draws from the `rng` it is given, "global" from global generators, "none" draws nothing.
    minimal: it looks for the smallest perturbation, so that a suite may leave out eps, which is infinite then.
    ensemble: see `build`; only examples that are right count, and budgets are nested unless a suite says otherwise.
    blocks: params -> whether examples need their neighbours: it gets whole blocks of 16, the same ones in every run.
    advise: (params, eps) -> sentences to show in a plan, e.g. that the steps cannot reach eps; eps None without one.
    notes: per-example columns that it returns in `Perturbed.notes`, name -> int, float, bool or str.
    alarms: the notes whose total a report warns of where it is above 0.
    revision: raise it when the attack starts to give other results.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    access: Access = field(metadata=RUNTIME)
    params: type = field(metadata=RUNTIME)
    threat: Callable[[Params], ThreatModel] = field(metadata=RUNTIME)
    cost: Callable[[Params], Cost] = field(metadata=RUNTIME)
    build: Callable[[Params], Attack | Mapping[str, Attack]] = field(metadata=RUNTIME)
    randomness: Randomness = "example"
    inputs: frozenset[Kind] = field(default=frozenset({"image", "video"}), metadata=RUNTIME)
    minimal: bool = field(default=False, metadata=RUNTIME)
    ensemble: bool = field(default=False, metadata=RUNTIME)
    blocks: Callable[[Params], bool] | None = field(default=None, metadata=RUNTIME)
    alarms: tuple[str, ...] = field(default=(), metadata=RUNTIME)
    advise: Callable[[Params, Budget | None], Sequence[str]] | None = field(default=None, metadata=RUNTIME)
    notes: Mapping[str, type] = field(default_factory=dict, metadata=RUNTIME)
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class CorruptionSpec(_Record):
    """A corruption of 8-bit pictures; the same protocol as an attack, without access to the model.

    group: e.g. "noise"; slopes are given per group. severities: those that a suite may ask for. open: instead of
    `build` for pictures that were corrupted before: (params, data root) -> a `Corruption`, which finds them by id;
    raises `Missing` where they are not there, before anything runs. canvas: their side in pixels, where it is fixed.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    group: str = field(metadata=RUNTIME)
    build: Callable[[Params], Corruption] | None = field(default=None, metadata=RUNTIME)
    open: Callable[[Params, Path], Corruption] | None = field(default=None, metadata=RUNTIME)
    canvas: int | None = field(default=None, metadata=RUNTIME)
    severities: tuple[int, ...] = field(default=(1, 2, 3, 4, 5), metadata=RUNTIME)
    params: type | None = field(default=None, metadata=RUNTIME)
    randomness: Randomness = "example"
    inputs: frozenset[Kind] = field(default=frozenset({"image"}), metadata=RUNTIME)
    notes: Mapping[str, type] = field(default_factory=dict, metadata=RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.build is None) == (self.open is None):
            raise ValueError("CorruptionSpec: one of build and open is needed, and not both")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(_Record):
    """A data set.

    labels: the label space, e.g. "imagenet-1k". splits: empty where any name may be one, of a folder, say. open: (data
    root, split) -> a `Dataset`; raises `Missing` where the data are not there. revision: raise it when the pixels of an
    id change.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    labels: str
    splits: tuple[str, ...] = field(metadata=RUNTIME)
    open: Callable[[Path, str], Dataset] = field(metadata=RUNTIME)
    kind: Kind = field(default="image", metadata=RUNTIME)
    licence: str = field(default="", metadata=RUNTIME)
    paper: str = field(default="", metadata=RUNTIME)
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class MetricSpec(_Record):
    """A number per model, computed from stored results.

    compute: `Results` -> {label: value}, where a value is a number or a `MetricResult`. needs: what a suite that asks for
    it must store beside outcomes. "features": the representation of the clean examples, `Results.features`; models must
    declare `features`. "views": that of the corrupted examples, too, `Results.views`; there must be a corruption.
    "distances": nothing more, but there must be an attack without a budget, `CellResult.distances`.
    """

    name: str
    summary: str
    compute: Callable[[Any], Mapping[str, float | MetricResult]]
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """What a metric may give instead of a bare number.

    value: the number that tables show; NaN where there is none, and unavailable_reason: why, a warning of the report. details: what
    it is made of, by name, for the JSON report: numbers, texts, None, and lists, mappings and arrays of them; e.g.
    {"by_class": {"0": 0.5, "1": 0.75}}.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    unavailable_reason: str = ""


Spec = ModelSpec | AttackSpec | CorruptionSpec | DatasetSpec | MetricSpec

Check = tuple[str, Callable[[Any], bool]]


def _a(words: str, *types: type) -> Check:
    return words, lambda value: isinstance(value, types)


def _one_of(literal: Any) -> Check:
    return f"one of {', '.join(get_args(literal))}", lambda value: value in get_args(literal)


_FUNCTION: Check = ("a function", callable)
_CHECKS: dict[str, Check] = {
    "name": ("lower-case letters, digits and . _ - /", lambda v: isinstance(v, str) and bool(_NAME.fullmatch(v))),
    "summary": _a("a text", str),
    "labels": _a("a text", str),
    "group": _a("a text", str),
    "revision": _a("an integer", int),
    "input": _a("an InputSpec", InputSpec),
    "weights": (
        "a File, a Download or a Train, or Files and Downloads by name",
        lambda v: (
            isinstance(v, Train)
            or all(isinstance(part, File | Download) for part in (v.values() if isinstance(v, Mapping) else [v]))
        ),
    ),
    "preprocessing": _a("a Preprocessing", Preprocessing),
    "severities": _a("a tuple", tuple),
    **dict.fromkeys(("splits", "alarms"), _a("a tuple", tuple)),
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
        lambda v: isinstance(v, Mapping) and not set(v) & set(RESERVED) and set(v.values()) <= {int, float, bool, str},
    ),
    **dict.fromkeys(("minimal", "ensemble"), _a("true or false", bool)),
    **dict.fromkeys(("build", "threat", "cost", "open", "compute", "advise", "blocks", "given"), _FUNCTION),
}
