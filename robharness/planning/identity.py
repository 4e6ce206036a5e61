"""The identity and the key of a cell: canonical JSON of everything that can change an outcome, and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from robharness.errors import UserError, describe, for_shell
from robharness.planning.cells import BLOCK
from robharness.planning.files import content_digest
from robharness.planning.planned import PlannedModel
from robharness.plugins.calls import plugin_code, shown
from robharness.plugins.registry import Entry
from robharness.specs.references import Component, Encoder
from robharness.specs.sources import DataRef
from robharness.suite import Data, Perturbation, changed_fields, identity_fields

KEY_LENGTH = 24


def spec_identity(entry: Entry, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of a spec that belong to an identity: those that can change outcomes and are not defaults."""
    fields = {key: value for key, value in changed_fields(entry.spec).items() if key not in leave_out}
    return {**fields, **({"source": entry.origin.digest} if entry.origin.digest else {})}


def data_identity(data: Data) -> dict[str, Any]:
    """Return the identity of a data set without its examples: name, split, spec fields, options."""
    params = identity_fields(data.params)
    return {
        "name": data.entry.name,
        "split": data.split,
        **spec_identity(data.entry, leave_out=("name", "labels")),
        **({"params": params} if params else {}),
    }


def perturbation_identity(perturbation: Perturbation) -> dict[str, Any]:
    """Return the identity of an attack or a corruption without its budget or severity: name, spec fields, options."""
    entry, params = perturbation.entry, identity_fields(perturbation.params)
    return {
        "kind": perturbation.kind,
        "name": entry.name,
        **spec_identity(entry, leave_out=("name", "randomness")),
        **({"params": params} if params else {}),
    }


def corruption_identity(perturbation: Perturbation) -> dict[str, Any]:
    """Return the identity of a corruption without its severity, as plain data. Raises UserError."""
    blocks = {"block": BLOCK} if perturbation.needs_blocks else {}
    found: dict[str, Any] = call_plugin(perturbation.entry, canonical, perturbation_identity(perturbation) | blocks)
    return found


def features_identity(attack: Entry, model: PlannedModel) -> dict[str, Any]:
    """Return the submodule whose features an attack uses; empty for attacks that use none, and for corruptions."""
    uses_features = getattr(attack.spec, "access", "") == "features"  # a corruption has no access at all
    return {"features": model.entry.spec.features} if uses_features else {}


def source_identity(surrogates: Sequence[PlannedModel]) -> dict[str, Any]:
    """Return the identity of the one surrogate, or those of an ensemble, of a transfer attack."""
    identities = [surrogate.identity for surrogate in surrogates]
    return identities[0] if len(identities) == 1 else {"ensemble": identities}


def call_plugin(entry: Entry, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that runs code of a plugin. An exception in it is raised as a UserError that names the plugin."""
    try:
        with plugin_code():
            return function(*arguments)
    except UserError:
        raise
    except Exception as error:
        message = f"{entry.name} of {entry.origin} cannot be planned: {describe(error)}"
        is_loose = entry.origin.location.endswith(".py")
        remedy = (
            f"leave out -p {for_shell(Path(entry.origin.location))}"
            if is_loose
            else f"add {entry.origin.blocking_option}"
        )
        raise UserError(f"{message}. Without it: {remedy}") from error


def canonical(value: Any) -> Any:
    """Return the value as plain JSON data: rationals as "a/b", records as their changed fields, sets sorted.

    Paths are the sha256 of their content. Raises UserError if that cannot be read, TypeError for other types.
    """
    if isinstance(value, Path):
        return {"sha256": content_digest(value)}
    if isinstance(value, Encoder):
        if value.identity is None:
            raise TypeError(f"the encoder {value.name} is no option of a model by itself, so that it is not planned")
        return canonical(value.identity)
    if isinstance(value, Component):
        return canonical(_component_identity(value))
    if isinstance(value, DataRef):
        limit = {} if value.limit is None else {"limit": value.limit}
        return canonical({**data_identity(value.resolved), **limit})
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical(identity_fields(value))
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        items = [canonical(item) for item in value]
        return sorted(items, key=json.dumps if any(isinstance(item, dict | list) for item in items) else None)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{shown(value)} has no place in an identity; mark its field with metadata={{'runtime': True}}")


def _component_identity(component: Component) -> Any:
    """Return the part of a component in the identity of the model that has it among its options.

    A component of the model's own plugin is what a suite writes at shortest, so that an option that once was a text or
    a record keeps its identity. A foreign one counts with its revision and the sha256 of its loose file as well.
    """
    params = identity_fields(component.params)
    spec, digest = component.spec, getattr(component.origin, "digest", None)
    revision = {"revision": spec.revision} if spec is not None and spec.revision != 1 else {}
    if "/" not in component.name:
        content = {**params, **revision}
        named = {} if component.is_implied and content else {component.KEY: component.name}
        return {**named, **content} if content or component.KEY != Component.KEY else component.name
    return {
        "name": component.full_name or component.name,
        **({"params": params} if params else {}),
        **revision,
        **({"source": digest} if digest else {}),
    }


def key_of(identity: dict[str, Any]) -> str:
    """Return the first 24 hexadecimal digits of the sha256 of the identity's canonical JSON."""
    return text_key(json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


def conditions_of(identity: Mapping[str, Any]) -> str:
    """Return the hash of a cell's conditions: of all of its identity but the model, i.e. data, perturbation, precision.

    Outcomes of two models compare if their conditions are equal. Empty for an identity that is not known.
    """
    if not identity:
        return ""
    rest = {name: value for name, value in identity.items() if name not in ("model", "features")}
    if isinstance(attack := rest.get("perturbation"), Mapping):  # which names the submodule that the model declares
        rest["perturbation"] = {name: value for name, value in attack.items() if name != "features"}
    return key_of(rest)


def text_key(text: str) -> str:
    """Return the first 24 hexadecimal digits of the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def draw_address(perturbation: Perturbation) -> str:
    """Return the address of random draws, beside the seed and the example: the perturbation without its strength.

    It leaves out the model, the weights, eps, the severity and the number of restarts, so that all models see the same
    noise and the same starts, at every budget. `field(metadata={"draws_as": {VALUE: OTHER}})` marks an option: with
    VALUE, the draws are those with OTHER.
    """
    options = perturbation.params
    for field in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        others, value = field.metadata.get("draws_as", {}), getattr(options, field.name)
        if others and value in others:
            options = dataclasses.replace(options, **{field.name: others[value]})
    params = canonical(identity_fields(options))
    params.pop("restarts", None)
    return json.dumps([perturbation.entry.name, params], sort_keys=True)
