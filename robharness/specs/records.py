"""The frozen records that plugins yield: models, attacks, corruptions, data sets, metrics.

A field of a record is part of a cell's identity unless it is marked `field(metadata={"runtime": True})`. A field that
holds a function may name it as "module:function" instead; the module is imported at the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness.specs.budget import Budget
from robharness.specs.checks import Record
from robharness.specs.conventions import LABEL_SPACES
from robharness.specs.inputs import Clips, InputSpec, Preprocessing
from robharness.specs.measures import NORMS, Measure
from robharness.specs.protocols import Attack, Corruption, Dataset
from robharness.specs.published import Download
from robharness.specs.sources import File, Train
from robharness.specs.types import RUNTIME, Access, Kind, Need, Norm, Params, Randomness

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Record):
    """A model: how to build it, and its properties that a measurement depends on.

    name: name within the plugin, e.g. "resnet50".
    summary: one line for lists.
    input: input of the network; for a video model that of one clip.
    labels: label space, which must equal that of the data set, e.g. "imagenet-1k"; "none" for an encoder alone, whose
        output is its representation; "instances" if every example is a class of its own.
    build: (params, weights) -> a network that maps float inputs in [0, 1], (N, *input.shape), to logits (N, classes).
        It loads, and never trains or downloads. `weights` is a path, or a mapping of names to paths if several files
        are declared or given by a suite.
    weights: the file, the files by name, or the training that makes the weights; the core resolves them to paths.
    preprocessing: from the data set's pixels to the input; None if the data have the input's shape.
    params: dataclass of the options that a suite may set.
    given: params -> the fields of this record that depend on them, e.g. {"input": ...}.
    trunk: (params, weights) -> the network without its classifier, from inputs to the representation (N, D). It is
        built instead of `build` where another model uses this one as an encoder, whose weights need no classifier.
    features: name of the submodule whose output is the representation; empty for the network's own output.
    expected: published numbers, e.g. {"clean": 0.761}.
    protocol: protocol by which the classifier was fitted on the representation, in a few words, e.g. "SLF"; reports say
        which models have which. Empty if there is nothing to tell apart.
    alternatives: other uses of the weights that `verify` tries: label -> keys that a suite would set beside `model:`,
        e.g. {"BGR": {"preprocessing": {"channel_order": "bgr"}}}.
    licence: licence of the weights.
    paper: source of the weights.
    revision: raise it when `build` starts to return another network.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    input: InputSpec
    labels: str
    build: Callable[[Params, Any], nn.Module] | str = field(metadata=RUNTIME)
    weights: File | Download | Train | Mapping[str, File | Download] | None = field(default=None, metadata=RUNTIME)
    preprocessing: Preprocessing | None = None
    params: type | None = field(default=None, metadata=RUNTIME)
    given: Callable[[Params], Mapping[str, Any]] | str | None = field(default=None, metadata=RUNTIME)
    trunk: Callable[[Params, Any], nn.Module] | str | None = field(default=None, metadata=RUNTIME)
    features: str | None = field(default=None, metadata=RUNTIME)
    expected: Mapping[str, float] = field(default_factory=dict, metadata=RUNTIME)
    protocol: str = field(default="", metadata=RUNTIME)
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


class ThreatModelError(ValueError):
    """A threat model that the core does not have, such as a ball of an unknown norm."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """The set of inputs that an attack may return: those in [0, 1] whose perturbation has a size of at most eps.

    norm: norm that is the size, so that the set is a ball around the input.
    measure: measure of the size, instead of a norm.
    targeted: whether the attack aims at a class of its choice. It then returns the note "target": that class, or -1 for
        examples without one.
    """

    norm: Norm | None = None
    measure: Measure | None = None
    targeted: bool = False

    def __post_init__(self) -> None:
        if (self.norm is None) == (self.measure is None):
            raise ThreatModelError("ThreatModel: one of norm and measure is needed, and not both")
        if self.measure is None and self.norm not in NORMS:
            known = f"one of {', '.join(NORMS)}; a plugin's own measure is a `Measure`"
            raise ThreatModelError(f"ThreatModel: norm={self.norm!r} must be {known}")
        if self.measure is not None and not isinstance(self.measure, Measure):
            raise ThreatModelError(f"ThreatModel: measure={self.measure!r} must be a Measure")
        if self.measure is not None and self.measure.name in NORMS:
            raise ThreatModelError(f"ThreatModel: the measure '{self.measure.name}' has the name of a norm")
        if type(self.targeted) is not bool:
            raise ValueError(f"ThreatModel: targeted={self.targeted!r} must be true or false")

    @property
    def bound(self) -> Measure:
        """The measure that a budget bounds, that of the norm if there is one."""
        return NORMS[self.norm] if self.measure is None else self.measure  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Passes per example that one cell needs, besides the judging pass, and those of a fit.

    forwards: forward passes alone.
    gradients: forward and backward passes.
    shared_gradients: gradients at the clean point, computed once for all budgets.
    fit_forwards: forward passes alone of a fit, see `AttackSpec.fitted_on`: not per example, but passes of one example
        each in all, once per model and budget.
    fit_gradients: forward and backward passes of a fit, in all likewise.
    """

    forwards: int = 0
    gradients: int = 0
    shared_gradients: int = 0
    fit_forwards: int = 0
    fit_gradients: int = 0

    def __post_init__(self) -> None:
        for key in ("forwards", "gradients", "shared_gradients", "fit_forwards", "fit_gradients"):
            if type(value := getattr(self, key)) is not int or value < 0:
                raise ValueError(f"Cost: {key}={value!r} must be a whole number of at least 0")


