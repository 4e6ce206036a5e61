"""Recorded failures of cells."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from robharness.errors import ContractViolation
from robharness.planning.cells import Cell
from robharness.store.spans import Span
from robharness.text import printable, sentence


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The reason why a cell has no outcomes for the positions start to stop - 1.

    blame: the distribution at fault, or the path of a loose plugin file.
    error: the name of the component at fault and what happened.
    traceback: of the exception, as text.
    """

    start: int
    stop: int
    blame: str
    error: str
    traceback: str = ""

    def __str__(self) -> str:
        """Return the error and the distribution as one line; a store that was copied may hold any text."""
        return f"{sentence(self.error)} ({printable(self.blame)})"

    @classmethod
    def of(cls, cell: Cell, span: Span, error: BaseException) -> Failure:
        """Find the distribution at fault for an exception that left a cell without outcomes for a span."""
        by = error.by if isinstance(error, ContractViolation) else "data"
        if by == "perturbation" and cell.perturbation is not None:
            entry = cell.perturbation.entry
        elif by == "surrogate" and cell.surrogate is not None:
            entry = cell.surrogate.entry
        else:
            entry = cell.data.entry if by == "data" else cell.model.entry
        text = str(error) if isinstance(error, ContractViolation) else f"{type(error).__name__}: {error}"
        return cls(
            start=span[0],
            stop=span[1],
            blame=str(entry.origin),
            error=f"{entry.name}: {text}",
            traceback="".join(traceback.format_exception(error.__cause__ or error)),
        )
