"""References in a plugin's options to models and components of any plugin: read with their places, and resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from robharness.errors import UserError
from robharness.plugins import Entry
from robharness.plugins.calls import plugin_code
from robharness.specs import DataRef, ModelSpec
from robharness.specs.conventions import NO_LABELS
from robharness.specs.references import Component, Encoder, Role, component_roles, encoder_options, encoders_of
from robharness.suite import data, weights, yaml
from robharness.suite.fields import FieldReader, field_names
from robharness.suite.records import EncoderRef
from robharness.suite.resolved import Model
from robharness.text import printable

ReadSpec = Callable[[yaml.Path, Entry, EncoderRef, Any], ModelSpec]
"""(path, entry, record, options) -> the spec with the fields that depend on its options, after adding its errors."""


def resolved(reader: FieldReader, entry: Entry, params: Any, path: yaml.Path, read_spec: ReadSpec) -> Any:
    """Return options whose references are resolved, also those in nested records, or None after adding errors.

    entry: the plugin's entry that has the options.
    path: of the item in the suite.
    """
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        return params
    changes: dict[str, Any] = {}
    roles, before = component_roles(type(params)), len(reader.errors)
    with plugin_code():
        values = {item.name: getattr(params, item.name) for item in dataclasses.fields(params)}
    for name, value in values.items():
        at = (*path, name)
        if isinstance(value, DataRef):
            changes[name] = data.referred(reader, value, at, for_training=_is_for_training(entry))
        elif isinstance(value, Component):
            changes[name] = _component(reader, entry, value, roles.get(name, Role("")), at)
        elif isinstance(value, Encoder) and not isinstance(entry.spec, ModelSpec):
            reader.error(at, f"{entry.name} is no model, and only a model has encoders among its options")
        elif isinstance(value, Encoder):
            changes[name] = _encoder(reader, at, value.written, read_spec)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            nested = resolved(reader, entry, value, at, read_spec)
            changes |= {} if nested is value else {name: nested}
    if len(reader.errors) > before or any(value is None for value in changes.values()):
        return None
    try:
        with plugin_code():
            return dataclasses.replace(params, **changes) if changes else params
    except ValueError as error:  # as pydantic reports it for options without references
        reader.error(path, str(error))
        return None


def _encoder(reader: FieldReader, path: yaml.Path, written: dict[str, Any], read_spec: ReadSpec) -> Encoder | None:
    """Return the encoder that a mapping in an option describes, or None after adding its errors."""
    if "model" not in written:
        reader.missing(path, "model")
        return None
    before, settled = len(reader.errors), reader.settled
    found = list(reader.entries("models", EncoderRef, written, path))
    reader.settled = settled
    if len(reader.errors) > before or not found:
        return None
    if len(found) > 1:
        reader.error((*path, "model"), f"an encoder is one model; the pattern means {len(found)}")
        return None
    [(entry, ref, params)] = found
    spec = read_spec(path, entry, ref, params)
    given = weights.files(reader, path, ref)
    if ref.features is not None:
        spec = dataclasses.replace(spec, features=ref.features, trunk=None)
    elif spec.features is None and spec.trunk is None and spec.labels != NO_LABELS:
        sentence = f"{entry.name} declares no `features`; name the submodule whose output they are, `features: NAME`"
        reader.error(path, sentence)
        return None
    model = Model(
        entry=dataclasses.replace(entry, spec=spec), params=params, label=entry.name, reference=False,
        weights=given, **weights.state_choice(reader, path, entry, ref, given),
    )  # fmt: skip
    if model.is_trained and len(reader.errors) == before:
        try:
            model = dataclasses.replace(model, data=data.trained_on(entry, params, reader.registry))
        except UserError as error:
            reader.error((*path, "model"), str(error))
    return None if len(reader.errors) > before else Encoder(written, model=model)


def needs_probe(reader: FieldReader, entry: Entry, item: Mapping[str, Any]) -> str:
    """Return the error of an encoder in the place of a model: the probe to write, if a plugin has one.

    item: the model as the suite writes it, whose keys the encoder keeps.
    """
    sentence = f"{entry.name} is an encoder, which gives no classes"
    models = reader.registry.models
    probes = [name for name, each in models.items() if encoder_options(each.spec.params)]
    if not probes:
        return f"{sentence}, and no installed model takes an `encoder`. Try: robharness list models"
    params = models[probes[0]].spec.params
    encoder = {"model": entry.name, **{key: item[key] for key in item if key not in ("model", *_OF_MODELS)}}
    probe: dict[str, Any] = {"model": probes[0], encoder_options(params)[0]: encoder}
    written = reader.document.data.get("data")
    name = written.get("name") if isinstance(written, Mapping) else written
    needed = [option for option, hint in get_type_hints(params).items() if hint is DataRef]
    probe |= dict.fromkeys(needed, name) if isinstance(name, str) else {}
    probe |= {key: item[key] for key in _OF_MODELS if key in item}
    more = f", or one of {', '.join(probes[1:])}" if probes[1:] else ""
    return f"{sentence}; write `{yaml.flow(probe)}`{more}"


_OF_MODELS = ("label", "reference", "seed", "seeds", "clean_at_least")
"""Keys of a model that an encoder has not."""


def require_kinds(reader: FieldReader, path: yaml.Path, model: Model) -> None:
    """Add an error for training data of another kind of examples than an encoder of the model takes."""
    for option, encoder in encoders_of(model.params).items():
        for split in model.data.values():
            entry = split.entry
            if encoder.model is not None and encoder.input.kind != entry.spec.kind:
                sentence = f"{encoder.name} takes {encoder.input.kind}s, {entry.name} holds {entry.spec.kind}s"
                reader.error((*path, option), f"{sentence}. Try: robharness list datasets", once=True)


def needs_training(model: Model) -> bool:
    """Return whether the suite trains a model or an encoder in its options."""
    encoders = [encoder.model for encoder in encoders_of(model.params).values() if encoder.model is not None]
    return model.is_trained or any(needs_training(encoder) for encoder in encoders)


def _is_for_training(entry: Entry) -> bool:
    """Return whether an option with data of this entry is for its training: that of a model, not that of an attack."""
    return isinstance(entry.spec, ModelSpec)


def _component(
    reader: FieldReader, owner: Entry, component: Component, role: Role, path: yaml.Path
) -> Component | None:
    """Return a component with its spec and its options, or None after adding an error."""
    at_name = (*path, component.KEY)
    at_name = at_name if at_name in reader.document.values else path
    if not (component.name or role.implied):
        reader.missing(path, component.KEY)
        return None
    own = f"{owner.origin.namespace}/"
    short = (component.name or role.implied).removeprefix(own)
    entry = reader.entry("components", short if "/" in short else f"{own}{short}", at_name)
    if entry is None:
        return None
    if role.name and entry.spec.role != role.name:
        alike = [each for each, other in reader.registry.components.items() if other.spec.role == role.name]
        sentence = f"{entry.name} has the role '{entry.spec.role}', and the role '{role.name}' is needed here"
        reader.error(at_name, f"{sentence}; there are {', '.join(map(printable, alike)) or 'none'}")
        return None
    known = [] if entry.spec.params is None else field_names(entry.spec.params)
    before, options = len(reader.errors), reader.known(component.options, path, [component.KEY, *known])
    params = reader.params(entry, options, path)
    if len(reader.errors) > before or reader.is_unread(path) or (params is None and entry.spec.params is not None):
        return None
    return type(component)(
        short, component.options, spec=entry.spec, params=params, full_name=entry.name, origin=entry.origin,
        is_implied=short == role.implied,
    )  # fmt: skip
