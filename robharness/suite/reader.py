"""From YAML text to a Suite: everything that is wrong with it is found at once, each with its place."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robharness.errors import PluginNotFound, SuiteError, UserError, did_you_mean
from robharness.plugins import Entry, Registry
from robharness.specs import DataRef as Split
from robharness.specs import ModelSpec, Preprocessing
from robharness.suite import yaml
from robharness.suite.baselines import BASELINES, Baseline
from robharness.suite.records import DEFAULT_CANVAS, AttackRef, CorruptionRef, Header, ModelRef
from robharness.suite.resolved import Model, Perturbation, Suite, unrepresented


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
        dataset = self.dataset(raw.get("data"))
        models = [model for at, entry in self.items(raw, "models") for model in self.model(at, entry, path, header)]
        perturbations = [p for at, entry in self.items(raw, "attacks") for p in self.attack(at, entry, models)]
        perturbations += [p for at, entry in self.items(raw, "corruptions") for p in self.corruption(at, entry, header)]
        perturbations = _distinctly_named(perturbations)
        metrics = self.metrics(raw.get("metrics"))
        if not raw.get("models") and not self.models_follow:
            self.error(("models",), "a suite needs at least one model", at_key=True)
        canvas = self.canvas(header, bool(raw.get("corruptions")), perturbations)
        self.fit(models, perturbations, dataset, canvas)
        self.needed(raw, models)
        self.unique(models, perturbations)
        expected, expected_source = self.expected(raw, models, perturbations, metrics)
        baseline = self.baseline(header, models, dataset)
        self.gap(raw, header, models)
        self.compat(header, canvas, dataset)
        if header is None or dataset is None or self.errors:
            return None
        return Suite(
            path=path,
            **{
                key: getattr(header, key)
                for key in ("name", "title", "data", "compat", "gap", "count", "precision", "compile", "seed", "check")
            },
            dataset=dataset,
            canvas=canvas,
            baseline=baseline,
            models=tuple(model for _, model in models),
            perturbations=tuple(perturbation for _, perturbation in perturbations),
            metrics=tuple(metrics),
            expected=expected,
            expected_source=expected_source,
        )

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, cls: type, raw: dict[str, Any], path: yaml.Path) -> Any:
        """An instance of the dataclass, or None with the errors noted; its own unknown keys are the caller's affair."""
        try:
            self.nested(cls, raw, path)
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

    def nested(self, cls: Any, raw: dict[str, Any], path: yaml.Path) -> None:
        """Unknown keys of the records inside of a record, at any depth; the validation takes no notice of them."""
        for name, kind in get_type_hints(cls).items() if dataclasses.is_dataclass(cls) else ():
            inner = next((each for each in (kind, *get_args(kind)) if dataclasses.is_dataclass(each)), None)
            value = raw.get(name)
            if inner is None or not isinstance(value, dict):
                continue
            known = [item.name for item in dataclasses.fields(inner)]
            for key in value:
                if key not in known:
                    self.unknown((*path, name, key), key, known)
            self.nested(inner, value, (*path, name))

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

        A pattern such as mine/* means all that match; as in a shell, its stars do not stand for a slash.
        """
        noun = kind.removesuffix("s")
        every: dict[str, Entry] = getattr(self.registry, kind)
        own = [item.name for item in dataclasses.fields(ref)]
        reference = self.record(ref, {key: raw[key] for key in raw if key in own}, path)
        depth, pattern = raw[noun].count("/"), raw[noun]
        alike = [name for name in every if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]
        matched = [every[name] for name in (alike if pattern not in every else [pattern])]
        if not matched:
            self.entry(kind, raw[noun], (*path, noun))
        for entry in matched:
            cls = entry.spec.params
            known = [item.name for item in dataclasses.fields(cls)] if cls is not None else []
            for key in raw:
                if key not in own and key not in known:
                    self.unknown((*path, key), key, [*own, *known])
            before = len(self.errors)
            params = None if cls is None else self.record(cls, _options(raw, entry), path)
            if reference is not None and len(self.errors) == before:
                yield entry, reference, params

    # --- the parts of a suite ----------------------------------------------------------------------------------

    def dataset(self, raw: Any) -> Entry | None:
        if not isinstance(raw, dict):
            return None
        entry, split = self.entry("datasets", raw.get("name"), ("data", "name")), raw.get("split")
        if entry is not None and isinstance(split, str) and entry.spec.splits and split not in entry.spec.splits:
            splits = list(entry.spec.splits)
            sentence = f"{entry.name} has no split '{split}'; it has {', '.join(splits)}"
            self.error(("data", "split"), sentence + did_you_mean(split, splits))
        return entry

    def metrics(self, raw: Any) -> list[Entry]:
        names = raw if isinstance(raw, list) else []
        return [entry for i, name in enumerate(names) if (entry := self.entry("metrics", name, ("metrics", i)))]

    def compat(self, header: Header | None, canvas: int | None, dataset: Entry | None) -> None:
        if header is None or header.compat == "none":
            return
        if dataset is not None and dataset.spec.kind != "image":
            self.error(("compat",), f"ImageNet-C has pictures, {dataset.name} holds {dataset.spec.kind}s; leave it out")
        elif canvas != DEFAULT_CANVAS:
            found = "the suite has none" if canvas is None else f"the suite has {canvas}"
            sentence = f"ImageNet-C has a canvas of {DEFAULT_CANVAS}, {found}; write `canvas: {DEFAULT_CANVAS}`"
            self.error(("compat",), sentence)

    def baseline(self, header: Header | None, models: list[Any], dataset: Entry | None) -> Baseline | str | None:
        """The table of that name, or the label of a model."""
        name, labels = header.baseline if header else None, [model.label for _, model in models]
        if name is None:
            return None
        if name not in BASELINES:
            if name not in labels:
                hint = did_you_mean(name, [*BASELINES, *labels]) or f"; there are {', '.join([*BASELINES, *labels])}"
                self.error(("baseline",), f"no published table and no model's label is '{name}'{hint}")
            return name
        table = BASELINES[name]
        if name in labels:
            self.error(("baseline",), f"'{name}' is a published table; give the model of that label another one")
        if dataset is not None and dataset.spec.labels != table.labels:
            sentence = f"the table of {table.name} is of the labels '{table.labels}', {dataset.name} has"
            self.error(("baseline",), f"{sentence} '{dataset.spec.labels}'; name a model's label instead")
        return table

    def gap(self, suite: dict[str, Any], header: Header | None, models: list[Any]) -> None:
        """Both are labels of columns."""
        if header is None or header.gap is None:
            return
        labels = list(dict.fromkeys([*(model.run_of or model.label for _, model in models), *self.typed(suite)]))
        for at, label in enumerate(header.gap):
            if label not in labels and not self.models_follow:
                hint = did_you_mean(label, labels) or f"; there are {', '.join(labels)}"
                self.error(("gap", at), f"no model has the label '{label}'{hint}")
        if header.gap[0] == header.gap[1]:
            self.error(("gap",), f"the gap lies between two models, and '{header.gap[0]}' is one")

    def model(
        self, path: yaml.Path, raw: dict[str, Any], suite: Path, header: Header | None
    ) -> Iterator[tuple[yaml.Path, Model]]:
        for entry, ref, params in self.entries("models", ModelRef, raw, path):
            spec = self.spec(path, entry, ref, params)
            weights: Any = suite.parent / ref.weights if isinstance(ref.weights, str) else None
            if isinstance(ref.weights, dict):
                weights = {name: suite.parent / file for name, file in ref.weights.items()}
            label = ref.label or entry.name
            entry = dataclasses.replace(entry, spec=spec)
            model = Model(
                entry=entry, params=params, label=label, reference=ref.reference, weights=weights,
                clean_at_least=ref.clean_at_least,
            )  # fmt: skip
            runs = self.runs(path, model, ref, header) if model.is_trained else [model]
            if not model.is_trained:
                self.no_seed(path, raw, entry)
            yield from ((path, run) for run in runs)

    def runs(self, path: yaml.Path, model: Model, ref: ModelRef, header: Header | None) -> list[Model]:
        """The trainings of a model, one or as many as it has seeds; the first of them is the reference."""
        seed = ref.seed if ref.seed is not None else header.seed if header else 0
        try:
            model = dataclasses.replace(model, seed=seed, data=trained_on(model.entry, model.params, self.registry))
        except UserError as error:
            self.error((*path, "model"), str(error))
        if ref.seeds is None:
            return [model]
        runs = [(at, f"{model.label} seed {at}") for at in range(seed, seed + ref.seeds)]
        return [dataclasses.replace(model, seed=at, label=label, run_of=model.label,
                                    reference=model.reference and at == seed) for at, label in runs]  # fmt: skip

    def no_seed(self, path: yaml.Path, raw: dict[str, Any], entry: Entry) -> None:
        """Say of a model that is not trained that it has no seed, unless its plugin has an option of that name."""
        for key in {"seed", "seeds"} & {*raw} - {*_options(raw, entry)}:
            sentence = f"{entry.name} is not trained here, so that it has no seed; leave '{key}' out"
            self.error((*path, key), sentence, at_key=True)

    def spec(self, path: yaml.Path, entry: Entry, ref: ModelRef, params: Any) -> ModelSpec:
        """The model's spec with the fields that its options decide, and what the suite changes of preprocessing."""
        spec: ModelSpec = entry.spec
        try:
            spec = dataclasses.replace(spec, **(spec.given(params) if spec.given else {}))
        except Exception as error:  # a plugin's function may raise anything; say whose it was
            self.error(path, f"{entry.name} ({entry.origin}): {error}")
        if ref.preprocessing is None:
            return spec
        place = (*path, "preprocessing")
        changed = self.changed(place, spec.preprocessing or Preprocessing(), ref.preprocessing)
        channels, *frames, _, _ = spec.input.shape
        frames = [changed.clips.length] if frames and changed.clips is not None else frames
        shape = (channels, *frames, *(changed.size or spec.input.shape[-2:]))
        return dataclasses.replace(spec, preprocessing=changed, input=dataclasses.replace(spec.input, shape=shape))

    def changed(self, path: yaml.Path, record: Any, changes: dict[str, Any]) -> Any:
        """A record of preprocessing with some of its fields changed; the record as it is where that is wrong."""
        known = [item.name for item in dataclasses.fields(record)]
        values = dict(changes)
        for key in changes:
            if key not in known:
                self.unknown((*path, key), key, known)
                return record
        if isinstance(changes.get("clips"), dict):
            if record.clips is None:
                self.error((*path, "clips"), "the model takes no clips of videos")
                return record
            values["clips"] = self.changed((*path, "clips"), record.clips, changes["clips"])
        try:
            return dataclasses.replace(record, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except (ValueError, TypeError) as error:
            self.error(path, str(error))
            return record

    def attack(
        self, path: yaml.Path, raw: dict[str, Any], models: list[tuple[yaml.Path, Model]]
    ) -> Iterator[tuple[yaml.Path, Perturbation]]:
        for entry, ref, params in self.entries("attacks", AttackRef, raw, path):
            try:
                _ = entry.spec.threat(params).norm, entry.spec.threat(params).targeted
                _ = entry.spec.blocks is not None and entry.spec.blocks(params)
            except Exception as error:  # a plugin's function may raise anything; say whose it was
                self.error(path, f"{entry.name} ({entry.origin}): {error}")
                continue
            nests = entry.spec.ensemble if ref.nested is None else ref.nested
            if ref.eps is None and (not entry.spec.minimal or nests):
                self.error(path, "missing key 'eps'")
                continue
            if ref.eps is None and ref.source is not None:
                self.error((*path, "source"), "without `eps` the nearest mistake is the source's own; give budgets")
                continue
            if ref.eight_bit and nests and len(ref.eps or ()) > 1:
                sentence = "what rounding undoes at one budget would not be attacked at the next; add `nested: false`"
                self.error((*path, "eight_bit"), sentence)
                continue
            nested = tuple(sorted(ref.eps or ())) if nests else ()
            common = {"kind": "attack", "entry": entry, "params": params, "nested": nested}
            common |= {"surrogate": self.surrogate(path, ref, models), "eight_bit": ref.eight_bit}
            for eps in nested or ref.eps or (None,):
                yield path, Perturbation(eps=eps, **common)

    def surrogate(self, path: yaml.Path, ref: AttackRef, models: list[tuple[yaml.Path, Model]]) -> Model | None:
        """The model that an attack is crafted on."""
        labels = [model.label for _, model in models]
        if ref.source is not None and ref.source not in labels:
            hint = did_you_mean(ref.source, labels) or f"; there are {', '.join(labels)}"
            self.error((*path, "source"), f"no model has the label '{ref.source}'{hint}")
        return next((model for _, model in models if model.label == ref.source), None)

    def corruption(
        self, path: yaml.Path, raw: dict[str, Any], header: Header | None
    ) -> Iterator[tuple[yaml.Path, Perturbation]]:
        """Corruptions that have quirks of their own to keep are told of the suite's `compat`."""
        for entry, ref, params in self.entries("corruptions", CorruptionRef, raw, path):
            told = header is not None and header.compat != "none" and "compat" not in raw
            if told and header and hasattr(params, "compat"):
                params = self.record(entry.spec.params, _options(raw, entry) | {"compat": header.compat}, path)
            for severity in ref.severity:
                if severity not in entry.spec.severities:
                    known = ", ".join(map(str, entry.spec.severities))
                    self.error((*path, "severity"), f"{entry.name} has severities {known}; got {severity}")
                    continue
                yield path, Perturbation(kind="corruption", entry=entry, params=params, severity=severity)

    def canvas(
        self, header: Header | None, corrupts: bool, perturbations: Sequence[tuple[yaml.Path, Perturbation]]
    ) -> int | None:
        """The side of the canvas: as the suite says, or else as its corruptions need it."""
        wanted = "auto" if header is None else header.canvas
        if wanted == "none" and corrupts:
            self.error(("canvas",), "corruptions need a canvas: a side in pixels, such as 224")
        corruptions = [(path, p.entry) for path, p in perturbations if p.kind == "corruption"]
        fixed = [entry.spec.canvas for _, entry in corruptions if entry.spec.canvas is not None]
        if wanted == "auto":
            wanted = (fixed or [DEFAULT_CANVAS])[0] if corrupts else "none"
        for path, entry in corruptions:
            if wanted != "none" and entry.spec.canvas not in (None, wanted):
                sentence = f"{entry.name} has pictures of {entry.spec.canvas} px, the canvas has {wanted}"
                self.error((*path, "corruption"), f"{sentence}; write `canvas: {entry.spec.canvas}`")
        return None if wanted == "none" else int(wanted)

    # --- do the parts fit together -----------------------------------------------------------------------------

    def fit(self, models: list[Any], perturbations: list[Any], dataset: Entry | None, canvas: int | None) -> None:
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
            clips = spec.clips
            if canvas is not None and clips is not None and clips.crops > 1:
                sentence = f"{model.entry.name} looks at {clips.crops} squares of a frame, and a canvas is one square"
                self.error((*path, "model"), f"{sentence}; write `preprocessing: {{clips: {{crops: 1}}}}` beside it")
        kinds = {model.entry.spec.input.kind: model for _, model in reversed(models)}
        for path, perturbation in perturbations:
            for kind, model in kinds.items():
                if kind not in perturbation.entry.spec.inputs:
                    key = perturbation.kind
                    sentence = f"{perturbation.entry.name} does not take {kind}s, as {model.entry.name} does"
                    self.error((*path, key), sentence)
            for _, model in models:
                self.crafted(path, perturbation, model)

    def crafted(self, path: yaml.Path, perturbation: Perturbation, model: Model) -> None:
        """Whether the attack can be crafted on its source, and judged by this model."""
        source, spec = perturbation.surrogate or model, model.entry.spec
        attacks_features = perturbation.kind == "attack" and perturbation.entry.spec.access == "features"
        if attacks_features and source.entry.spec.features is None:
            sentence = f"{source.entry.name} declares no `features`, which {perturbation.entry.name} attacks"
            self.error((*path, "attack"), f"{sentence}. See: robharness list models")
        taken = (spec.input, spec.preprocessing)
        if taken != (source.entry.spec.input, source.entry.spec.preprocessing):
            sentence = f"{model.label} takes other inputs than {source.label}, on which the attack is crafted"
            self.error((*path, "source"), f"{sentence}; both need one `input` and `preprocessing`")

    def needed(self, suite: dict[str, Any], models: list[Any]) -> None:
        """Whether the suite has what its metrics look at, be it broken."""
        corrupts = any(True for _ in self.items(suite, "corruptions"))
        measures = any("eps" not in ref for _, ref in self.items(suite, "attacks"))
        names = suite.get("metrics")
        for index, name in enumerate(names if isinstance(names, list) else []):
            metric = self.registry.metrics.get(name) if isinstance(name, str) else None
            if metric is None:
                continue
            for sentence in dict.fromkeys(unrepresented(metric, model) for _, model in models):
                if sentence:
                    self.error(("metrics", index), f"{sentence}. See: robharness list models")
            if "views" in metric.spec.needs and not corrupts:
                sentence = f"{metric.name} compares an example with its corrupted versions, and there is no corruption"
                self.error(("metrics", index), f"{sentence}; write one under `corruptions:`")
            if "distances" in metric.spec.needs and not measures:
                sentence = f"{metric.name} looks at distances, and there is no attack without `eps`"
                self.error(("metrics", index), f"{sentence}; write one under `attacks:`")

    def unique(self, models: list[Any], perturbations: list[Any]) -> None:
        seen: dict[str, int] = {}
        columns: dict[str, int] = {}
        for path, model in models:
            column = model.run_of or model.label
            taken = model.label if model.label in seen else column
            other = seen.get(model.label, columns.get(column, path[1]))
            if model.label in seen or other != path[1]:
                line = self.document.values[("models", other)][0]
                self.error(path, f"the label '{taken}' is taken by the model in line {line}; give it a `label:`")
            seen.setdefault(model.label, path[1])
            columns.setdefault(column, path[1])
        references = [path for path, model in models if model.reference]
        for path in references[1:]:
            self.error((*path, "reference"), "only one model can be the reference")
        for index, (path, perturbation) in enumerate(perturbations):
            for earlier, other in perturbations[:index]:
                if _same(perturbation, other):
                    line = self.document.values[earlier][0]
                    self.error(path, f"{perturbation.name} is asked for in line {line} already")
                    break

    def typed(self, suite: dict[str, Any]) -> list[str]:
        """The labels of models as they stand in the file, of broken ones, too."""
        return [str(ref.get("label") or ref["model"]) for _, ref in self.items(suite, "models")]

    def expected(
        self, suite: dict[str, Any], models: list[Any], perturbations: list[Any], metrics: list[Entry]
    ) -> tuple[dict[str, Any], str]:
        raw = suite.get("expected")
        if not isinstance(raw, dict):
            if raw is not None:
                self.error(
                    ("expected",),
                    "'expected' is a mapping of labels to mappings of cells to percentages, and of metrics to numbers",
                )
            return {}, ""
        numbers = {label: raw[label] for label in raw if label != "source"}
        wanted = self.record(dict[str, dict[str, float]], numbers, ("expected",))
        labels = [*(model.label for _, model in models), *self.typed(suite)]
        names = ["clean", *[perturbation.name for _, perturbation in perturbations], *[entry.name for entry in metrics]]
        for label in numbers:
            if label not in labels:
                sentence = f"no model has the label '{label}'{did_you_mean(label, labels)}"
                self.error(("expected", label), sentence, at_key=True)
            for name in numbers[label] if isinstance(numbers[label], dict) else ():
                if name not in names:
                    sentence = f"no cell and no metric is called '{name}'{did_you_mean(name, names)}"
                    self.error(("expected", label, name), sentence, at_key=True)
        return wanted or {}, str(raw.get("source") or "")


def trained_on(entry: Entry, params: Any, registry: Registry) -> dict[str, tuple[Entry, str]]:
    """What a model is trained on: a data set's entry and a split by role. Raises UserError where there is no such."""
    found = {}
    try:
        declared = dict(entry.spec.weights.data(params))
        wrong = [role for role, split in declared.items() if not isinstance(split, Split)]
    except Exception as error:  # a plugin's function may raise anything; say whose it was
        raise UserError(f"{entry.name} ({entry.origin}): {type(error).__name__}: {error}") from error
    if wrong:
        raise UserError(f"{entry.name} ({entry.origin}): its data '{wrong[0]}' are no DataRef")
    for role, split in declared.items():
        data = registry.find("datasets", split.name)
        if data.spec.splits and split.split not in data.spec.splits:
            raise UserError(f"{entry.name} ({entry.origin}) is trained on the split '{split.split}' of {data.name}, "
                            f"which has {', '.join(data.spec.splits)}")  # fmt: skip
        found[str(role)] = (data, split.split)
    return found


def _distinctly_named(perturbations: list[tuple[yaml.Path, Perturbation]]) -> list[tuple[yaml.Path, Perturbation]]:
    """With the plugin in the name wherever two plugins would give the same one."""
    plugins: dict[str, set[str]] = {}
    for _, perturbation in perturbations:
        plugins.setdefault(perturbation.name, set()).add(perturbation.entry.name)
    return [(path, dataclasses.replace(p, qualified=len(plugins[p.name]) > 1)) for path, p in perturbations]


def _options(raw: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """The plugin's own options among these keys."""
    known = [item.name for item in dataclasses.fields(entry.spec.params)] if entry.spec.params else []
    return {key: raw[key] for key in raw if key in known}


def _same(one: Perturbation, other: Perturbation) -> bool:
    """Whether both ask for the same thing, be it that 0.5 is written as 1/2."""
    if _way(one) != _way(other):
        return False
    if one.name == other.name:
        return True
    return (one.params, one.eps, one.severity) == (other.params, other.eps, other.severity)


def _way(perturbation: Perturbation) -> tuple[Any, ...]:
    source = perturbation.surrogate and perturbation.surrogate.label
    return perturbation.entry.name, bool(perturbation.nested), source, perturbation.eight_bit
