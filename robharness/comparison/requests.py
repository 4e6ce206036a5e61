"""A comparison as a user asks for it, so that messages can propose another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robharness.errors import for_shell


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
