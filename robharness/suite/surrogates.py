"""Surrogates: the models of a suite that `source` names, on which transfer attacks are crafted."""

from __future__ import annotations

from collections.abc import Iterator

from robharness.errors import glob_matches
from robharness.suite import yaml
from robharness.suite.checks import Models, nearest_or_all
from robharness.suite.fields import FieldReader
from robharness.suite.records import AttackRef
from robharness.suite.resolved import Model, source_text
from robharness.suite.unresolved import Unresolved
from robharness.text import printable


def resolved(
    reader: FieldReader, path: yaml.Path, ref: AttackRef, models: Models, unresolved: Unresolved
) -> Iterator[tuple[Model, ...]]:
    """Yield the surrogates of each transfer attack that an item of `attacks` means, or () without a `source`.

    A label or a pattern means one attack for each model, `{ensemble: ...}` one attack on all of its models together.
    Each is yielded once. Adds errors for names that no model has.
    """
    if ref.source is None:
        yield ()
        return
    place = (*path, "source")
    found: dict[str, tuple[Model, ...]] = {}
    names: dict[str, tuple[Model, ...]] = {model.label: (model,) for _, model in models}
    for source in ref.source:
        if isinstance(source, str):
            meant = _models(reader, place, source, models, unresolved)
            found |= {model.label: (model,) for model in meant}
            continue
        chosen = [model.label for each in source.ensemble for model in _models(reader, place, each, models, unresolved)]
        members = tuple(model for _, model in models if model.label in chosen)  # in one order, however it is written
        text = source_text(members)
        if members and names.setdefault(text, members) != members:
            sentence = f"'{printable(text)}' names the ensemble and another source; give a model another label"
            reader.error(place, sentence)
        elif members:
            found[text] = members
    yield from found.values()


def _models(reader: FieldReader, place: yaml.Path, name: str, models: Models, unresolved: Unresolved) -> list[Model]:
    """Return the models of a label, or else those whose labels match a pattern; adds an error if there are none."""
    by_label = {model.label: model for _, model in models}
    if name in by_label:
        return [by_label[name]]
    found = [model for label, model in by_label.items() if glob_matches(label, name)]
    if (
        not found
        and not unresolved.has_label(name, by_label)
        and not any(glob_matches(label, name) for label in unresolved.labels)
    ):
        hint = nearest_or_all(name, [*by_label, *unresolved.labels])
        reader.error(place, f"no model has the label '{printable(name)}'{hint}")
    return found
