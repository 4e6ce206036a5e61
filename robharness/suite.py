"""Read a suite: one YAML file that says which models are measured on which data under which perturbations.

`python -m robharness.suite` prints the JSON Schema for editors.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, WithJsonSchema

from robharness import yaml
from robharness.errors import PluginNotFound, SuiteError, UserError, did_you_mean
from robharness.plugins import Entry, Registry
from robharness.specs import Budget, Norm, Params

Count = Literal["all", "robust"]
DEFAULT_CANVAS = 224


def _as_tuple(value: Any) -> Any:
    if value == []:
        raise ValueError("at least one is needed")
    return tuple(value) if isinstance(value, list) else (value,)


def _one_or_list(item: Any) -> WithJsonSchema:
    schema = TypeAdapter(item).json_schema()
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]})


Budgets = Annotated[tuple[Annotated[Budget, Field(gt=0)], ...], BeforeValidator(_as_tuple), _one_or_list(Budget)]
Severities = Annotated[tuple[int, ...], BeforeValidator(_as_tuple), _one_or_list(int)]


@dataclass(frozen=True, kw_only=True)
class DataRef:
    """`data:` the data set, its split and how many examples of it."""

    name: str
    split: str
    limit: Annotated[int, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """One of `models:`. Other keys are the plugin's own options."""

    model: str
    label: str | None = None
    reference: bool = False
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class AttackRef:
    """One of `attacks:`. Other keys are the plugin's own options."""

    attack: str
    eps: Budgets
    nested: bool = False


@dataclass(frozen=True, kw_only=True)
class CorruptionRef:
    """One of `corruptions:`. Other keys are the plugin's own options."""

    corruption: str
    severity: Severities


@dataclass(frozen=True, kw_only=True)
class Check:
    """`check:` when a result counts as a regression: points of accuracy, and the level of the test."""

    tolerance: Annotated[float, Field(ge=0)] = 0.5
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01


