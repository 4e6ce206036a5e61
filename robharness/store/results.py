"""What is stored, as arrays; no torch, no plugin code, nothing that is not in the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from robharness import statistics
from robharness.errors import StoreError
from robharness.planning.cells import UNREADABLE, Cell, Plan
from robharness.store.failures import Failure
from robharness.store.store import Rows, Store
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

    columns: example, label, prediction, correct, margin, logit_range, size, attacked and the cell's notes, each (n,).
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
        """Share of right predictions over all examples. Raises statistics.EmptySample without any."""
        return statistics.accuracy(self.correct)

    @property
    def distances(self) -> np.ndarray:
        """Of an attack without a budget: how far the nearest wrong answer is that it found, (n,) float64.

        In the attack's norm; 0 where the clean input is wrong already, inf where it found none.
        """
        size = np.asarray(self.columns["size"], float)
        found: np.ndarray = np.where(self.correct, np.inf, np.where(np.isnan(size), 0, size))  # NaN: never attacked
        return found

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
class Features:
    """A model's representation of examples, as its submodule gives it, examples that are broken left out.

    values: (n, D) float32. labels: (n,) int64, the true classes. examples: n ids. positions: (n,) int64, ascending.
    boundary: of clean examples, (n,) float64, the distance in features to where the head takes another class for the
    true one, below 0 where it does already, see `robharness.evaluation.heads`; NaN where the head is not linear, or not clean.
    """

    values: np.ndarray
    labels: np.ndarray
    examples: tuple[str, ...]
    positions: np.ndarray
    boundary: np.ndarray

    def at(self, positions: np.ndarray) -> Features:
        """Those of these positions alone, of which there must be features."""
        rows = np.searchsorted(self.positions, positions)
        return Features(
            values=self.values[rows],
            labels=self.labels[rows],
            examples=tuple(self.examples[row] for row in rows),
            positions=self.positions[rows],
            boundary=self.boundary[rows],
        )


@dataclass(frozen=True, eq=False)
class Results:
    """All cells of a plan, with what is stored of them.

    cells: the outcomes. represented: cells that features are stored with, where metrics need them. notes: what is to be
    known of the store itself.
    """

    plan: Plan
    cells: tuple[CellResult, ...]
    feature_cells: tuple[CellResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def suite(self) -> Suite:
        return self.plan.suite

    @property
    def labels(self) -> list[str]:
        """The models' labels, in the suite's order."""
        return list(dict.fromkeys(result.cell.model.label for result in self.cells))

    @property
    def every(self) -> tuple[CellResult, ...]:
        """All cells, those with features as well."""
        return (*self.cells, *self.feature_cells)

    @property
    def is_complete(self) -> bool:
        return not self.plan.pending_cells and all(result.is_complete for result in self.every)

    @property
    def invalid(self) -> list[str]:
        """What makes the run invalid, in sentences: models that are worse than the suite demands on all of the data."""
        whole, found = self.plan.data and self.plan.n == len(self.plan.data.order), []
        for model in self.suite.models if whole else ():
            clean = next((r for r in self.of(model.label, "clean") if r.is_complete), None)
            least = model.clean_at_least
            if clean is not None and least is not None and 100 * clean.accuracy < least:
                found.append(
                    f"{model.label} is right on {100 * clean.accuracy:.1f} % of the clean examples, and the suite "
                    f"demands {least:g} %: the run is invalid (clean_at_least)"
                )
        return found

    def clean(self, label: str) -> CellResult:
        """The clean cell of the model with this label."""
        return next(result for result in self.cells if result.cell.model.label == label and result.cell.kind == "clean")

    def of(self, label: str, kind: str) -> list[CellResult]:
        """The model's cells of that kind, "attack" or "corruption", in the suite's order."""
        return [result for result in self.cells if result.cell.model.label == label and result.cell.kind == kind]

    def features(self, label: str, under: str = "clean") -> Features:
        """The representation of the examples by the model with this label, as many as there are.

        under: "clean", or the name of a corruption, one of `views`. Raises statistics.EmptySample where there are none,
        KeyError where no metric of the suite needs them.
        """
        found = {result.cell.what: result for result in self.feature_cells if result.cell.model.label == label}
        if under not in found:
            raise KeyError(f"the suite asks for no features({under}) of '{label}'; a metric must need them")
        columns = found[under].columns
        values = np.asarray(columns["features"] if found[under].n else [], object)
        there = np.array([value is not None for value in values], bool)
        if not there.any():
            raise statistics.EmptySample(f"there are no features({under}) of '{label}' yet; type: robharness run SUITE")
        far = columns["boundary"] if "boundary" in columns else np.full(len(there), np.nan)
        return Features(
            values=np.stack(list(values[there])).astype(np.float32, copy=False),
            labels=np.asarray(columns["label"])[there],
            examples=tuple(map(str, np.asarray(columns["example"])[there])),
            positions=found[under].positions[there],
            boundary=np.asarray(far, float)[there],
        )

    def views(self, label: str) -> dict[str, Features]:
        """The representation of corrupted examples by the model with this label, by the corruption's name."""
        found = [result for result in self.feature_cells if result.cell.model.label == label and result.n]
        names = [result.cell.what for result in found if result.cell.perturbation is not None]
        return {name: self.features(label, name) for name in names}

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
            sizes = (perturbation.eps, perturbation.severity, float("inf")) if perturbation else (0,)
            frame.insert(2, "strength", float(next(size for size in sizes if size is not None)))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


def load(plan: Plan, store: Store) -> Results:
    """The stored outcomes of a plan's cells, as many as there are."""
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as readers:
        found = list(readers.map(lambda cell: _load_cell(cell, plan.n, store), plan.cells))
    return Results(
        plan=plan,
        cells=tuple(result for result in found if not result.cell.with_features),
        feature_cells=tuple(result for result in found if result.cell.with_features),
        notes=tuple(dict.fromkeys(store.notes)),
    )


def _load_cell(cell: Cell, n: int, store: Store) -> CellResult:
    store.description(cell.key)  # refuses a newer schema
    found = store.read(cell.key, n, AT_ONCE)
    failures = tuple(store.failures(cell.key))
    return CellResult(cell, n, found.positions, Columns(store, cell.key, found), failures, tuple(found.provenance))
