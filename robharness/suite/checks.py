"""Checks across the records of a suite. Each adds its errors to the reader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from robharness.errors import did_you_mean
from robharness.plugins import Entry
from robharness.plugins.calls import call_spec, plugin_code, returned
from robharness.specs.conventions import INSTANCES
from robharness.suite import yaml
from robharness.suite.baselines import BASELINES, Baseline
from robharness.suite.fields import FieldReader, sentence_of
from robharness.suite.records import DEFAULT_CANVAS, Header
from robharness.suite.resolved import Model, Perturbation, unrepresented
from robharness.suite.unresolved import Unresolved
from robharness.text import printable

Models = Sequence[tuple[yaml.Path, Model]]
"""Each model with its path in the suite."""
Perturbations = Sequence[tuple[yaml.Path, Perturbation]]
"""Each perturbation with its path in the suite."""


def compat(
    reader: FieldReader, header: Header | None, canvas: int | Literal["auto"] | None, dataset: Entry | None
) -> None:
    """Check that a suite with `compat: imagenet-c` has images and a canvas of 224 pixels."""
    if header is None or header.compat == "none":
        return
    if dataset is not None and dataset.spec.kind != "image":
        sentence = f"ImageNet-C has images, {dataset.name} holds {dataset.spec.kind}s; leave `compat` out"
        reader.error(("compat",), sentence)
    elif canvas not in (DEFAULT_CANVAS, "auto"):
        found = "the suite has none" if canvas is None else f"the suite has {canvas}"
        sentence = f"ImageNet-C has a canvas of {DEFAULT_CANVAS}, {found}; write `canvas: {DEFAULT_CANVAS}`"
        reader.error(("compat",), sentence)


def measures(reader: FieldReader, perturbations: Perturbations) -> None:
    """Check that measures of one name are the same function, since their attacks share a worst case."""
    first: dict[str, Perturbation] = {}
    for path, perturbation in perturbations:
        if (measure := perturbation.measure) is None:
            continue
        other = first.setdefault(measure.name, perturbation)
        known = other.measure
        if known is not None and (measure.function, measure.unit) != (known.function, known.unit):
            both = " and ".join(f"{each.entry.name} ({each.entry.origin})" for each in (other, perturbation))
            sentence = f"{both} have different measures of the name '{measure.name}', so their worst case means nothing"
            reader.error(path, sentence)


def data(reader: FieldReader, models: Models, dataset: Entry | None) -> bool:
    """Check that some model has the data's labels and kind of examples. If none has, the data are the mistake.

    Returns False if the data are that mistake, or have other errors and may be it.
    """
    if dataset is None:
        return False
    labels = dict.fromkeys(model.entry.spec.labels for _, model in models)
    kinds = dict.fromkeys(model.entry.spec.input.kind for _, model in models)
    if not models or (labels.keys() & {dataset.spec.labels, INSTANCES} and dataset.spec.kind in kinds):
        return True
    if any(where[:1] == ("data",) for *_, where, _ in reader.errors):
        return False
    if len(models) == 1 or len(labels) > 1 or len(kinds) > 1:
        return True  # each model has its error
    what = f"{dataset.name} has {dataset.spec.kind}s with labels '{dataset.spec.labels}'"
    sentence = f"{what}, all models take {next(iter(kinds))}s with labels '{next(iter(labels))}'"
    reader.error(("data", "name"), f"{sentence}. Try: robharness list datasets")
    return False


def baseline(
    reader: FieldReader, header: Header | None, models: Models, dataset: Entry | None, unresolved: Unresolved
) -> Baseline | str | None:
    """Check the baseline of corruption errors; return its published table, or the label of a model of the suite."""
    name, labels = header.baseline if header else None, [model.label for _, model in models]
    if name is None:
        return None
    if name not in BASELINES:
        if not unresolved.has_label(name, labels):
            hint = nearest_or_all(name, [*BASELINES, *labels, *unresolved.labels])
            reader.error(("baseline",), f"no published table and no model's label is '{name}'{hint}")
        return name
    table = BASELINES[name]
    if name in labels:
        reader.error(("baseline",), f"'{name}' is a published table; give the model of that label another one")
    if dataset is not None and dataset.spec.labels != table.labels:
        sentence = f"the table of {table.name} is of the labels '{table.labels}', {dataset.name} has"
        reader.error(("baseline",), f"{sentence} '{dataset.spec.labels}'; name a model's label instead")
    return table


def gap(reader: FieldReader, header: Header | None, models: Models, unresolved: Unresolved, *, open_end: bool) -> None:
    """Check that both ends of `gap` are labels of columns, and differ.

    open_end: models may be added later, so that labels may be unknown.
    """
    if header is None or header.gap is None:
        return
    for at, label in enumerate(header.gap):
        _column(reader, ("gap", at), label, models, unresolved, open_end=open_end)
    if header.gap[0] == header.gap[1]:
        reader.error(("gap",), f"the gap lies between two models, and '{printable(header.gap[0])}' is one")


def gain(reader: FieldReader, header: Header | None, models: Models, unresolved: Unresolved, *, open_end: bool) -> None:
    """Check that both models of each gain are labels of columns, and differ.

    open_end: models may be added later, so that labels may be unknown.
    """
    for label, base in (header.gain or {}).items() if header else ():
        _column(reader, ("gain", label), label, models, unresolved, open_end=open_end, at_key=True)
        if label == base:
            reader.error(("gain", label), f"'{printable(label)}' has no gain over itself; name the model it builds on")
        else:
            _column(reader, ("gain", label), base, models, unresolved, open_end=open_end)


def _column(
    reader: FieldReader, path: yaml.Path, label: str, models: Models, unresolved: Unresolved, *, open_end: bool,
    at_key: bool = False,
) -> None:  # fmt: skip
    """Check that a label is that of a column: of a model, or of its runs together."""
    columns = [model.run_of or model.label for _, model in models]
    if not open_end and not unresolved.has_label(label, columns):
        hint = nearest_or_all(label, dict.fromkeys([*columns, *unresolved.labels]))
        reader.error(path, f"no model has the label '{printable(label)}'{hint}", at_key=at_key)


def canvas(
    reader: FieldReader, header: Header | None, corrupts: bool, perturbations: Perturbations
) -> int | Literal["auto"] | None:
    """Return the side of the canvas in pixels; "auto" if corruptions and data define it; None without one.

    corrupts: whether the suite lists corruptions, including those with errors.
    """
    wanted = "auto" if header is None else header.canvas
    if wanted == "none" and corrupts:
        reader.error(("canvas",), "corruptions need a canvas: a side in pixels, such as 224")
    corruptions = [(path, p.entry) for path, p in perturbations if p.kind == "corruption"]
    fixed = [entry.spec.canvas for _, entry in corruptions if entry.spec.canvas is not None]
    if wanted == "auto" and not corrupts:
        wanted = "none"
    side = fixed[0] if wanted == "auto" and fixed else wanted
    for path, entry in corruptions:
        if side not in ("none", "auto") and entry.spec.canvas not in (None, side):
            sentence = f"{entry.name} has images of {entry.spec.canvas} px, the canvas has {side}"
            reader.error((*path, "corruption"), f"{sentence}; write `canvas: {entry.spec.canvas}`", once=True)
    return None if wanted == "none" else wanted


def fit(
    reader: FieldReader,
    models: Models,
    perturbations: Perturbations,
    dataset: Entry | None,
    canvas: int | Literal["auto"] | None,
) -> Models:
    """Check labels, kinds of input and crops of models, data set and perturbations against each other.

    Returns the models that fit the data set.
    """
    fitting = []
    for path, model in models:
        spec, clips = model.entry.spec, model.entry.spec.clips
        sentence = ""
        if dataset is not None and spec.input.kind != dataset.spec.kind:
            sentence = f"{model.entry.name} takes {spec.input.kind}s, {dataset.name} holds {dataset.spec.kind}s"
            sentence += ". Try: robharness list datasets"
        elif dataset is not None and spec.labels not in (dataset.spec.labels, INSTANCES):
            sentence = f"{model.entry.name} has labels '{spec.labels}', {dataset.name} has '{dataset.spec.labels}'"
            sentence += ". Try: robharness list models"
        elif dataset is not None and isinstance(canvas, int) and clips is not None and clips.crops > 1:
            sentence = f"{model.entry.name} crops {clips.crops} squares of a frame, and a canvas is one square"
            sentence += "; write `preprocessing: {clips: {crops: 1}}` beside it"
        if sentence:
            reader.error((*path, "model"), sentence, once=True)
        else:
            fitting.append((path, model))
    _refuse_mixed_labels(reader, fitting)
    kinds = {model.entry.spec.input.kind: model for _, model in reversed(fitting)}
    labels = {model.label for _, model in models} - {model.label for _, model in fitting}
    for path, perturbation in perturbations:
        for kind, model in kinds.items():
            if kind not in perturbation.entry.spec.inputs:
                sentence = f"{perturbation.entry.name} does not take {kind}s, as {model.entry.name} does"
                reader.error((*path, perturbation.kind), sentence, once=True)
        for _, model in fitting:
            _is_not_refused(reader, path, perturbation, model)
        for surrogate in perturbation.surrogates or (None,):
            for _, model in fitting if surrogate is None or surrogate.label not in labels else ():
                _surrogate_fits(reader, path, perturbation, surrogate or model, model)
    return fitting


def _is_not_refused(reader: FieldReader, path: yaml.Path, perturbation: Perturbation, model: Model) -> None:
    """Check that the attack with these options takes the inputs of the model."""
    entry = perturbation.entry
    if perturbation.kind == "corruption" or entry.spec.refuses is None:
        return
    try:
        reason = returned("refuses", call_spec(entry.spec.refuses, perturbation.params, model.entry.spec.input), str)
    except Exception as error:  # a plugin's function may raise anything
        reader.error(path, f"{entry.name} ({entry.origin}): {sentence_of(error)}", once=True)
        return
    if reason:
        sentence = f"{entry.name} does not take the inputs of {model.label}: {printable(reason)}"
        reader.error((*path, "attack"), sentence, once=True)


def _refuse_mixed_labels(reader: FieldReader, models: Models) -> None:
    """Add an error if some models predict classes, and others tell examples apart: their accuracies do not compare."""
    by_instance = {model.entry.spec.labels == INSTANCES: model for _, model in reversed(models)}
    for path, model in models if len(by_instance) > 1 else ():
        if (model.entry.spec.labels == INSTANCES) is not (models[0][1].entry.spec.labels == INSTANCES):
            classifier, other = by_instance[False], by_instance[True]
            sentence = f"{other.label} is measured without labels, {classifier.label} by its classes"
            reader.error((*path, "model"), f"{sentence}, and one table cannot hold both; write two suites", once=True)
            return


def _surrogate_fits(
    reader: FieldReader, path: yaml.Path, perturbation: Perturbation, surrogate: Model, model: Model
) -> None:
    """Check that the attack can be crafted on a surrogate, which may be the model itself, and judged by this model."""
    spec = model.entry.spec
    attacks_features = perturbation.kind == "attack" and perturbation.entry.spec.access == "features"
    if attacks_features and len(perturbation.surrogates) > 1:
        sentence = f"{perturbation.entry.name} attacks features, and an ensemble has the mean of logits alone"
        reader.error((*path, "source"), f"{sentence}; name models one by one", once=True)
    elif attacks_features and surrogate.entry.spec.features is None:
        sentence = f"{surrogate.entry.name} declares no `features`, which {perturbation.entry.name} attacks"
        reader.error((*path, "attack"), f"{sentence}. Try: robharness list models", once=True)
    if (spec.input, spec.preprocessing) != (surrogate.entry.spec.input, surrogate.entry.spec.preprocessing):
        shapes = ["x".join(map(str, each.entry.spec.input.shape)) for each in (model, surrogate)]
        differ = f": {shapes[0]} and {shapes[1]}" if shapes[0] != shapes[1] else ", in their preprocessing"
        sentence = f"{model.label} takes other inputs than {surrogate.label}, on which the attack is crafted{differ}"
        reader.error((*path, "source"), f"{sentence}; both need one `input` and `preprocessing`", once=True)


def needed(reader: FieldReader, suite: dict[str, Any], models: Models, *, corrupts: bool) -> None:
    """Check that the suite stores what its metrics need; perturbations with errors of their own count as present.

    corrupts: whether the suite lists corruptions.
    """
    attacks = None if reader.is_lost("attacks") else suite.get("attacks", [])
    has_distances = not isinstance(attacks, list) or any(not isinstance(a, dict) or "eps" not in a for a in attacks)
    names = suite.get("metrics")
    for index, name in enumerate(names if isinstance(names, list) else []):
        metric = reader.registry.metrics.get(name) if isinstance(name, str) else None
        if metric is None:
            continue
        for sentence in dict.fromkeys(unrepresented(metric, model) for _, model in models):
            if sentence:
                reader.error(("metrics", index), f"{sentence}. Try: robharness list models", once=True)
        if "views" in metric.spec.needs and not corrupts:
            sentence = f"{metric.name} compares an example with its corrupted versions, and there is no corruption"
            reader.error(("metrics", index), f"{sentence}; write one under `corruptions:`")
        if "distances" in metric.spec.needs and not has_distances:
            sentence = f"{metric.name} needs distances, and there is no attack without `eps`"
            reader.error(("metrics", index), f"{sentence}; write one under `attacks:`")


def labels(reader: FieldReader, models: Models) -> bool:
    """Check that labels and the reference model occur once. Returns False if a model needs another label."""
    seen: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    is_unique = True
    for path, model in models:
        column = model.run_of or model.label
        taken = model.label if model.label in seen else column
        other = seen.get(model.label, columns.get(column, path[1]))
        if other != path[1]:
            line = reader.line(("models", other), path)
            sentence = f"the label '{taken}' is taken by the model in {line}; give it a `label:`"
            reader.error(path, sentence, once=True)
        elif model.label in seen:
            sentence = f"the pattern means several models, which cannot share the label '{taken}'; leave it out"
            reader.error((*path, "label"), sentence, once=True)
        is_unique &= other == path[1] and model.label not in seen
        seen.setdefault(model.label, path[1])
        columns.setdefault(column, path[1])
    references = [path for path, model in models if model.reference]
    for path in references[1:]:
        reader.error((*path, "reference"), "only one model can be the reference")
    return is_unique


def unique(reader: FieldReader, perturbations: Perturbations) -> None:
    """Check that perturbations occur once."""
    reported = set()
    names: dict[Any, yaml.Path] = {}
    settings: dict[Any, list[tuple[yaml.Path, Perturbation]]] = {}
    for path, perturbation in perturbations:
        name = (*_setting(perturbation), perturbation.name)
        alike = settings.setdefault((*_setting(perturbation), perturbation.eps, perturbation.severity), [])
        same = (at for at, other in alike if _have_equal_options(other, perturbation))  # 0.5 may be written as 1/2
        earlier = names.get(name) or next(same, None)
        strength = (path, perturbation.eps, perturbation.severity)
        if earlier is not None and strength not in reported:  # a pattern may mean several of this strength
            reader.error(path, f"{perturbation.name} is already in {reader.line(earlier, path)}")
            reported.add(strength)
        names.setdefault(name, path)
        alike.append((path, perturbation))


def nearest_or_all(word: str, known: Iterable[str]) -> str:
    """Return the suggestion of the nearest known word, or the list of all, at most 20."""
    words = list(known)
    more = f" and {len(words) - 20} more" if len(words) > 20 else ""
    some = f"; there are {', '.join(map(printable, words[:20]))}{more}" if words else ""
    return did_you_mean(word, words) or some


def _have_equal_options(one: Perturbation, other: Perturbation) -> bool:
    try:
        with plugin_code():
            return bool(one.params == other.params)
    except Exception:  # options that cannot be compared; their names differ
        return False


def _setting(perturbation: Perturbation) -> tuple[Any, ...]:
    """Return what two equal perturbations share beside their options and their strength."""
    return perturbation.entry.name, bool(perturbation.nested), perturbation.source, perturbation.eight_bit
