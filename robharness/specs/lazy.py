"""Functions that a record names as "module:function"; their module is imported at the first call."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class LazyFunction:
    """A function that is imported when it is first called.

    target: "module:function".
    """

    target: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function. Raises ImportError, with the target, if there is no such module or function."""
        return self.load()(*arguments, **named)

    def load(self) -> Any:
        """Import the function. Raises ImportError, with the target, if there is no such module or function."""
        module, _, name = self.target.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ImportError(f"'{self.target}' cannot be imported: {error}") from error


def is_target(value: object) -> bool:
    """Return whether a value has the form "module:function"."""
    if not isinstance(value, str):
        return False
    module, colon, name = value.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve_targets(record: object, names: tuple[str, ...]) -> None:
    """Replace each of these fields of a frozen record by a LazyFunction if its value is "module:function"."""
    for name in names:
        value = getattr(record, name)
        if is_target(value):
            object.__setattr__(record, name, LazyFunction(value))
