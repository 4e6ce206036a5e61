"""A suite with all names resolved: its models, its perturbations, its metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from robharness import specs
from robharness.errors import expanded
from robharness.plugins.calls import call_spec, plugin_code
from robharness.plugins.registry import Entry
from robharness.specs.budget import Budget
from robharness.specs.measures import Measure
from robharness.specs.records import ThreatModel
from robharness.specs.references import Component
from robharness.specs.types import Need, Params
from robharness.suite.baselines import Baseline
from robharness.suite.command_lines import command_line, python_call, relative
from robharness.suite.records import Check, Compat, Count, Precision, Publication


@dataclass(frozen=True, kw_only=True)
class Data:
    """A split of a data set, with the data set's options.

    entry: of the data set, with the fields that depend on its options.
    params: its options; None if it has none.
    split: name of the split.
    limit: number of examples, the first ones of the fixed order; None for all.
    classes: numbers of the classes that logits are restricted to, ascending; "present" for those that occur in the
        split, None for all.
    """

    entry: Entry
    params: Params = None
    split: str
    limit: int | None = None
    classes: tuple[int, ...] | Literal["present"] | None = None

    @property
    def name(self) -> str:
        """Name of the data set and its split, e.g. "mine/digits/test"."""
        return f"{self.entry.name}/{self.split}"

    def open(self, data_root: Path) -> Any:
        """Return what the plugin's `open` returns. Raises what it raises."""
        arguments = (data_root, self.split)
        if self.entry.spec.params is None:
            with plugin_code():
                return self.entry.spec.open(*arguments)
        return call_spec(self.entry.spec.open, self.params, *arguments)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the suite, its plugin's entry and its options.

    entry: its plugin's entry, with the fields that depend on its options and the suite's changes of preprocessing.
    params: its options.
    label: its label in the suite.
    reference: whether slopes compare with it.
    weights: a file given by the suite, or several by name; absolute paths.
    inside: dotted path of the state in that file, or paths by the names of several files.
    strip: prefix that is removed from the state's keys, or prefixes by the names of several files.
    seed: seed of its training, if the suite trains it.
    data: training data by role, if the suite trains it.
    run_of: label that several seeds share.
    clean_at_least: clean accuracy in %; a warning says if the model is below it.
    """

    entry: Entry
    params: Params
    label: str
    reference: bool
    weights: Path | dict[str, Path] | None
    seed: int = 0
    data: Mapping[str, Data] = field(default_factory=dict)
    run_of: str | None = None
    clean_at_least: float | None = None
    inside: str | dict[str, str] | None = None
    strip: str | dict[str, str] | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the suite trains the model; otherwise its weights are files."""
        return self.weights is None and isinstance(self.entry.spec.weights, specs.Train)


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """An attack at one budget, or a corruption at one severity.

    eps: budget of an attack; None for a corruption, and for an attack that searches for the smallest perturbation.
    severity: of a corruption; None for an attack.
    nested: all budgets of a nested attack, ascending; empty if not nested. Only examples that withstood the smaller
        budgets are attacked at this one.
    surrogates: models that a transfer attack is crafted on: one, or the members of an ensemble in the suite's order.
        Empty for the attacked model itself.
    eight_bit: whether its inputs are judged once more, rounded to 256 levels.
    threat: threat model of an attack with these options; None for a corruption.
    depends_on_neighbours: whether the attack's result for an example depends on the others of its block.
    fitted_on: number of examples that an attack is fitted on, the first ones of the fixed order; 0 if it is not fitted.
    audit: the `AuditRole` of an attack that the audit adds; empty for the suite's own.
    qualified: whether the name includes the plugin, because two plugins would have the same name.
    """

    kind: Literal["attack", "corruption"]
    entry: Entry
    params: Params
    eps: Budget | None = None
    severity: int | None = None
    nested: tuple[Budget, ...] = ()
    surrogates: tuple[Model, ...] = ()
    eight_bit: bool = False
    threat: ThreatModel | None = None
    depends_on_neighbours: bool = False
    fitted_on: int = 0
    audit: str = ""
    qualified: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether its images are pre-rendered."""
        return self.kind == "corruption" and getattr(self.entry.spec, "open", None) is not None

    @property
    def is_unbounded(self) -> bool:
        """Whether it is an attack without a budget, which searches for the smallest perturbation."""
        return self.kind == "attack" and self.eps is None

    @property
    def is_ensemble(self) -> bool:
        """Whether its members run in turn on the examples that are still right."""
        return self.kind == "attack" and self.entry.spec.ensemble

    @property
    def is_targeted(self) -> bool:
        """Whether the attack aims at a class of its choice."""
        return self.threat is not None and self.threat.targeted

    @property
    def needs_blocks(self) -> bool:
        """Whether the result of an example depends on the others of its block."""
        return self.entry.spec.randomness == "global" or self.depends_on_neighbours

    @property
    def returned(self) -> Mapping[str, type]:
        """Notes that the plugin returns per example; a member of an ensemble may return some of them."""
        return {**self.entry.spec.notes, **({"target": int} if self.is_targeted else {})}

    @property
    def notes(self) -> Mapping[str, type]:
        """Columns besides the outcome: notes of the plugin, and those that the core adds."""
        return {
            **self.returned,
            **({"success": bool} if self.is_targeted else {}),
            **({"component": str} if self.is_ensemble else {}),
            **({"prediction_8bit": int, "correct_8bit": bool} if self.eight_bit else {}),
        }

    @property
    def source(self) -> str:
        """Label of the surrogate, or those of an ensemble: "A+B"; empty for an attack on the model itself."""
        return source_text(self.surrogates)

    @property
    def measure(self) -> Measure | None:
        """The measure that the budget of an attack bounds; None for a corruption."""
        return self.threat.bound if self.threat is not None else None

    @property
    def norm(self) -> str | None:
        """The name of an attack's norm or measure; None for a corruption."""
        return self.measure.name if self.measure is not None else None

    @property
    def smaller(self) -> tuple[Budget, ...]:
        """Smaller budgets of a nested attack; only examples that withstood them are attacked at this one."""
        return tuple(budget for budget in self.nested if self.eps is not None and budget < self.eps)

    @property
    def name(self) -> str:
        """Name in reports and in `expected`: "fgsm(linf, 1/255)", "pgd(l2, 0.5, steps=10, rel_step=2.5/10)",
        "fmn(l0, 100 values)", "fog(1)".

        Options at their default are left out, unless the field is marked `field(metadata={"shown": True})`.
        """
        changed = changed_fields(self.params)
        fields = dataclasses.fields(self.params) if self.params is not None else ()
        shown = [item.name for item in fields if item.name in changed or item.metadata.get("shown")]
        options = {key: getattr(self.params, key) for key in shown if key != "norm"}
        words = [f"{key}={_shown(value)}" for key, value in options.items()]
        if bool(self.nested) != self.is_ensemble and self.eps is not None:
            words += ["nested" if self.nested else "nested=no"]
        words += [f"source={self.source}"] if self.surrogates else []
        words += ["8 bit"] if self.eight_bit else []
        head: list[str] = [self.norm] if self.norm else []
        head += [self.measure.sized(self.eps)] if self.measure and self.eps is not None else []
        head += [] if self.severity is None else [str(self.severity)]
        spec = self.entry.name if self.qualified else self.entry.spec.name
        return f"{spec}({', '.join([*head, *words])})"

    @property
    def title(self) -> str:
        """The name without budget or severity: "fog"."""
        return dataclasses.replace(self, eps=None, severity=None, nested=()).name.removesuffix("()")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite with all names resolved. Fields without a line here are those of `Header`.

    path: absolute path of its file.
    working_directory: that of the process when it read the file; a plugin may change it later.
    plugin_options: the plugins that it was read with, as `discover` takes them.
    has_command: whether a command line can read it: not a mapping, nor one with live networks.
    settings: values that `--set`, or `overrides` in Python, changed, as KEY=VALUE.
    extended: the files that it extends, the nearest first; absolute paths.
    data: the data set that it measures on.
    audit_attacks: those that the audit adds to the suite's own.
    unfit_audit_attacks: those that plugins declare for the audit, and that do not take the inputs of every model.
    canvas: side of the canvas in pixels, "auto" if the data define it, or None.
    compat: whether images are encoded as the published ones, see `robharness.evaluation.images.encode_jpeg85`.
    baseline: published table, or label of a model, that corruption errors are relative to.
    gap: labels of the two models (or of their runs together) between which the closed gap lies.
    gain: label of a model (or of its runs together) -> the label of its base, over which its gain is.
    expected: the published numbers by their sources, in the suite's order.
    clusters: regular expression of the part of an id that all examples of one cluster share; None if examples are
        independent.
    """

    path: Path
    working_directory: Path = field(default_factory=Path.cwd)
    plugin_options: tuple[str, ...] = ()
    has_command: bool = True
    settings: tuple[str, ...] = ()
    extended: tuple[Path, ...] = ()
    name: str
    title: str
    data: Data
    canvas: int | Literal["auto"] | None
    compat: Compat
    models: tuple[Model, ...]
    perturbations: tuple[Perturbation, ...]
    baseline: Baseline | str | None
    gap: tuple[str, str] | None
    gain: Mapping[str, str] | None
    metrics: tuple[Entry, ...]
    count: Count
    precision: Precision
    compile: bool
    seed: int
    expected: tuple[Publication, ...]
    check: Check
    clusters: str | None = None
    audit: bool = False
    audit_attacks: tuple[Perturbation, ...] = ()
    unfit_audit_attacks: tuple[Perturbation, ...] = ()

    def command(self, verb: str, *words: str) -> str:
        """Return the command line of a verb on this suite, or words on the Python function if there is none.

        words: further words, quoted for a shell; `robharness.planning.commands` adds those of a plan.
        """
        if not self.has_command:
            return python_call(verb, afresh="--fresh" in words)
        return command_line(verb, self.as_given(self.path), self.plugin_options, *words, settings=self.settings)

    def as_given(self, path: Path) -> Path:
        """Return an absolute path for a message: relative to the working directory if the path lies below it."""
        return relative(path, self.working_directory)

    @property
    def reference(self) -> str | None:
        """The label of the model that slopes compare with."""
        return next((model.label for model in self.models if model.reference), None)

    @property
    def protocols(self) -> dict[str, str]:
        """Label -> the protocol of the model's classifier, for models that declare one."""
        return {model.label: found for model in self.models if (found := model.entry.spec.protocol)}

    @property
    def needs(self) -> frozenset[Need]:
        """Stored data that its metrics need besides outcomes."""
        return frozenset().union(*(metric.spec.needs for metric in self.metrics))


