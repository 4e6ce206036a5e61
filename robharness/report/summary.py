"""One row of plain numbers per cell, for data frames and for plugins that track runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from robharness.report.records import CellNumbers, DifferenceNumbers, Report
from robharness.specs import Budget
from robharness.store.columns import import_pandas

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """A cell and its numbers as plain values; None if undefined. Accuracies and drops are fractions.

    kind: "clean", "attack" or "corruption".
    eps: of an attack with a budget.
    n: the number of stored examples.
    accuracy: over all examples; None for an ensemble, whose examples are not all perturbed.
    robust_accuracy: the share of examples that are right both clean and perturbed; None for the clean cell.
    relative_drop: from the clean accuracy to the accuracy that the report shows.
    complete: whether all examples are stored.
    key: the hash of the cell's identity, by which outcomes are stored.
    difference: of the accuracy from the reference's on the same examples; None for runs over seeds, and for one cell
        of a run that tracks its cells.
    p_holm: of the exact McNemar test of this difference, adjusted for all cells of the report.
    """

    model: str
    perturbation: str
    kind: str
    norm: str | None
    eps: float | None
    severity: int | None
    n: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    robust_accuracy: float | None
    robust_accuracy_low: float | None
    robust_accuracy_high: float | None
    relative_drop: float | None
    relative_drop_low: float | None
    relative_drop_high: float | None
    complete: bool
    key: str
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_holm: float | None = None

    @property
    def parameters(self) -> dict[str, str | float | int]:
        """The kind, the norm, eps and the severity as far as the cell has them, by name."""
        found = {"kind": self.kind, "norm": self.norm, "eps": self.eps, "severity": self.severity}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def metrics(self) -> dict[str, float]:
        """The accuracies, drops and bounds of their intervals that are defined, by name, and n."""
        numbers = {name: getattr(self, name) for name in ("n", *_NUMBERS)}
        return {name: float(value) for name, value in numbers.items() if value is not None}


_NUMBERS = tuple(
    f"{name}{end}" for name in ("accuracy", "robust_accuracy", "relative_drop") for end in ("", "_low", "_high")
)


_DIFFERENCE = ("difference", "difference_low", "difference_high", "p_holm")


def summarise(cell: CellNumbers, difference: DifferenceNumbers | None = None) -> CellSummary:
    """Return the numbers of a cell, and its difference from the reference, as one row."""
    numbers = cell.numbers
    bounds: dict[str, float | None] = {}
    for name, interval in (
        ("accuracy", numbers.interval),
        ("robust_accuracy", numbers.robust_interval),
        ("relative_drop", numbers.relative_drop_interval),
    ):
        low, high = interval if interval is not None else (None, None)
        bounds |= {f"{name}_low": low, f"{name}_high": high}
    return CellSummary(
        model=cell.model,
        perturbation=cell.perturbation,
        kind=cell.kind,
        norm=cell.norm,
        eps=None if cell.eps is None else float(Budget(cell.eps)),
        severity=cell.severity,
        n=numbers.n,
        accuracy=numbers.accuracy,
        robust_accuracy=numbers.robust_accuracy,
        relative_drop=numbers.relative_drop,
        complete=cell.complete,
        key=cell.key,
        **bounds,
        **({} if difference is None else _compared(difference)),
    )


def _compared(found: DifferenceNumbers) -> dict[str, float | None]:
    low, high = found.interval if found.interval is not None else (None, None)
    return {"difference": found.difference, "difference_low": low, "difference_high": high, "p_holm": found.p_holm}


def summary(report: Report) -> pd.DataFrame:
    """Return a data frame with a row per cell and the fields of `CellSummary` as columns.

    Raises UserError if pandas is not installed.
    """
    differences = {(each.model, each.perturbation): each for each in report.differences if each.runs is None}
    rows = [asdict(summarise(cell, differences.get((cell.model, cell.perturbation)))) for cell in report.cells]
    types = dict.fromkeys(("eps", "severity", *_NUMBERS, *_DIFFERENCE), float) | {"n": int, "complete": bool}
    frame: pd.DataFrame = import_pandas().DataFrame(rows, columns=list(_FIELDS)).astype(types)
    return frame


_FIELDS = CellSummary.__dataclass_fields__
