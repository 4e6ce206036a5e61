"""A comparison as a user asks for it, so that messages can propose another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from robharness.errors import UserError, for_shell
from robharness.locations import Location, location
from robharness.planning.commands import DEFAULT_STORE


@dataclass(frozen=True, kw_only=True)
class Request:
    """A comparison as a user asks for it.

    operands: one or two, as words of the command line or as expressions of Python.
    models: labels before and after, if they are given.
    suite: the name of the suite in operands that are stores, if it is given.
    options: further words of the command line, or further arguments of the call.
    is_call: whether it is asked for in Python.
    """

    operands: tuple[str, ...]
    models: tuple[str, str] | None = None
    suite: str | None = None
    options: tuple[str, ...] = ()
    is_call: bool = False

    @classmethod
    def of_call(
        cls,
        operands: Sequence[object],
        *,
        models: tuple[str, str] | None,
        suite: str | None,
        store: str | Location,
        limit: int | None,
    ) -> Request:
        """Return the comparison that a call of Python asks for; operands that are no paths are named by their place."""
        words = [
            repr(str(each)) if isinstance(each, str | PurePath) else name
            for each, name in zip(operands, ("before", "after"), strict=False)
        ]
        options = [f"store={str(store)!r}"] if location(store) != DEFAULT_STORE else []
        options += [f"limit={limit}"] if limit is not None else []
        return cls(operands=tuple(words), models=models, suite=suite, options=tuple(options), is_call=True)

    def again(
        self,
        *,
        operands: Sequence[str] | None = None,
        models: tuple[str, str] | None = None,
        suite: str | None = None,
    ) -> str:
        """Return the command, or the call of Python, of the same comparison with other words."""
        asked = replace(
            self,
            operands=self.operands if operands is None else tuple(operands),
            models=models or self.models,
            suite=suite or self.suite,
        )
        return asked._call if self.is_call else asked._command

    @property
    def help(self) -> str:
        """The command, or the call of Python, that says what can be compared."""
        return "help(robharness.compare)" if self.is_call else "robharness compare --help"

    @property
    def _command(self) -> str:
        words = ["robharness", "compare", *map(for_shell, self.operands)]
        if self.models:
            words += ["--models", *map(for_shell, self.models)]
        if self.suite:
            words += ["--suite", for_shell(self.suite)]
        return " ".join([*words, *self.options])

    @property
    def _call(self) -> str:
        words = list(self.operands)
        if self.models:
            words.append(f"models={self.models!r}")
        if self.suite:
            words.append(f"suite={self.suite!r}")
        return f"robharness.compare({', '.join([*words, *self.options])})"


def as_models(value: Any) -> tuple[str, str] | None:
    """Return two labels that a caller in Python gave. Raises UserError for anything else."""
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(each, str) for each in value):
        return value[0], value[1]
    raise UserError('`models` are two labels, before and after. Try: models=("Before", "After")')
