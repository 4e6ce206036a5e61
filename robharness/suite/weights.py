"""The files of weights that a suite gives, and its choice of the state in them: `weights`, `inside`, `strip`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from robharness import specs
from robharness.errors import did_you_mean
from robharness.plugins import Entry
from robharness.suite import yaml
from robharness.suite.fields import FieldReader
from robharness.suite.records import EncoderRef, ModelRef

Files = Path | dict[str, Path] | None


def files(reader: FieldReader, path: yaml.Path, ref: ModelRef | EncoderRef) -> Files:
    """Return the absolute paths of a model's `weights`: one, or several by name; None if the suite gives none."""
    if not isinstance(ref.weights, dict):
        return None if ref.weights is None else _file(reader, (*path, "weights"), ref.weights)
    return {name: _file(reader, (*path, "weights", name), file) for name, file in ref.weights.items()}


def _file(reader: FieldReader, place: yaml.Path, file: str) -> Path:
    """Return the path of a file, which is relative to the folder of its place; `~` is the home folder."""
    folder = reader.folder(place)
    try:
        return folder / Path(file).expanduser()
    except RuntimeError:  # no home folder, or no user of that name
        reader.error(place, f"the home folder in '{file}' is not known; write the path in full")
        return folder / file


def state_choice(
    reader: FieldReader, path: yaml.Path, entry: Entry, ref: ModelRef | EncoderRef, given: Files
) -> dict[str, Any]:
    """Return `inside` and `strip` of a model, after adding the errors of keys that do not fit its weights.

    given: from `files`.
    """
    keys = {key: getattr(ref, key) for key in ("inside", "strip") if getattr(ref, key) is not None}
    for key, value in keys.items():
        _check(reader, (*path, key), key, value, entry, given)
    if isinstance(given, dict) and all(isinstance(value, dict) for value in keys.values()):
        for name, other in itertools.combinations(given, 2):
            differ = any(value.get(name) != value.get(other) for value in keys.values())
            if given[name] == given[other] and differ:
                sentence = f"'{name}' and '{other}' are one file, of which one state can be chosen. Copy the file"
                reader.error((*path, "weights"), sentence)
    return keys


def _check(reader: FieldReader, place: yaml.Path, key: str, value: Any, entry: Entry, given: Files) -> None:
    if given is None and isinstance(entry.spec.weights, specs.Train):
        sentence = f"{entry.name} is trained here, so that no state is chosen; leave '{key}' out, or add `weights:`"
        reader.error(place, sentence, at_key=True)
    elif given is None:
        sentence = f"'{key}' chooses the state in a file that the suite names; add `weights:`, or leave '{key}' out"
        reader.error(place, sentence, at_key=True)
    elif isinstance(value, str) and isinstance(given, dict):
        name, text = yaml.quoted(next(iter(given), "NAME")), yaml.quoted(value)
        sentence = f"`weights` are several files; write the name of one, `{key}: {{{name}: {text}}}`"
        reader.error(place, sentence)
    elif isinstance(value, dict) and isinstance(given, Path):
        text = yaml.quoted(next(iter(value.values()), "TEXT"))
        reader.error(place, f"`weights` is one file; write one text, `{key}: {text}`")
    elif isinstance(value, dict) and isinstance(given, dict):
        for name in value:
            if name not in given:
                sentence = f"`weights` has no file '{name}'; it has {', '.join(given)}{did_you_mean(name, given)}"
                reader.error((*place, name), sentence, at_key=True)
    if value in ("", {}) or (isinstance(value, dict) and "" in value.values()):
        reader.error(place, f"'{key}' is empty; leave it out")
