"""What is stored, as arrays; no torch, no plugin code, nothing that is not in the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from robharness import metrics
from robharness.cells import UNREADABLE, Cell, Plan
from robharness.errors import StoreError
from robharness.store import Failure, Rows, Store
from robharness.suite import Suite

AT_ONCE = ("correct",)
"""The column that every number needs; the others are read when they are asked for."""
READERS = 8
"""Threads that read files at most; decoding them lets go of Python's lock."""


class Columns(Mapping[str, np.ndarray]):
    """The columns of a cell by name, each (n,), read from the store when they are asked for."""

    def __init__(self, store: Store, key: str, rows: Rows) -> None:
        self._store, self._key, self._positions, self._names = store, key, rows.positions, rows.names
        self._known = {name: rows.table[name].to_numpy() for name in rows.table.column_names}
        if not len(rows.positions):
            self._known = {"correct": np.zeros(0, bool), "prediction": np.zeros(0, np.int64)}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._known and name in self._names:
            self._known[name] = self._read(name)
        column: np.ndarray = self._known[name]
        return column

    def __iter__(self) -> Iterator[str]:
        return (name for name in (self._names or tuple(self._known)) if name != "position")

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _read(self, name: str) -> np.ndarray:
        """The column at the positions that were there when the results were loaded; there may be more by now."""
        found = self._store.read(self._key, int(self._positions[-1]) + 1, [name])
        if not np.isin(self._positions, found.positions, assume_unique=True).all():
            raise StoreError(f"{self._store} lost outcomes while it was read; load the results again")
        column: np.ndarray = found.table[name].to_numpy()
        if len(found.positions) == len(self._positions):
            return column
        return column[np.searchsorted(found.positions, self._positions)]


@dataclass(frozen=True, eq=False)
class CellResult:
    """The outcomes of one cell. n: examples there are, of `asked`; positions: which, ascending, (n,) int64.

    columns: example, label, prediction, correct, margin, logit_range, size, attacked and the plugin's notes, each (n,).
    provenance: how the outcomes were made, every way once.
    """

    cell: Cell
    asked: int
    positions: np.ndarray
    columns: Mapping[str, np.ndarray]
    failures: tuple[Failure, ...]
    provenance: tuple[dict[str, Any], ...]

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
        return int((self.columns["prediction"] == -1).sum())

    @property
    def unreadable(self) -> list[str]:
        """The ids of examples that are broken; they count as wrong."""
        broken = self.columns["prediction"] == UNREADABLE
        return [str(example) for example in self.columns["example"][broken]] if broken.any() else []


@dataclass(frozen=True, eq=False)
class Results:
    """All cells of a plan, with what is stored of them. notes: what is to be known of the store itself."""

    plan: Plan
    cells: tuple[CellResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def suite(self) -> Suite:
        return self.plan.suite

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(result.cell.model.label for result in self.cells))

    @property
    def is_complete(self) -> bool:
        return not self.plan.waiting and all(result.is_complete for result in self.cells)

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
            strength = perturbation.strength if perturbation else 0
            frame.insert(2, "strength", float("inf") if strength is None else float(strength))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def load(plan: Plan, store: Store) -> Results:
    """The stored outcomes of a plan's cells, as many as there are."""
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as readers:
        found = tuple(readers.map(lambda cell: _load_cell(cell, plan.n, store), plan.cells))
    return Results(plan=plan, cells=found, notes=tuple(dict.fromkeys(store.notes)))


def _load_cell(cell: Cell, n: int, store: Store) -> CellResult:
    store.description(cell.key)  # refuses a newer schema
    found = store.read(cell.key, n, AT_ONCE)
    failures = tuple(store.failures(cell.key))
    return CellResult(cell, n, found.positions, Columns(store, cell.key, found), failures, tuple(found.provenance))