def source_text(surrogates: Iterable[Model]) -> str:
    """Return the name of one surrogate or an ensemble of them: the labels, joined by "+"."""
    return "+".join(model.label for model in surrogates)


def unrepresented(metric: Entry, model: Model) -> str:
    """Return why the metric has no features of the model, or an empty text."""
    if not metric.spec.needs & {"features", "views"} or model.entry.spec.features is not None:
        return ""
    return f"{metric.name} needs features, and {model.entry.name} ({model.label}) declares no `features`"


def changed_fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance that differ from their defaults, in order, without runtime ones."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(record) if record is not None else ():
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        value = getattr(record, item.name)
        same = value == default and isinstance(value, bool) == isinstance(default, bool)
        if not item.metadata.get("runtime") and not same:
            changed[item.name] = value
    return changed


def identity_fields(record: Any) -> dict[str, Any]:
    """Return the changed fields of a dataclass instance, and those that hold paths, also at their default.

    The content of a file can change under the same path.
    """
    fields = [item for item in dataclasses.fields(record) if not item.metadata.get("runtime")] if record else []
    changed = changed_fields(record)
    return {
        item.name: getattr(record, item.name)
        for item in fields
        if item.name in changed or _has_path(getattr(record, item.name))
    }


def _has_path(value: Any) -> bool:
    if isinstance(value, Component):
        return _has_path(value.params)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_has_path(getattr(value, item.name)) for item in dataclasses.fields(value))
    if isinstance(value, dict):
        return any(map(_has_path, value.values()))
    return isinstance(value, Path) or (isinstance(value, _SEQUENCES) and any(map(_has_path, value)))


