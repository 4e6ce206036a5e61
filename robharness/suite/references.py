"""References in a plugin's options to models and components of any plugin: read with their places, and resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from robharness.plugins import Entry
from robharness.specs import DataRef, ModelSpec
from robharness.specs.references import Component, Encoder, component_roles, encoders_of
from robharness.suite import data, yaml
from robharness.suite.fields import FieldReader
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
    """Return options whose references are resolved, or None after adding errors.

    entry: the plugin's entry that has the options.
    path: of the item in the suite.
    """
    changes: dict[str, Any] = {}
    roles = component_roles(type(params)) if dataclasses.is_dataclass(params) else {}
    before = len(reader.errors)
    for name, value in _references(params):
        at = (*path, name)
        if isinstance(value, DataRef):
            changes[name] = data.referred(reader, value, at, for_training=_is_for_training(entry))
        elif isinstance(value, Component):
            changes[name] = _component(reader, entry, value, roles.get(name, ""), at)
        elif not isinstance(entry.spec, ModelSpec):
            reader.error(at, f"{entry.name} is no model, and only a model has encoders among its options")
        else:
            changes[name] = read_encoder(at, value.written)
    if len(reader.errors) > before or any(value is None for value in changes.values()):
        return None
    return dataclasses.replace(params, **changes) if changes else params


def needs_training(model: Model) -> bool:
    """Return whether the suite trains a model or an encoder in its options."""
    encoders = [encoder.model for encoder in encoders_of(model.params).values() if encoder.model is not None]
    return model.is_trained or any(needs_training(encoder) for encoder in encoders)


def _is_for_training(entry: Entry) -> bool:
    """Return whether an option with data of this entry is for its training: that of a model, not that of an attack."""
    return isinstance(entry.spec, ModelSpec)


def _references(params: Any) -> Iterator[tuple[str, Encoder | Component | DataRef]]:
    """Yield the options that are references, by name."""
    for item in dataclasses.fields(params) if dataclasses.is_dataclass(params) else ():
        value = getattr(params, item.name)
        if isinstance(value, Encoder | Component | DataRef):
            yield item.name, value


def _component(reader: FieldReader, owner: Entry, component: Component, role: str, path: yaml.Path) -> Component | None:
    """Return a component with its spec and its options, or None after adding an error."""
    name = component.name if "/" in component.name else f"{owner.origin.namespace}/{component.name}"
    entry = reader.entry("components", name, path)
    if entry is None:
        return None
    if role and entry.spec.role != role:
        alike = [each for each, other in reader.registry.components.items() if other.spec.role == role]
        sentence = f"{name} has the role '{entry.spec.role}', and the role '{role}' is needed here"
        reader.error(path, f"{sentence}; there are {', '.join(map(printable, alike)) or 'none'}")
        return None
    known = [] if entry.spec.params is None else [item.name for item in dataclasses.fields(entry.spec.params)]
    options = reader.known(component.options, path, known)
    if len(options) < len(component.options):
        return None
    params = reader.params(entry, options, path)
    if params is None and entry.spec.params is not None:
        return None
    return Component(
        component.name,
        component.options,
        spec=entry.spec,
        params=params,
        full_name=entry.name,
        digest=entry.origin.digest,
    )
