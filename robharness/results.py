"""What is stored, as arrays; no torch, no plugin code, nothing that is not in the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robharness import metrics
from robharness.cells import Cell, Plan
from robharness.store import Failure, Store
from robharness.suite import Suite


@dataclass(frozen=True, eq=False)
class CellResult:
    """The outcomes of one cell. n: examples there are, of `asked`; positions: which, ascending, (n,) int64.

    columns: example, label, prediction, correct, margin, logit_range, size, attacked and the plugin's notes, each (n,).
    """

    cell: Cell
    asked: int
    positions: np.ndarray
    columns: dict[str, np.ndarray]
    failures: tuple[Failure, ...]
    provenance: dict[str, Any] | None

    @property
    def n(self) -> int:
        return len(self.positions)

    @property
    def is_complete(self) -> bool:
        return self.n == self.asked

    @property
    def correct(self) -> np.ndarray:
        """(n,) bool."""
        return self.columns["correct"]

    @property
    def accuracy(self) -> float:
        """Share of right predictions over all examples. Raises metrics.EmptySample without any."""
        return metrics.accuracy(self.correct)

    @property
    def not_numbers(self) -> int:
        """Examples whose logits were not numbers; they count as wrong."""
        return int((self.columns["prediction"] < 0).sum())


@dataclass(frozen=True, eq=False)
class Results:
    """All cells of a plan, with what is stored of them."""

    plan: Plan
    cells: tuple[CellResult, ...]

    @property
    def suite(self) -> Suite:
        return self.plan.suite

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(result.cell.model.label for result in self.cells))

    @property
    def is_complete(self) -> bool:
        return all(result.is_complete for result in self.cells)

    def clean(self, label: str) -> CellResult:
        """The clean cell of the model with this label."""
        return next(result for result in self.cells if result.cell.model.label == label and result.cell.kind == "clean")

    def of(self, label: str, kind: str) -> list[CellResult]:
        """The model's cells of that kind, "attack" or "corruption", in the suite's order."""
        return [result for result in self.cells if result.cell.model.label == label and result.cell.kind == kind]

    def paired(self, results: Sequence[CellResult]) -> list[np.ndarray]:
        """What was right in each of these cells on the examples that all of them have, (n,) bool each."""
        common = results[0].positions
        for result in results[1:]:
            common = np.intersect1d(common, result.positions, assume_unique=True)
        return [result.correct[np.searchsorted(result.positions, common)] for result in results]

    def to_pandas(self) -> Any:
        """All outcomes as one table, a row per cell and example. Needs pandas."""
        import pandas as pd

        frames = []
        for result in self.cells:
            frame = pd.DataFrame({"position": result.positions, **result.columns})
            perturbation = result.cell.perturbation
            frame.insert(0, "model", result.cell.model.label)
            frame.insert(1, "perturbation", result.cell.short_name)
            frame.insert(2, "strength", float(perturbation.strength) if perturbation else 0.0)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def load(plan: Plan, store: Store) -> Results:
    """The stored outcomes of a plan's cells, as many as there are."""
    return Results(plan=plan, cells=tuple(_load_cell(cell, plan.n, store) for cell in plan.cells))


def _load_cell(cell: Cell, n: int, store: Store) -> CellResult:
    store.description(cell.key)  # refuses a newer schema
    table = store.read(cell.key, n)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    positions = columns.pop("position")
    columns.setdefault("correct", np.zeros(0, bool))
    columns.setdefault("prediction", np.zeros(0, np.int64))
    failures = tuple(store.failures(cell.key))
    return CellResult(cell, n, positions, columns, failures, store.provenance(cell.key))
