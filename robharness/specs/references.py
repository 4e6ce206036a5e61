"""References from a plugin's options to other plugins' models and components; the core resolves them in a suite."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

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
        Raises ContractViolation for weights that do not fit, and RuntimeError in other functions of a plugin.
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
    A name without a slash is one of the plugin that has the option. `Annotated[Component, "network", "small"]` lets
    a mapping without a name have the options of `small`.

    KEY: key of the name in a mapping, which a subclass may change.
    name: as written; a component of the plugin that has the option loses its namespace.
    options: as written.
    spec: the resolved `ComponentSpec`; None in an option that no suite was read for.
    params: the component's options as its own dataclass; None if it has none.
    full_name: with the namespace; empty before it is resolved.
    origin: the plugin that declares it; None before it is resolved.
    is_implied: whether a mapping without a name means this component.
    """

    KEY: ClassVar[str] = "name"

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        spec: Any = None,
        params: Any = None,
        full_name: str = "",
        origin: Any = None,
        is_implied: bool = False,
    ) -> None:
        self.name, self.options, self.spec, self.params = name, dict(options or {}), spec, params
        self.full_name, self.origin, self.is_implied = full_name, origin, is_implied

    @classmethod
    def read(cls, value: Any) -> Self:
        """Return the component that a suite's value names. Raises ValueError for a value of another form."""
        if isinstance(value, Component):
            kept = {key: item for key, item in vars(value).items() if key not in ("name", "options")}
            return value if isinstance(value, cls) else cls(value.name, value.options, **kept)
        if isinstance(value, str) and value:
            return cls(value)
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            name = value.get(cls.KEY, "")
            if isinstance(name, str) and (name or cls.KEY not in value):
                return cls(name, {key: item for key, item in value.items() if key != cls.KEY})
        raise ValueError(f"a component is a name, or a mapping such as {{{cls.KEY}: NAME}}")

    @property
    def written(self) -> str | dict[str, Any]:
        """The shortest value of a suite that means this component."""
        return {**({self.KEY: self.name} if self.name else {}), **self.options} if self.options else self.name

    def build(self, *arguments: Any) -> Any:
        """Return what the component's `build` makes of its options and these arguments.

        Raises ValueError for a component that is not resolved.
        """
        if self.spec is None:
            raise ValueError(f"the component {self.name} is not resolved; only a suite resolves it")
        return self.spec.build(copy.deepcopy(self.params), *arguments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Component):
            return NotImplemented
        if self.spec is None or other.spec is None:
            return (self.name, self._changed) == (other.name, other._changed)
        return (self.full_name, self.params) == (other.full_name, other.params)

    @property
    def _changed(self) -> dict[str, Any]:
        """The options as written, or those that differ from their defaults if they are known."""
        if self.spec is None or self.params is None:
            return self.options
        return {name: value for name, value in vars(self.params).items() if value != _default(self.params, name)}

    def __hash__(self) -> int:
        return hash(self.name.rpartition("/")[2])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}{f', {self.options}' if self.options else ''})"

    def __str__(self) -> str:
        return self.name

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        plain = core_schema.plain_serializer_function_ser_schema(lambda component: component.written)
        return core_schema.no_info_plain_validator_function(cls.read, serialization=plain)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "object"}]}


def encoders_of(params: Any) -> dict[str, Encoder]:
    """Return the encoders among a model's options, by option."""
    fields = dataclasses.fields(params) if dataclasses.is_dataclass(params) else ()
    values = {item.name: getattr(params, item.name) for item in fields}
    return {name: value for name, value in values.items() if isinstance(value, Encoder)}


def encoder_options(params: type | None) -> list[str]:
    """Return the names of the options of a model that are encoders, by their types."""
    hints = get_type_hints(params) if params is not None else {}
    return [name for name, hint in hints.items() if hint is Encoder or Encoder in get_args(hint)]


def _default(params: Any, name: str) -> Any:
    item = type(params).__dataclass_fields__[name]
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


class Role(NamedTuple):
    """The role of the components that an option takes.

    name: e.g. "network".
    implied: name of the component that a mapping without a name means; empty if a name is needed.
    key: of the name in a mapping.
    """

    name: str
    implied: str = ""
    key: str = Component.KEY


def component_roles(params: type) -> dict[str, Role]:
    """Return the role of the component by option, for the options that are components."""
    roles = ((name, _role(hint)) for name, hint in get_type_hints(params, include_extras=True).items())
    return {name: role for name, role in roles if role is not None}


def _role(hint: Any) -> Role | None:
    """Return the texts in `Annotated[Component, role, implied]`, also inside of a union; None for other types."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        texts = [note for note in notes if isinstance(note, str)]
        if not (isinstance(inner, type) and issubclass(inner, Component) and texts):
            return _role(inner)
        return Role(texts[0], texts[1] if len(texts) > 1 else "", inner.KEY)
    if get_origin(hint) in (Union, UnionType):
        return next((role for each in get_args(hint) if (role := _role(each)) is not None), None)
    return None


def references_in(params: Any) -> Iterator[tuple[str, Encoder | Component]]:
    """Yield the encoders and components in options, with the names of their options, such as "objective.network".

    Those in nested records, in the options of a component and in those of an encoder's model are among them.
    """
    is_record = dataclasses.is_dataclass(params) and not isinstance(params, type)  # a spec holds types of options
    for item in dataclasses.fields(params) if is_record else ():
        value = getattr(params, item.name)
        inner = value
        if isinstance(value, Encoder | Component):
            yield item.name, value
            holder = value if isinstance(value, Component) else getattr(value.model, "ref", value.model)
            inner = getattr(holder, "params", None)
        for name, reference in references_in(inner):
            yield f"{item.name}.{name}", reference
