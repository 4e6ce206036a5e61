"""References in a plugin's options to models and components of any plugin: read with their places, and resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robharness.plugins import Entry
from robharness.plugins.calls import plugin_code
from robharness.specs import DataRef, ModelSpec
from robharness.specs.references import Component, Encoder, Role, component_roles, encoders_of
from robharness.suite import data, yaml
from robharness.suite.fields import FieldReader, field_names
from robharness.suite.resolved import Model
from robharness.text import printable


@dataclass(frozen=True, kw_only=True)
class EncoderRef:
    """Keys of an encoder in an option. Other keys are the options of its plugin."""

    model: str
    weights: str | dict[str, str] | None = None
    inside: str | dict[str, str] | None = None
    strip: str | dict[str, str] | None = None
    preprocessing: dict[str, Any] | None = None
    features: str | None = None


ReadEncoder = Callable[[yaml.Path, dict[str, Any]], Encoder | None]
"""(path of the mapping, the mapping) -> the resolved encoder, or None after adding its errors."""


def resolved(reader: FieldReader, entry: Entry, params: Any, path: yaml.Path, read_encoder: ReadEncoder) -> Any:
    """Return options whose references are resolved, also those in nested records, or None after adding errors.

    entry: the plugin's entry that has the options.
    path: of the item in the suite.
    """
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        return params
    changes: dict[str, Any] = {}
    roles, before = component_roles(type(params)), len(reader.errors)
    for item in dataclasses.fields(params):
        value, at = getattr(params, item.name), (*path, item.name)
        if isinstance(value, DataRef):
            changes[item.name] = data.referred(reader, value, at, for_training=_is_for_training(entry))
        elif isinstance(value, Component):
            changes[item.name] = _component(reader, entry, value, roles.get(item.name, Role("")), at)
        elif isinstance(value, Encoder) and not isinstance(entry.spec, ModelSpec):
            reader.error(at, f"{entry.name} is no model, and only a model has encoders among its options")
        elif isinstance(value, Encoder):
            changes[item.name] = read_encoder(at, value.written)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            nested = resolved(reader, entry, value, at, read_encoder)
            changes |= {} if nested is value else {item.name: nested}
    if len(reader.errors) > before or any(value is None for value in changes.values()):
        return None
    try:
        with plugin_code():
            return dataclasses.replace(params, **changes) if changes else params
    except ValueError as error:  # as pydantic reports it for options without references
        reader.error(path, str(error))
        return None


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