@dataclass(frozen=True, kw_only=True)
class Header:
    """The keys of a suite that need no plugin."""

    robharness: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str = ""
    data: DataRef
    canvas: Annotated[int, Field(ge=8)] | Literal["none", "auto"] = "auto"
    metrics: tuple[str, ...] = ()
    count: Count = "all"
    precision: Literal["float32", "tf32"] = "float32"
    seed: Annotated[int, Field(ge=0)] = 0
    check: Check = Check()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the suite, its plugin's entry and its options. weights: a file given by the suite, absolute."""

    entry: Entry
    params: Params
    label: str
    reference: bool
    weights: Path | None


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """An attack at one budget, or a corruption at one severity.

    nested: only examples that withstood the smaller budgets are attacked at this one; smaller: which those are.
    """

    kind: Literal["attack", "corruption"]
    entry: Entry
    params: Params
    strength: Budget | int
    nested: bool = False
    smaller: tuple[Budget, ...] = ()

    @property
    def norm(self) -> Norm | None:
        """The norm of an attack's threat model; None for a corruption."""
        return self.entry.spec.threat(self.params).norm if self.kind == "attack" else None

    @property
    def name(self) -> str:
        """For people, reports and `expected`: "fgsm(linf, 1/255)", "pgd(l2, 0.5, steps=10, rel_step=2.5/10)", "fog(1)".

        Options at their default are left out, unless the field is marked `field(metadata={"shown": True})`.
        """
        changed = changed_fields(self.params)
        fields = dataclasses.fields(self.params) if self.params is not None else ()
        shown = [item.name for item in fields if item.name in changed or item.metadata.get("shown")]
        options = {key: getattr(self.params, key) for key in shown if key != "norm"}
        words = [f"{key}={_shown(value)}" for key, value in options.items()]
        words += ["nested"] if self.nested else []
        head = [self.norm] if self.norm else []
        return f"{self.entry.spec.name}({', '.join([*head, str(self.strength), *words])})"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite whose every name is resolved. canvas: side in pixels, or None.

    expected: label -> {cell name: published accuracy in percent}; expected_source: where they stand.
    """

    path: Path
    name: str
    title: str
    data: DataRef
    dataset: Entry
    canvas: int | None
    models: tuple[Model, ...]
    perturbations: tuple[Perturbation, ...]
    metrics: tuple[Entry, ...]
    count: Count
    precision: str
    seed: int
    expected: Mapping[str, Mapping[str, float]]
    expected_source: str
    check: Check

    @property
    def reference(self) -> str | None:
        """The label of the model that slopes compare with."""
        return next((model.label for model in self.models if model.reference), None)


def changed_fields(record: Any) -> dict[str, Any]:
    """The fields of a dataclass instance that differ from their defaults, in order, without runtime ones."""
    changed: dict[str, Any] = {}
    for item in dataclasses.fields(record) if record is not None else ():
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        value = getattr(record, item.name)
        if not item.metadata.get("runtime") and not (type(value) is type(default) and value == default):
            changed[item.name] = value
    return changed


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def load(source: str | Path | Mapping[str, Any], registry: Registry, *, models_follow: bool = False) -> Suite:
    """The suite in this YAML file (or mapping), checked against the plugins.

    models_follow: the caller adds models of its own, so that the suite may have none.
    Raises SuiteError with all that is wrong at once, each line with its place.
    """
    if isinstance(source, Mapping):
        path, text = Path.cwd() / "<mapping>", json.dumps(dict(source), default=str, indent=1)
        shown, again = "<mapping>", "call robharness.plan with it"
    else:
        path, shown = Path(source), str(source)
        again = f"type: robharness plan {shown}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(f"{shown}: cannot read the suite: {reason}. See: ls {path.parent}") from None
    reader = _Reader(yaml.parse(text), registry, models_follow)
    suite = reader.suite(path.absolute())
    if reader.errors:
        errors = [
            f"{shown}:{line}:{column}: {'.'.join(map(str, where)) + ': ' if where else ''}{sentence}"
            for line, column, where, sentence in sorted(set(reader.errors), key=lambda error: (error[:2], error[3]))
        ]
        raise SuiteError(errors, f"Mend the suite, then {again}")
    assert suite is not None
    return suite


@cache
def _adapter(record: type) -> TypeAdapter[Any]:
    return TypeAdapter(record)


_LISTS = ("models", "attacks", "corruptions")


class _Reader:
    """From plain data to a Suite, collecting errors with their places instead of raising the first."""

    def __init__(self, document: yaml.Document, registry: Registry, models_follow: bool) -> None:
        self.document, self.registry, self.models_follow = document, registry, models_follow
        self.errors = list(document.errors)

    def error(self, path: yaml.Path, sentence: str, *, at_key: bool = False) -> None:
        places = self.document.keys if at_key else self.document.values
        at = path
        while at not in places and at:
            at, places = at[:-1], self.document.values
        self.errors.append((*places.get(at, (1, 1)), path, sentence))

    def suite(self, path: Path) -> Suite | None:
        raw = self.document.data
        if not isinstance(raw, dict):
            if not self.errors:
                self.error((), "a suite is a mapping of keys; see docs/reference/suite.md")
            return None
        known = [item.name for item in dataclasses.fields(Header)]
        header = self.record(Header, {key: raw[key] for key in raw if key in known}, ())
        for key in raw:
            if key not in (*known, *_LISTS, "expected"):
                self.unknown((key,), key, [*known, *_LISTS, "expected"])
        self.nested_unknown(raw)
        dataset = self.dataset(raw.get("data"))
        models = [model for at, entry in self.items(raw, "models") for model in self.model(at, entry, path)]
        perturbations = [p for at, entry in self.items(raw, "attacks") for p in self.attack(at, entry)]
        perturbations += [p for at, entry in self.items(raw, "corruptions") for p in self.corruption(at, entry)]
        metrics = self.metrics(raw.get("metrics"))
        if not raw.get("models") and not self.models_follow:
            self.error(("models",), "a suite needs at least one model", at_key=True)
        canvas = self.canvas(header, bool(raw.get("corruptions")))
        self.fit(models, perturbations, dataset)
        self.unique(models, perturbations)
        expected, expected_source = self.expected(raw, models, perturbations)
        if header is None or dataset is None or self.errors:
            return None
        return Suite(
            path=path,
            **{key: getattr(header, key) for key in ("name", "title", "data", "count", "precision", "seed", "check")},
            dataset=dataset,
            canvas=canvas,
            models=tuple(model for _, model in models),
            perturbations=tuple(perturbation for _, perturbation in perturbations),
            metrics=tuple(metrics),
            expected=expected,
            expected_source=expected_source,
        )

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, cls: type, raw: dict[str, Any], path: yaml.Path) -> Any:
        """An instance of the dataclass, or None with the errors noted; unknown keys are the caller's affair."""
        try:
            return _adapter(cls).validate_json(json.dumps(raw), strict=True)  # strict: `true` is no 1, "5" no 5
        except ValidationError as error:
            for item in error.errors():
                self.invalid(item, path)
        except Exception as error:  # a plugin's record may raise anything
            self.error(path, f"the options {cls.__name__} cannot be read: {type(error).__name__}: {error}")
        return None

    def invalid(self, item: Any, path: yaml.Path) -> None:
        where = path
        for part in item["loc"]:
            if (*where, part) in self.document.values:
                where = (*where, part)
        value, context = item.get("input"), item.get("ctx", {})
        sentence = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            self.error(where, f"missing key '{item['loc'][-1]}'")
        elif item["type"] == "literal_error":
            allowed = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            self.error(where, f"{value!r} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}")
        elif isinstance(value, dict | list):
            self.error(where, sentence)
        else:
            self.error(where, sentence if sentence.startswith(repr(value)) else f"{sentence}; got {value!r}")

    def unknown(self, path: yaml.Path, key: str, known: Sequence[str]) -> None:
        self.error(
            path, f"unknown key '{key}'{did_you_mean(key, list(known)) or '; known: ' + ', '.join(known)}", at_key=True
        )

    def nested_unknown(self, raw: dict[str, Any]) -> None:
        for key, cls in (("data", DataRef), ("check", Check)):
            known = [item.name for item in dataclasses.fields(cls)]
            for name in raw[key] if isinstance(raw.get(key), dict) else ():
                if name not in known:
                    self.unknown((key, name), name, known)

    def items(self, raw: dict[str, Any], key: str) -> Iterator[tuple[yaml.Path, dict[str, Any]]]:
        noun, listed = key.removesuffix("s"), raw.get(key, [])
        if not isinstance(listed, list):
            self.error((key,), f"'{key}' is a list of mappings")
            return
        for index, entry in enumerate(listed):
            if not isinstance(entry, dict):
                self.error((key, index), f"one of '{key}' is a mapping such as {{{noun}: NAME}}; got {entry!r}")
            elif noun not in entry:
                self.error((key, index), f"missing key '{noun}'")
            elif not isinstance(entry[noun], str):
                self.error((key, index, noun), f"the name of one {noun} goes here; got {entry[noun]!r}")
            else:
                yield (key, index), entry

    def entry(self, kind: str, name: Any, path: yaml.Path) -> Entry | None:
        """The plugins' entry of that name; what is no text is another check's affair."""
        try:
            return self.registry.find(kind, name) if isinstance(name, str) else None
        except PluginNotFound as error:
            self.error(path, str(error))
            return None

    def entries(self, kind: str, ref: type, raw: dict[str, Any], path: yaml.Path) -> Iterator[tuple[Entry, Any, Any]]:
        """The plugins' entries that one of `models:` and so on means, with its record and the plugin's params.

        A pattern such as mine/* means all that match.
        """
        noun = kind.removesuffix("s")
        every: dict[str, Entry] = getattr(self.registry, kind)
        own = [item.name for item in dataclasses.fields(ref)]
        reference = self.record(ref, {key: raw[key] for key in raw if key in own}, path)
        matched = [every[name] for name in every if name == raw[noun] or fnmatch.fnmatchcase(name, raw[noun])]
        if not matched:
            self.entry(kind, raw[noun], (*path, noun))
        for entry in matched:
            cls = entry.spec.params
            known = [item.name for item in dataclasses.fields(cls)] if cls is not None else []
            for key in raw:
                if key not in own and key not in known:
                    self.unknown((*path, key), key, [*own, *known])
            before = len(self.errors)
            params = None if cls is None else self.record(cls, {key: raw[key] for key in raw if key in known}, path)
            if reference is not None and len(self.errors) == before:
                yield entry, reference, params

    # --- the parts of a suite ----------------------------------------------------------------------------------

    def dataset(self, raw: Any) -> Entry | None:
        if not isinstance(raw, dict):
            return None
        entry, split = self.entry("datasets", raw.get("name"), ("data", "name")), raw.get("split")
        if entry is not None and isinstance(split, str) and split not in entry.spec.splits:
            splits = list(entry.spec.splits)
            sentence = f"{entry.name} has no split '{split}'; it has {', '.join(splits)}"
            self.error(("data", "split"), sentence + did_you_mean(split, splits))
        return entry

    def metrics(self, raw: Any) -> list[Entry]:
        names = raw if isinstance(raw, list) else []
        return [entry for i, name in enumerate(names) if (entry := self.entry("metrics", name, ("metrics", i)))]

    def model(self, path: yaml.Path, raw: dict[str, Any], suite: Path) -> Iterator[tuple[yaml.Path, Model]]:
        for entry, ref, params in self.entries("models", ModelRef, raw, path):
            weights = suite.parent / ref.weights if ref.weights else None
            label = ref.label or entry.name
            yield path, Model(entry=entry, params=params, label=label, reference=ref.reference, weights=weights)

    def attack(self, path: yaml.Path, raw: dict[str, Any]) -> Iterator[tuple[yaml.Path, Perturbation]]:
        for entry, ref, params in self.entries("attacks", AttackRef, raw, path):
            try:
                _ = entry.spec.threat(params).norm
            except Exception as error:  # a plugin's function may raise anything; say whose it was
                self.error(path, f"{entry.name} ({entry.source}): {error}")
                continue
            for eps in sorted(ref.eps) if ref.nested else ref.eps:
                smaller = tuple(sorted(other for other in ref.eps if other < eps)) if ref.nested else ()
                yield (
                    path,
                    Perturbation(
                        kind="attack", entry=entry, params=params, strength=eps, nested=ref.nested, smaller=smaller
                    ),
                )

    def corruption(self, path: yaml.Path, raw: dict[str, Any]) -> Iterator[tuple[yaml.Path, Perturbation]]:
        for entry, ref, params in self.entries("corruptions", CorruptionRef, raw, path):
            for severity in ref.severity:
                if severity not in entry.spec.severities:
                    known = ", ".join(map(str, entry.spec.severities))
                    self.error((*path, "severity"), f"{entry.name} has severities {known}; got {severity}")
                    continue
                yield path, Perturbation(kind="corruption", entry=entry, params=params, strength=severity)

    def canvas(self, header: Header | None, corrupts: bool) -> int | None:
        wanted = "auto" if header is None else header.canvas
        if wanted == "none" and corrupts:
            self.error(("canvas",), "corruptions need a canvas: a side in pixels, such as 224")
        if wanted == "auto":
            return DEFAULT_CANVAS if corrupts else None
        return None if wanted == "none" else int(wanted)

    # --- do the parts fit together -----------------------------------------------------------------------------

    def fit(self, models: list[Any], perturbations: list[Any], dataset: Entry | None) -> None:
        for path, model in models:
            spec = model.entry.spec
            if dataset is None:
                continue
            if spec.labels != dataset.spec.labels:
                sentence = f"{model.entry.name} has labels '{spec.labels}', {dataset.name} has '{dataset.spec.labels}'"
                self.error((*path, "model"), f"{sentence}. See: robharness list models")
            if spec.input.kind != dataset.spec.kind:
                sentence = f"{model.entry.name} takes {spec.input.kind}s, {dataset.name} holds {dataset.spec.kind}s"
                self.error((*path, "model"), f"{sentence}. See: robharness list datasets")
        kinds = {model.entry.spec.input.kind: model for _, model in reversed(models)}
        for path, perturbation in perturbations:
            for kind, model in kinds.items():
                if kind not in perturbation.entry.spec.inputs:
                    key = perturbation.kind
                    sentence = f"{perturbation.entry.name} does not take {kind}s, as {model.entry.name} does"
                    self.error((*path, key), sentence)

    def unique(self, models: list[Any], perturbations: list[Any]) -> None:
        seen: dict[str, int] = {}
        for path, model in models:
            if model.label in seen:
                other = f"line {self.document.values[('models', seen[model.label])][0]}"
                self.error(path, f"the label '{model.label}' is taken by the model in {other}; give it a `label:`")
            seen.setdefault(model.label, path[1])
        references = [path for path, model in models if model.reference]
        for path in references[1:]:
            self.error((*path, "reference"), "only one model can be the reference")
        for index, (path, perturbation) in enumerate(perturbations):
            for earlier, other in perturbations[:index]:
                if _same(perturbation, other):
                    line = self.document.values[earlier][0]
                    self.error(path, f"{perturbation.name} is asked for in line {line} already")
                    break

    def expected(
        self, suite: dict[str, Any], models: list[Any], perturbations: list[Any]
    ) -> tuple[dict[str, Any], str]:
        raw = suite.get("expected")
        if not isinstance(raw, dict):
            if raw is not None:
                self.error(("expected",), "'expected' is a mapping of labels to mappings of cells to percentages")
            return {}, ""
        numbers = {label: raw[label] for label in raw if label != "source"}
        wanted = self.record(dict[str, dict[str, float]], numbers, ("expected",))
        labels = [model.label for _, model in models]
        labels += [str(ref.get("label") or ref["model"]) for _, ref in self.items(suite, "models")]  # broken ones too
        cells = ["clean", *[perturbation.name for _, perturbation in perturbations]]
        for label in numbers:
            if label not in labels:
                sentence = f"no model has the label '{label}'{did_you_mean(label, labels)}"
                self.error(("expected", label), sentence, at_key=True)
            for cell in numbers[label] if isinstance(numbers[label], dict) else ():
                if cell not in cells:
                    sentence = f"no cell is called '{cell}'{did_you_mean(cell, cells)}"
                    self.error(("expected", label, cell), sentence, at_key=True)
        return wanted or {}, str(raw.get("source") or "")