@dataclass(frozen=True, kw_only=True)
class AttackSpec(Record):
    """An attack.

    name: name within the plugin, e.g. "pgd".
    summary: one line for lists.
    access: what the attack may request from the model: gradients, scores (logits), decisions, or features and their
        gradients.
    params: dataclass of the options, without eps.
    threat: params -> its norm or measure, and whether it is targeted.
    cost: params -> its passes per example.
    build: params -> an `Attack`. For an ensemble: a mapping of names to attacks, each of which gets the examples that
        withstood those before it.
    randomness: "example" draws from the given `rng`, "global" from global generators, "none" draws nothing.
    inputs: kinds of input that it takes.
    refuses: (params, input of a model) -> why the attack does not take such inputs, as the rest of a sentence, or "".
    minimal: whether it searches for the smallest perturbation, so that a suite may leave out eps, which is then inf;
        params -> whether it does if that depends on the options.
    ensemble: whether `build` returns several attacks. Only examples that are right count, and budgets are nested unless
        a suite disables it.
    blocks: params -> whether an example's result depends on its neighbours. If so, it gets whole blocks of 16 examples,
        the same ones in every run.
    fitted_on: params -> number of examples that the attack is fitted on, the first ones in the data's fixed order. The
        object that `build` returns then has a method `fit`, see `Attack`. Not for randomness "global".
    runs_to_end: params -> whether the search for an example goes on after the model is wrong, so that its result can
        fool other models; None if that is not known.
    alarms: notes whose total, if above 0, is a warning of the report.
    travel: (params, eps) -> the length of all steps of one start together, or None if nothing bounds it. The plan warns
        of steps that cannot reach eps. It is not called without a budget.
    advise: (params, eps) -> sentences for the plan, e.g. that an option has no effect. eps is None without a budget.
    notes: per-example columns in `Perturbed.notes`: name -> int, float, bool or str.
    revision: raise it when the attack starts to return other results.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    access: Access = field(metadata=RUNTIME)
    params: type = field(metadata=RUNTIME)
    threat: Callable[[Params], ThreatModel] | str = field(metadata=RUNTIME)
    cost: Callable[[Params], Cost] | str = field(metadata=RUNTIME)
    build: Callable[[Params], Attack | Mapping[str, Attack]] | str = field(metadata=RUNTIME)
    randomness: Randomness = "example"
    inputs: frozenset[Kind] = field(default=frozenset({"image", "video"}), metadata=RUNTIME)
    refuses: Callable[[Params, InputSpec], str] | str | None = field(default=None, metadata=RUNTIME)
    minimal: bool | Callable[[Params], bool] | str = field(default=False, metadata=RUNTIME)
    ensemble: bool = field(default=False, metadata=RUNTIME)
    blocks: Callable[[Params], bool] | str | None = field(default=None, metadata=RUNTIME)
    fitted_on: Callable[[Params], int] | str | None = field(default=None, metadata=RUNTIME)
    runs_to_end: Callable[[Params], bool] | str | None = field(default=None, metadata=RUNTIME)
    alarms: tuple[str, ...] = field(default=(), metadata=RUNTIME)
    travel: Callable[[Params, Budget], float | Fraction | None] | str | None = field(default=None, metadata=RUNTIME)
    advise: Callable[[Params, Budget | None], Sequence[str]] | str | None = field(default=None, metadata=RUNTIME)
    notes: Mapping[str, type] = field(default_factory=dict, metadata=RUNTIME)
    revision: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        undeclared = [name for name in self.alarms if name not in self.notes]
        if undeclared:
            known = f"; declared: {', '.join(self.notes)}" if self.notes else ""
            raise ValueError(f"AttackSpec: the alarm '{undeclared[0]}' is not declared in `notes`{known}")
        if self.fitted_on is not None and self.randomness == "global":
            raise ValueError("AttackSpec: an attack with `fitted_on` must not have randomness='global'")

    def is_minimal(self, params: Params) -> bool:
        """Return whether the attack searches for the smallest perturbation with these options."""
        return self.minimal(params) if callable(self.minimal) else bool(self.minimal)


@dataclass(frozen=True, kw_only=True)
class CorruptionSpec(Record):
    """A corruption of 8-bit images, with the protocol of an attack but without access to the model.

    name: name within the plugin, e.g. "fog".
    summary: one line for lists.
    group: e.g. "noise"; slopes are reported per group.
    build: params -> a `Corruption`.
    open: (params, data root) -> a `Corruption` that finds pre-rendered images by id, instead of `build`. It raises
        `MissingResource` if they are missing, before anything runs.
    canvas: side of the images in pixels, if it is fixed.
    smallest: shortest side, in pixels, of images that it takes.
    channels: numbers of channels that it takes; any if None.
    severities: severities that a suite may use.
    params: dataclass of the options that a suite may set.
    randomness: "example" draws from the given `rng`, "global" from global generators, "none" draws nothing.
    inputs: kinds of input that it takes.
    notes: per-example columns in `Perturbed.notes`: name -> int, float, bool or str.
    revision: raise it when the corruption starts to return other images.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    group: str = field(metadata=RUNTIME)
    build: Callable[[Params], Corruption] | str | None = field(default=None, metadata=RUNTIME)
    open: Callable[[Params, Path], Corruption] | str | None = field(default=None, metadata=RUNTIME)
    canvas: int | None = field(default=None, metadata=RUNTIME)
    smallest: int = field(default=1, metadata=RUNTIME)
    channels: frozenset[int] | None = field(default=None, metadata=RUNTIME)
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
class DatasetSpec(Record):
    """A data set.

    name: name within the plugin, e.g. "imagenet".
    summary: one line for lists.
    labels: label space, e.g. "imagenet-1k".
    splits: names of the splits; empty if any name may be one, e.g. of a folder.
    open: (data root, split) -> a `Dataset`; with `params`, (params, data root, split). It raises `MissingResource` if
        the data are missing.
    kind: kind of its examples.
    classes: number of classes of the label space; by default that of a well-known one, or else the largest label + 1.
    params: dataclass of the options that a suite may set.
    given: params -> the fields of this record that depend on them, e.g. {"labels": ...}.
    masks: published subsets of the label space by name, which `classes:` of a suite may name: the numbers of their
        classes. One with the data set's own name holds all classes that the data set has.
    examples: number of examples of the whole split by its name, as published, so that `plan` knows it without the data.
    licence: licence of the data.
    paper: source of the data.
    revision: raise it when the pixels of an id change.
    """

    name: str
    summary: str = field(metadata=RUNTIME)
    labels: str
    splits: tuple[str, ...] = field(metadata=RUNTIME)
    open: Callable[..., Dataset] | str = field(metadata=RUNTIME)
    kind: Kind = field(default="image", metadata=RUNTIME)
    classes: int | None = field(default=None, metadata=RUNTIME)
    params: type | None = field(default=None, metadata=RUNTIME)
    given: Callable[[Params], Mapping[str, Any]] | str | None = field(default=None, metadata=RUNTIME)
    masks: Mapping[str, Sequence[int]] = field(default_factory=dict, metadata=RUNTIME)
    examples: Mapping[str, int] = field(default_factory=dict, metadata=RUNTIME)
    licence: str = field(default="", metadata=RUNTIME)
    paper: str = field(default="", metadata=RUNTIME)
    revision: int = 1

    @property
    def known_classes(self) -> int | None:
        """The number of classes, as declared or of a well-known label space."""
        return LABEL_SPACES.get(self.labels) if self.classes is None else self.classes