_SEQUENCES = (list, tuple, set, frozenset)


def with_absolute_paths(
    value: Any, folder_of: Callable[[tuple[str | int, ...]], Path], place: tuple[str | int, ...]
) -> Any:
    """Return an option's value with each relative path absolute, and `~` expanded.

    folder_of: returns the folder that a path at a place of the suite is relative to.
    place: of the value in the suite.
    """
    if isinstance(value, Path):
        return folder_of(place) / expanded(value)
    if isinstance(value, Component) or not _has_path(value):  # the options of a component were read by themselves
        return value
    if isinstance(value, _SEQUENCES):
        inner = [with_absolute_paths(each, folder_of, (*place, at)) for at, each in enumerate(value)]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if isinstance(value, dict):
        return {key: with_absolute_paths(inner, folder_of, (*place, key)) for key, inner in value.items()}
    changes = {item.name: with_absolute_paths(getattr(value, item.name), folder_of, (*place, item.name))
               for item in dataclasses.fields(value) if item.init}  # fmt: skip
    return dataclasses.replace(value, **changes)


def _shown(value: Any) -> str:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Component):
        options = ", ".join(f"{key}={_shown(option)}" for key, option in changed_fields(value.params).items())
        return f"{value}({options})" if options else str(value)
    return "+".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
