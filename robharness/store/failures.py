"""Recorded failures of cells."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robharness.errors import ENSEMBLE, ContractViolation, describe, surrogate_part
from robharness.planning.cells import Cell
from robharness.planning.planned import PlannedModel
from robharness.store.spans import Span
from robharness.text import attributed


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The reason why a cell has no outcomes for the positions start to stop - 1.

    blame: the distribution at fault, or the path of a loose plugin file.
    error: the name of the component at fault, with the label of a surrogate, and what happened.
    traceback: of the exception, as text.
    refutes: the code of the audit's check of the model that the failure refutes, such as "deterministic", or "".
    """

    start: int
    stop: int
    blame: str
    error: str
    traceback: str = ""
    refutes: str = ""

    def __str__(self) -> str:
        """Return the error and the distribution as one line, its command last; a copied store may hold any text."""
        return attributed(self.error, self.blame)

    @classmethod
    def parse(cls, record: Mapping[str, Any], span: Span) -> Failure:
        """Return the failure that a record describes.

        span: the positions in the name of its file.
        Raises ValueError, with the reason, if it describes none of this span.
        """
        texts = ("blame", "error", "traceback", "refutes")
        facts = {name: record.get(name, "") for name in ("start", "stop", *texts)}
        if (facts["start"], facts["stop"]) != span or not all(type(facts[name]) is int for name in ("start", "stop")):
            raise ValueError("it is of other examples than its name says")
        if not all(isinstance(facts[name], str) for name in texts) or not facts["error"]:
            raise ValueError("it does not say in words what failed")
        return cls(**facts)

    @classmethod
    def of(cls, cell: Cell, span: Span, error: BaseException) -> Failure:
        """Find the distribution at fault for an exception that left a cell without outcomes for a span."""
        by = error.by if isinstance(error, ContractViolation) else "data"
        part = by.partition(".")[0]
        surrogates = {surrogate_part(number): (each,) for number, each in enumerate(cell.surrogates, 1)}
        at_fault: Sequence[PlannedModel] = cell.surrogates if part == ENSEMBLE else surrogates.get(part, ())
        if part == "data":
            entry, blame = cell.data.entry, cell.data.entry.origin
        elif at_fault:
            entry, blame = at_fault[0].entry, at_fault[0].at_fault(by).origin
        elif part == "model" or cell.perturbation is None:
            entry, blame = cell.model.entry, cell.model.at_fault(by).origin
        else:  # also whatever a plugin's own exception says
            entry, blame = cell.perturbation.entry, cell.perturbation.entry.origin
        text = str(error) if isinstance(error, ContractViolation) else describe(error)
        name = ", ".join(dict.fromkeys(each.entry.name for each in at_fault)) or entry.name
        if at_fault:
            kind = "surrogate" if len(at_fault) == 1 else "ensemble"
            name += f", the {kind} {'+'.join(each.label for each in at_fault)}"
        return cls(
            start=span[0],
            stop=span[1],
            blame=str(blame),
            error=f"{name}: {text}",
            traceback="".join(traceback.format_exception(error.__cause__ or error)),
            refutes=error.refutes if isinstance(error, ContractViolation) else "",
        )
