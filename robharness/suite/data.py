"""Data sets that a suite, or an option of a plugin, names: read with their places, and resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from robharness.errors import UserError, describe, did_you_mean
from robharness.plugins import Entry, Registry
from robharness.plugins.calls import call_spec, plugin_code, returned
from robharness.specs import DataRef
from robharness.suite import records, source, yaml
from robharness.suite.fields import FieldReader, field_names, plugin_options, sentence_of
from robharness.suite.resolved import Data
from robharness.text import printable


def read(
    reader: FieldReader, raw: Any, path: yaml.Path, *, for_training: bool = False, is_suite: bool = False
) -> Data | None:
    """Return the data that a text or a mapping describes, or None after adding an error.

    is_suite: whether a suite measures on them, so that logits may be restricted to some classes.
    for_training: whether a training reads them, so that a split that is left out is the one called "train".
    """
    if isinstance(raw, str) and raw:
        raw, at = {"name": raw}, path
    else:
        at = (*path, "name")
    if not isinstance(raw, dict):
        reader.error(path, "data are the name of a data set, or a mapping such as {name: NAME}")
        return None
    entry = reader.entry("datasets", raw.get("name"), at)
    own = [key for key in field_names(records.DataRef) if is_suite or key != "classes"]
    options = field_names(entry.spec.params) if entry is not None and entry.spec.params is not None else []
    reader.known(raw, path, [*own, *options], others=entry is None and isinstance(raw.get("name"), str))
    ref = reader.record(records.DataRef, {key: raw[key] for key in raw if key in own}, path)
    if entry is None:
        return None
    params = reader.params(entry, plugin_options(raw, entry), path)
    if params is None and entry.spec.params is not None:
        return None
    entry = _with_given(reader, entry, params, path)
    written = raw.get("split")
    is_read = written is None or isinstance(written, str)
    split = _split(reader, entry, written, path, for_training=for_training) if is_read else ""
    classes = _classes(reader, entry, ref.classes, path) if ref is not None else None
    return Data(entry=entry, params=params, split=split, limit=ref and ref.limit, classes=classes)


def referred(reader: FieldReader, ref: DataRef, path: yaml.Path, *, for_training: bool = True) -> DataRef | None:
    """Return a reference of a plugin with its data set resolved, or None after adding an error."""
    if ref.resolved is not None:
        return ref
    keys = {"name": ref.name, "split": ref.split or None, "limit": ref.limit}
    raw = {**{key: value for key, value in keys.items() if value is not None}, **ref.options}
    before = len(reader.errors)
    data = read(reader, raw if len(raw) > 1 else ref.name, path, for_training=for_training)
    if data is None or len(reader.errors) > before:
        return None
    return dataclasses.replace(ref, split=data.split, resolved=data)


def trained_on(entry: Entry, params: Any, registry: Registry) -> dict[str, Data]:
    """Return the training data of a model by role.

    Raises UserError if the plugin's function fails, or for an unknown data set or split.
    """
    found = {}
    try:
        with plugin_code():
            declared = returned("data", call_spec(entry.spec.weights.data, params), Mapping)
            refs = {str(role): ref for role, ref in declared.items()}
            wrong = [role for role, ref in refs.items() if not isinstance(ref, DataRef)]
    except Exception as error:  # a plugin's function may raise anything
        raise UserError(f"{entry.name} ({entry.origin}): {describe(error)}") from error
    if wrong:
        raise UserError(f"{entry.name} ({entry.origin}): its data '{wrong[0]}' are no DataRef")
    for role, ref in refs.items():
        reader = FieldReader(source.from_mapping({}), registry)
        if (known := referred(reader, ref, ())) is None:
            *_, sentence = reader.errors[0]
            raise UserError(f"{entry.name} ({entry.origin}) is trained on '{role}': {sentence}")
        found[role] = known.resolved
    return found


def _with_given(reader: FieldReader, entry: Entry, params: Any, path: yaml.Path) -> Entry:
    """Return the entry with the fields of its spec that depend on the options."""
    if entry.spec.given is None:
        return entry
    try:
        given = returned("given", call_spec(entry.spec.given, params), Mapping)
        return dataclasses.replace(entry, spec=dataclasses.replace(entry.spec, **given))
    except Exception as error:  # a plugin's function may raise anything
        reader.error(path, f"{entry.name} ({entry.origin}): {sentence_of(error)}")
        return entry


def _split(reader: FieldReader, entry: Entry, split: str | None, path: yaml.Path, *, for_training: bool) -> str:
    """Return the split that is written, or the one that is meant if none is; empty after adding an error."""
    splits: list[str] = list(entry.spec.splits)
    if split is None:
        if len(splits) == 1:
            return splits[0]
        if for_training and (not splits or "train" in splits):  # any name may be a split, e.g. that of a folder
            return "train"
        known = f"{entry.name} has {', '.join(map(printable, splits))}" if splits else ""
        reader.missing(path, "split", known)
        return ""
    if splits and split not in splits:
        sentence = f"{entry.name} has no split '{printable(split)}'; it has {', '.join(map(printable, splits))}"
        reader.error((*path, "split"), sentence + did_you_mean(split, splits))
    return split


def _classes(
    reader: FieldReader, entry: Entry, written: str | tuple[int, ...] | None, path: yaml.Path
) -> tuple[int, ...] | Literal["present"] | None:
    """Return the classes that logits are restricted to; None for all, and after adding an error."""
    at, spec = (*path, "classes"), entry.spec
    if written is None or written == "present":
        return "present" if written else None
    if isinstance(written, str):
        if written in spec.masks:
            return tuple(sorted(spec.masks[written]))
        known = ["present", *spec.masks]
        sentence = f"{entry.name} has no classes '{printable(written)}'; there are {', '.join(map(printable, known))}"
        reader.error(at, f"{sentence}, or a list of their numbers{did_you_mean(written, known)}")
        return None
    if len(written) < 2:
        reader.error(at, "a classifier needs at least two classes")
        return None
    if len(set(written)) < len(written):
        reader.error(at, "a class occurs twice")
    if spec.known_classes is not None and max(written) >= spec.known_classes:
        sentence = f"there is no class {max(written)}; '{spec.labels}' has 0 to {spec.known_classes - 1}"
        reader.error(at, sentence)
    return tuple(sorted(written))
