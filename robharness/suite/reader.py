"""From YAML text to a Suite: the sections of the file. All errors are found at once, each with its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robharness.errors import SuiteError, UserError, as_path
from robharness.plugins import Entry, Registry
from robharness.plugins.calls import call_spec, plugin_code, returned
from robharness.plugins.process import current_folder
from robharness.specs import ModelSpec, Preprocessing, ThreatModel
from robharness.specs.conventions import NO_LABELS
from robharness.suite import audits, checks, data, references, source, surrogates, units, weights, yaml
from robharness.suite.checks import Models
from robharness.suite.command_lines import command_line, python_call
from robharness.suite.composing import compose, error_lines
from robharness.suite.fields import FieldReader, TooManyErrors, field_names, plugin_options, sentence_of
from robharness.suite.publications import publications
from robharness.suite.records import LARGEST_SEED, AttackRef, CorruptionRef, EncoderRef, Header, ModelRef
from robharness.suite.resolved import Model, Perturbation, Suite
from robharness.suite.settings import Setting
from robharness.suite.taking import SUITE_KEYS
from robharness.suite.unresolved import Unresolved


def load(
    suite: str | Path | Mapping[str, Any],
    registry: Registry,
    *,
    models_follow: bool = False,
    options: Sequence[str] = (),
    settings: tuple[Setting, ...] = (),
) -> Suite:
    """Read the suite in a YAML file or a mapping, and check it against the plugins.

    suite: path of the file, or its content as a mapping.
    registry: the plugins that provide models, attacks, corruptions, data sets and metrics.
    models_follow: whether the caller adds models later, so that the suite may have none.
    options: further words of the command that is printed for a wrong suite, quoted for a shell.
    settings: values that are set in it; see `robharness.suite.settings`.
    Raises UserError for anything else and if the file cannot be read, and SuiteError with all errors of the suite, each
    line with its place.
    """
    if isinstance(suite, Mapping):
        path, shown, document = current_folder() / "<mapping>", "<mapping>", source.from_mapping(suite)
        again = plain = python_call("plan")
    else:
        path = as_path(suite, "a suite is the path of a YAML file, or a mapping", '"suite.yaml"')
        shown, document = str(path), source.from_file(path)
        plain = command_line("plan", path, registry.options, *options)
        again = command_line("plan", path, registry.options, *options, settings=map(str, settings))
    path = path.absolute()
    document, extended = compose(document, path, shown, settings, registry)
    reader = _SuiteReader(document, registry, models_follow)
    resolved = None
    with suppress(TooManyErrors):
        resolved = reader.suite(path)
    if reader.errors:
        errors = error_lines(document, reader.errors)
        if len(reader.errors) >= yaml.MOST_ERRORS:
            errors.append(f"{shown}:1:1: there may be more errors; these are the first {len(errors)} that were found")
        is_set = all(not document.sources[line // yaml.LINES].is_file for line, *_ in reader.errors)
        raise SuiteError(errors, f"Correct what is set. Try: {plain}" if is_set else f"Correct the suite. Try: {again}")
    assert resolved is not None
    return dataclasses.replace(
        resolved,
        has_command=not isinstance(suite, Mapping),
        settings=tuple(map(str, settings)),
        extended=extended,
    )


_COPIED = ("name", "title", "compat", "gap", "gain", "count", "precision", "compile", "seed", "check", "clusters",
           "audit")  # fmt: skip
"""Fields of the header that a Suite has unchanged."""
_SHARED = ("canvas", "compat", "seed")
"""Fields of the header that other sections follow."""
_MOST_MODELS, _MOST_PERTURBATIONS, _MOST_CELLS = 1000, 1000, 50_000
"""Bounds of one suite, seeds and budgets counted one by one: planning takes a second for some thousands of cells."""
_MOST_NESTED = 100
"""Budgets of a nested attack. The identity of each holds all smaller ones."""


class _SuiteReader(FieldReader):
    """Reads the sections of a suite: data, models, attacks, corruptions, metrics."""

    def __init__(self, document: yaml.Document, registry: Registry, models_follow: bool) -> None:
        super().__init__(document, registry)
        self.models_follow = models_follow
        self.unresolved = Unresolved()

    def suite(self, path: Path) -> Suite | None:
        """Return the suite, or None after adding its errors."""
        raw = self.document.data
        if not isinstance(raw, dict):
            if not self.errors:
                self.error((), "a suite is a mapping of keys; see docs/reference/suite.md")
            return None
        known = field_names(Header)
        raw = self.known(raw, (), SUITE_KEYS)
        header = self.record(Header, {key: raw[key] for key in raw if key in known}, ())
        header = None if any(map(self.is_lost, _SHARED)) else header
        given = data.read(self, raw["data"], ("data",), is_suite=True) if "data" in raw else None
        dataset = None if given is None else given.entry
        models = self.models(raw, header)
        perturbations = _distinctly_named([*self.perturbations(raw, "attacks", models, header),
                                           *self.perturbations(raw, "corruptions", models, header)])  # fmt: skip
        metrics = self.metrics(raw.get("metrics"))
        self.bounded(("models",), len(models) * (len(perturbations) + 1), _MOST_CELLS, "cells")
        corrupts = bool(raw.get("corruptions")) or self.is_lost("corruptions")
        canvas = checks.canvas(self, header, corrupts, perturbations)
        sure = dataset if checks.data(self, models, dataset) else None
        fitting = checks.fit(self, models, perturbations, sure, canvas)
        checks.needed(self, raw, fitting, corrupts=corrupts)
        checks.unique(self, perturbations)
        checks.measures(self, perturbations)
        units.budgets(self, raw, models, perturbations)
        self.add_unresolved(raw, perturbations)
        expected = publications(self, raw, models, perturbations, metrics, self.unresolved)
        units.percentages(self, models, expected, [metric.name for metric in metrics])
        baseline = checks.baseline(self, header, models, sure, self.unresolved)
        checks.gap(self, header, models, self.unresolved, open_end=self.models_follow)
        checks.gain(self, header, models, self.unresolved, open_end=self.models_follow)
        checks.compat(self, header, canvas, sure)
        is_audited = header is not None and header.audit and not self.errors
        added, unfit = audits.audit_attacks(self, fitting, perturbations) if is_audited else ((), ())
        if header is None or given is None or self.errors:
            return None
        return Suite(
            path=path,
            plugin_options=self.registry.options,
            **{key: getattr(header, key) for key in _COPIED},
            data=given,
            canvas=canvas,
            baseline=baseline,
            models=tuple(model for _, model in models),
            perturbations=tuple(perturbation for _, perturbation in perturbations),
            audit_attacks=tuple(added),
            unfit_audit_attacks=tuple(unfit),
            metrics=tuple(metrics),
            expected=tuple(publication for _, publication in expected),
        )

    def metrics(self, raw: Any) -> list[Entry]:
        """Return the entries of the metrics."""
        names = raw if isinstance(raw, list) else []
        found = [entry for i, name in enumerate(names) if (entry := self.entry("metrics", name, ("metrics", i)))]
        is_whole = names is raw or (raw is None and not self.is_lost("metrics"))
        self.unresolved.has_metrics = not is_whole or len(found) < len(names)
        return found

    def models(self, raw: dict[str, Any], header: Header | None) -> list[tuple[yaml.Path, Model]]:
        """Return the models without errors; the labels of the others go to `unresolved`."""
        found: list[tuple[yaml.Path, Model]] = []
        for at, item in self.items(raw, "models"):
            before, models = len(self.errors), list(self.model(at, item, header))
            if models and len(self.errors) == before:
                found += models
                self.bounded(at, len(found), _MOST_MODELS, "models")
        if not raw.get("models") and not self.models_follow:
            self.error(("models",), "a suite needs at least one model", at_key=True)
            self.unresolved.has_models = True
        right = {at[1] for at, _ in found}
        for index, item in self.listed(raw, "models"):
            at = ("models", index)
            if index not in right:
                is_read = not self.is_unread(at) and not self.has_error((*at, "label"))
                self.unresolved.add_model(item, self.registry, is_read=is_read)
            elif header is None and "seeds" in item and "seed" not in item:
                self.unresolved.has_models = True  # the runs are named by the suite's seed
        self.unresolved.has_models |= not checks.labels(self, found)
        return found

    def listed(self, raw: dict[str, Any], key: str) -> list[tuple[int, Any]]:
        """Return the items of a list with their indices; one item, None, for a list that is none or not read."""
        listed = raw.get(key)
        whole = listed if isinstance(listed, list) else [None] if listed or self.is_lost(key) else []
        return list(enumerate(whole))

    def perturbations(
        self, raw: dict[str, Any], key: str, models: Models, header: Header | None
    ) -> list[tuple[yaml.Path, Perturbation]]:
        """Return the perturbations of a list; key: "attacks" or "corruptions"."""
        found: list[tuple[yaml.Path, Perturbation]] = []
        for at, item in self.items(raw, key):
            for each in self.attack(at, item, models) if key == "attacks" else self.corruption(at, item, header):
                found.append(each)
                self.bounded(at, len(found), _MOST_PERTURBATIONS, f"{key}, with each budget and severity as one")
        return found

    def add_unresolved(self, raw: dict[str, Any], perturbations: checks.Perturbations) -> None:
        """Add the names of attacks and corruptions with errors to `unresolved`."""
        right = {path[:2] for path, _ in perturbations} - {where[:2] for *_, where, _ in self.errors}
        for key in ("attacks", "corruptions"):
            for index, item in self.listed(raw, key):
                if (key, index) not in right:
                    self.unresolved.add_perturbation(item, key.removesuffix("s"), getattr(self.registry, key))
        self.unresolved.has_perturbations |= self.is_lost("compat") or self.has_error(("compat",))

    def bounded(self, path: yaml.Path, count: int, most: int, what: str) -> None:
        """Add an error, and end the reading, if a suite has more of something than is allowed."""
        if count > most:
            self.error(path, f"more than {most} {what}; split the suite")
            raise TooManyErrors

    def model(self, path: yaml.Path, raw: dict[str, Any], header: Header | None) -> Iterator[tuple[yaml.Path, Model]]:
        """Yield the models that one item of `models` means: one for each matching name and each seed."""
        for entry, ref, params in self.entries("models", ModelRef, raw, path):
            spec = self.spec(path, entry, ref, params)
            given = weights.files(self, path, ref)
            label = ref.label or entry.name
            if spec.labels == NO_LABELS:
                self.error((*path, "model"), references.needs_probe(self, entry, raw))
            entry = dataclasses.replace(entry, spec=spec)
            model = Model(
                entry=entry, params=params, label=label, reference=ref.reference, weights=given,
                clean_at_least=ref.clean_at_least, **weights.state_choice(self, path, entry, ref, given),
            )  # fmt: skip
            is_trained = references.needs_training(model)
            runs = self.runs(path, model, ref, header) if is_trained else [model]
            if not is_trained:
                self.refuse_seed(path, raw, entry)
            yield from ((path, run) for run in runs)

    def with_references(self, entry: Entry, params: Any, path: yaml.Path) -> Any:
        """Return options whose references to models and components are resolved, or None after adding errors."""
        return references.resolved(self, entry, params, path, self.spec)

    def runs(self, path: yaml.Path, model: Model, ref: ModelRef, header: Header | None) -> list[Model]:
        """Return the training runs of a model, one per seed; only the first run of a reference is a reference."""
        seed = ref.seed if ref.seed is not None else header.seed if header else 0
        if seed + (ref.seeds or 1) - 1 > LARGEST_SEED:
            self.error((*path, "seeds"), f"the last seed is {seed + (ref.seeds or 1) - 1}; at most {LARGEST_SEED}")
        try:
            trained = data.trained_on(model.entry, model.params, self.registry) if model.is_trained else {}
            model = dataclasses.replace(model, seed=seed, data=trained)
            references.require_kinds(self, path, model)
        except UserError as error:
            self.error((*path, "model"), str(error))
        if ref.seeds is None:
            return [model]
        runs = [(at, f"{model.label} seed {at}") for at in range(seed, seed + ref.seeds)]
        return [dataclasses.replace(model, seed=at, label=label, run_of=model.label,
                                    reference=model.reference and at == seed) for at, label in runs]  # fmt: skip

    def refuse_seed(self, path: yaml.Path, raw: dict[str, Any], entry: Entry) -> None:
        """Add an error if a model that is not trained has a seed, unless the plugin has an option of that name."""
        keys = [key for key in raw if key in ("seed", "seeds") and key not in plugin_options(raw, entry)]
        if keys:
            words = " and ".join(f"'{key}'" for key in keys)
            sentence = f"{entry.name} is not trained here, so that it has no seed; leave {words} out"
            self.error((*path, keys[0]), sentence, at_key=True)

    def spec(self, path: yaml.Path, entry: Entry, ref: ModelRef | EncoderRef, params: Any) -> ModelSpec:
        """Return the model's spec with the fields that depend on its options, and the suite's preprocessing."""
        spec: ModelSpec = entry.spec
        try:
            with plugin_code():
                given = returned("given", call_spec(entry.spec.given, params) if entry.spec.given else {}, Mapping)
                spec = dataclasses.replace(spec, **given)
        except Exception as error:  # a plugin's function may raise anything
            self.error(path, f"{entry.name} ({entry.origin}): {sentence_of(error)}")
        if ref.preprocessing is None:
            return spec
        place = (*path, "preprocessing")
        changed = self.changed(place, spec.preprocessing or Preprocessing(), ref.preprocessing)
        channels, *frames, _, _ = spec.input.shape
        frames = [changed.clips.length] if frames and changed.clips is not None else frames
        shape = (channels, *frames, *(changed.size or spec.input.shape[-2:]))
        return dataclasses.replace(spec, preprocessing=changed, input=dataclasses.replace(spec.input, shape=shape))

    def changed(self, path: yaml.Path, record: Any, changes: dict[str, Any]) -> Any:
        """Return a record of preprocessing with some fields changed, or the record itself after adding an error."""
        known = field_names(record)
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

    def attack(self, path: yaml.Path, raw: dict[str, Any], models: Models) -> Iterator[tuple[yaml.Path, Perturbation]]:
        """Yield the perturbations that one item of `attacks` means, one per budget."""
        for entry, ref, params in self.entries("attacks", AttackRef, raw, path):
            try:
                threat = returned("threat", call_spec(entry.spec.threat, params), ThreatModel)
                blocks = returned(
                    "blocks", entry.spec.blocks is not None and call_spec(entry.spec.blocks, params), bool
                )
                is_minimal = returned("minimal", call_spec(entry.spec.is_minimal, params), bool)
                fitted_on = returned("fitted_on", call_spec(entry.spec.fitted_on or _unfitted, params), int)
            except Exception as error:  # a plugin's function may raise anything
                self.error(path, f"{entry.name} ({entry.origin}): {sentence_of(error)}")
                continue
            nests = entry.spec.ensemble if ref.nested is None else ref.nested
            if ref.eps is None and (not is_minimal or nests):
                self.missing(path, "eps")
                continue
            if ref.eps is None and ref.source is not None:
                self.error((*path, "source"), "without `eps` the nearest mistake is the source's own; give budgets")
                continue
            if ref.eight_bit and nests and len(ref.eps or ()) > 1:
                sentence = "what rounding undoes at one budget would not be attacked at the next; add `nested: false`"
                self.error((*path, "eight_bit"), sentence)
                continue
            if nests and len(ref.eps or ()) > _MOST_NESTED:
                self.error((*path, "eps"), f"more than {_MOST_NESTED} nested budgets; add `nested: false`")
                continue
            nested = tuple(sorted(ref.eps or ())) if nests else ()
            common = {"kind": "attack", "entry": entry, "params": params, "nested": nested}
            common |= {"threat": threat, "depends_on_neighbours": blocks, "fitted_on": fitted_on}
            common |= {"eight_bit": ref.eight_bit}
            for crafted_on in surrogates.resolved(self, path, ref, models, self.unresolved):
                for eps in nested or ref.eps or (None,):
                    yield from self.named(path, Perturbation(eps=eps, surrogates=crafted_on, **common))

    def corruption(
        self, path: yaml.Path, raw: dict[str, Any], header: Header | None
    ) -> Iterator[tuple[yaml.Path, Perturbation]]:
        """Yield the perturbations that one item of `corruptions` means, one per severity.

        The suite's `compat` is passed on to corruptions with an option of that name.
        """
        for entry, ref, params in self.entries("corruptions", CorruptionRef, raw, path):
            passed_on = header is not None and header.compat != "none" and "compat" not in raw
            if passed_on and header and params is not None and "compat" in field_names(params):
                params = self.params(entry, plugin_options(raw, entry) | {"compat": header.compat}, path)
            for severity in ref.severity:
                if severity not in entry.spec.severities:
                    known = ", ".join(map(str, entry.spec.severities))
                    self.error((*path, "severity"), f"{entry.name} has severities {known}; got {severity}")
                    continue
                perturbation = Perturbation(kind="corruption", entry=entry, params=params, severity=severity)
                yield from self.named(path, perturbation)

    def named(self, path: yaml.Path, perturbation: Perturbation) -> Iterator[tuple[yaml.Path, Perturbation]]:
        """Yield the perturbation, unless its options have no text."""
        entry = perturbation.entry
        try:
            with plugin_code():
                _ = perturbation.name
        except Exception as error:  # the classes of options are the plugin's
            self.error(path, f"{entry.name} ({entry.origin}): {sentence_of(error)}")
        else:
            yield path, perturbation


def _distinctly_named(perturbations: list[tuple[yaml.Path, Perturbation]]) -> list[tuple[yaml.Path, Perturbation]]:
    """Add the plugin to the name of perturbations that have the same name in two plugins."""
    plugins: dict[str, set[str]] = {}
    for _, perturbation in perturbations:
        plugins.setdefault(perturbation.name, set()).add(perturbation.entry.name)
    return [(path, dataclasses.replace(p, qualified=len(plugins[p.name]) > 1)) for path, p in perturbations]


def _unfitted(params: Any) -> int:
    return 0