@dataclass(frozen=True, kw_only=True)
class ComponentSpec(Record):
    """A component that options of other plugins name, such as an objective, a network or an augmentation.

    name: name within the plugin, which no component of another role has, e.g. "vicreg".
    role: e.g. "objective"; the plugin that takes components says which roles it knows.
    summary: one line for lists.
    build: (params, ...) -> the component, with the further arguments that the plugin that takes it documents.
    params: dataclass of the options that a suite may set beside the name.
    inputs: kinds of input that it takes.
    paper: source.
    revision: raise it when the component starts to act differently.
    """

    name: str
    role: str
    summary: str = field(metadata=RUNTIME)
    build: Callable[..., Any] | str = field(metadata=RUNTIME)
    params: type | None = field(default=None, metadata=RUNTIME)
    inputs: frozenset[Kind] = field(default=frozenset({"image", "video"}), metadata=RUNTIME)
    paper: str = field(default="", metadata=RUNTIME)
    revision: int = 1


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Record):
    """A number per model, computed from stored results.

    name: name within the plugin, e.g. "clean-error".
    summary: one line for lists.
    compute: `Results` -> {label: value}, where a value is a number or a `MetricResult`.
    needs: stored data besides outcomes. "features": `Results.features`, of the clean examples; models must declare
        `features`. "views": also `Results.views`, of the corrupted examples; the suite must have a corruption.
        "distances": `CellResult.distances`; the suite must have an attack without a budget.
    """

    name: str
    summary: str
    compute: Callable[[Any], Mapping[str, float | MetricResult]] | str
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A number of a metric, with details.

    value: the number in tables; NaN if it is not available.
    details: parts of the number for the JSON report, by name: numbers, texts, None, and lists, mappings and arrays of
        them; e.g. {"by_class": {"0": 0.5, "1": 0.75}}.
    unavailable_reason: why the value is NaN; a warning of the report.
    """

    value: float
    details: Mapping[str, Any] = field(default_factory=dict)
    unavailable_reason: str = ""


Spec = ModelSpec | AttackSpec | CorruptionSpec | DatasetSpec | ComponentSpec | MetricSpec
