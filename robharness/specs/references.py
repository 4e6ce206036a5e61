"""References from a plugin's options to other plugins' models and components; the core resolves them in a suite."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from robharness.specs.inputs import InputSpec, Preprocessing

if TYPE_CHECKING:
    from torch import nn


class Encoder:
    """A model of any plugin whose features are used, as the type of an option: `encoder: Encoder`.

    In a suite it is a mapping with the keys of a model, such as `{model: mine/vit, weights: ./mine.pt}`: `inside`,
    `strip`, `preprocessing`, the model's own options; and `features`, another submodule than the model declares.
    An encoder counts in identities by the content of its files, or by the recipe that trains it.

    written: the mapping.
    model: the resolved model of a suite, or the planned one; None in an option that no suite was read for.
    identity: of the planned model, as plain data.
    load: builds the network; set for trainings and for `build`.
    """

    def __init__(
        self,
        written: Mapping[str, Any],
        *,
        model: Any = None,
        identity: Any = None,
        load: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.written, self.model, self.identity, self._load = dict(written), model, identity, load

    @property
    def name(self) -> str:
        """Full name of the model, e.g. "mine/vit"."""
        return str(self.written.get("model", ""))

    @property
    def input(self) -> InputSpec:
        """Input of the network."""
        found: InputSpec = self._spec.input
        return found

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing from a data set's pixels to the input; None if data must have the input's shape."""
        found: Preprocessing | None = self._spec.preprocessing
        return found

    @property
    def label_space(self) -> str:
        """Label space of the model, "none" for an encoder alone."""
        found: str = self._spec.labels
        return found

    def load(self) -> nn.Module:
        """Build the network in eval mode, on the CPU: inputs (N, *input.shape) in [0, 1] -> features (N, D) float32.

        `train` and `build` may call it; each call builds a network of its own, whose gradients flow. Modules that only
        follow the features are not run, and have no state in it.
        Raises UserError for weights that do not fit, and RuntimeError in other functions of a plugin.
        """
        if self._load is None:
            raise RuntimeError(f"the encoder {self.name} is not loaded here; call load() in `train` or in `build`")
        return self._load()

    def loaded_by(self, load: Callable[[], nn.Module]) -> Encoder:
        """Return the same encoder with the function that builds its network."""
        return Encoder(self.written, model=self.model, identity=self.identity, load=load)

    @property
    def _spec(self) -> Any:
        if self.model is None:
            raise ValueError(f"the encoder {self.name} is not resolved; only a suite resolves it")
        return self.model.entry.spec

    def __repr__(self) -> str:
        return f"Encoder({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __copy__(self) -> Encoder:
        return self

    def __deepcopy__(self, memo: Any) -> Encoder:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> Encoder:
            if isinstance(value, Encoder):
                return value
            if not isinstance(value, Mapping):
                raise ValueError("an encoder is a mapping such as {model: NAME}")
            return cls(value)

        return core_schema.no_info_plain_validator_function(read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"model": {"type": "string"}}, "required": ["model"]}


class Component:
    """A component of any plugin, as the type of an option: `network: Annotated[Component, "network"]`.

    In a suite it is a name, or a mapping with the name and the component's own options: `{name: mine/vit, depth: 3}`.
    A name without a slash is one of the plugin that has the option.

    name: as written.
    options: as written.
    spec: the resolved `ComponentSpec`; None in an option that no suite was read for.
    params: the component's options as its own dataclass; None if it has none.
    full_name: with the namespace; empty before it is resolved.
    digest: sha256 of the loose file that declares it; None for an installed plugin.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        spec: Any = None,
        params: Any = None,
        full_name: str = "",
        digest: str | None = None,
    ) -> None:
        self.name, self.options, self.spec, self.params = name, dict(options or {}), spec, params
        self.full_name, self.digest = full_name, digest

    def build(self, *arguments: Any) -> Any:
        """Return what the component's `build` makes of its options and these arguments.

        Raises ValueError for a component that is not resolved.
        """
        if self.spec is None:
            raise ValueError(f"the component {self.name} is not resolved; only a suite resolves it")
        return self.spec.build(copy.deepcopy(self.params), *arguments)

    @property
    def identity(self) -> Any:
        """Its part of an identity: the name as written if it is the plugin's own at its defaults, or else all of it."""
        if "/" not in self.name and not self.options:
            return self.name
        return {
            "name": self.full_name or self.name,
            **({"params": self.params} if self.params is not None else {}),
            **({"revision": self.spec.revision} if self.spec is not None and self.spec.revision != 1 else {}),
            **({"source": self.digest} if self.digest else {}),
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Component):
            return NotImplemented
        return (self.name, self.options) == (other.name, other.options)  # of a default no suite has read the params

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Component({self.name!r}{f', {self.options}' if self.options else ''})"

    def __str__(self) -> str:
        return self.name

    def __copy__(self) -> Component:
        return self

    def __deepcopy__(self, memo: Any) -> Component:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> Component:
            if isinstance(value, Component):
                return value
            if isinstance(value, str) and value:
                return cls(value)
            if isinstance(value, Mapping) and isinstance(value.get("name"), str) and value["name"]:
                return cls(value["name"], {key: item for key, item in value.items() if key != "name"})
            raise ValueError("a component is a name, or a mapping such as {name: NAME}")

        return core_schema.no_info_plain_validator_function(read)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        mapping = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        return {"anyOf": [{"type": "string"}, mapping]}


def encoders_of(params: Any) -> dict[str, Encoder]:
    """Return the encoders among a model's options, by option."""
    fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
    values = {item.name: getattr(params, item.name) for item in fields}
    return {name: value for name, value in values.items() if isinstance(value, Encoder)}


def encoder_options(params: type | None) -> list[str]:
    """Return the names of the options of a model that are encoders, by their types."""
    hints = get_type_hints(params) if params is not None else {}
    return [name for name, hint in hints.items() if hint is Encoder or Encoder in get_args(hint)]


def component_roles(params: type) -> dict[str, str]:
    """Return the role of the component by option, for the options that are components."""
    roles = ((name, _role(hint)) for name, hint in get_type_hints(params, include_extras=True).items())
    return {name: role for name, role in roles if role is not None}


def _role(hint: Any) -> str | None:
    """Return the text in `Annotated[Component, text]`, also inside of a union; None for other types."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return next((note for note in notes if isinstance(note, str)), None) if inner is Component else None
    if get_origin(hint) in (Union, UnionType):
        return next((role for each in get_args(hint) if (role := _role(each)) is not None), None)
    return None