def _same(one: Perturbation, other: Perturbation) -> bool:
    """Whether both ask for the same thing, be it that 0.5 is written as 1/2."""
    if one.entry.name != other.entry.name or one.nested != other.nested:
        return False
    return one.name == other.name or (one.params == other.params and one.strength == other.strength)


def json_schema(registry: Registry) -> dict[str, Any]:
    """The JSON Schema of a suite, with the options of every installed plugin, for editors."""
    schema = TypeAdapter(Header).json_schema()
    definitions = schema.setdefault("$defs", {})
    for name in ("DataRef", "Check"):
        definitions[name]["additionalProperties"] = False
    schema.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": False})
    for key, noun, ref in (("models", "model", ModelRef), ("attacks", "attack", AttackRef),
                           ("corruptions", "corruption", CorruptionRef)):  # fmt: skip
        variants = [_variant(noun, ref, entry, definitions) for entry in getattr(registry, key).values()]
        pattern = TypeAdapter(ref).json_schema()
        pattern["properties"][noun] = {"type": "string", "pattern": "[*?\\[]"}
        schema["properties"][key] = {"type": "array", "items": {"anyOf": [*variants, pattern]}}
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    schema["properties"]["expected"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": "string"}, numbers]},
    }
    schema["required"] = [*schema["required"], "models"]
    return schema


def _variant(noun: str, ref: type, entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    variant = TypeAdapter(ref).json_schema()
    if entry.spec.params is not None:
        try:
            params = TypeAdapter(entry.spec.params).json_schema()
        except Exception:  # a plugin's options that JSON Schema cannot say: any are allowed
            params, variant["additionalProperties"] = {}, True
        definitions.update(params.pop("$defs", {}))
        variant["properties"].update(params.get("properties", {}))
        variant["required"] = [*variant.get("required", []), *params.get("required", [])]
    variant["properties"][noun] = {"const": entry.name, "description": entry.spec.summary}
    return {"additionalProperties": False, **variant, "title": entry.name}


if __name__ == "__main__":
    import sys

    from robharness.plugins import discover

    json.dump(json_schema(discover()), sys.stdout, indent=2)
