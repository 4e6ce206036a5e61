"""Columns of a stored cell, read when they are first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from robharness.errors import StoreError, UserError
from robharness.store.parts import Rows
from robharness.store.store import Store


class Columns(Mapping[str, np.ndarray]):
    """The columns of a cell by name, each (n,), read from the store on first use."""

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

    def __contains__(self, name: object) -> bool:  # without reading the column, as `Mapping` does
        return name != "position" and name in (self._names or self._known)

    def __iter__(self) -> Iterator[str]:
        return (name for name in (self._names or tuple(self._known)) if name != "position")

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _read(self, name: str) -> np.ndarray:
        """Read a column at the positions that were stored when the results were loaded; more may be stored now."""
        if not len(self._positions):
            return np.zeros(0)
        found = self._store.read(self._key, int(self._positions[-1]) + 1, [name])
        column: np.ndarray = found.table[name].to_numpy()
        if found.positions is self._positions or np.array_equal(found.positions, self._positions):
            return column
        if not np.isin(self._positions, found.positions, assume_unique=True).all():
            raise StoreError(
                f"outcomes disappeared from {self._store} while they were read, perhaps removed by another run. "
                "Try: load the results again"
            )
        read: np.ndarray = column[np.searchsorted(found.positions, self._positions)]
        return read


class CopiedColumns(Mapping[str, np.ndarray]):
    """The columns of a cell as arrays of their own, each copied on first use, whose changes reach nobody else."""

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self._columns, self._copies = columns, dict[str, np.ndarray]()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._copies:
            self._copies[name] = self._columns[name].copy()
        return self._copies[name]

    def __contains__(self, name: object) -> bool:  # without reading the column
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def import_pandas() -> Any:
    """Return the module pandas. Raises UserError if it is not installed."""
    try:
        import pandas
    except ImportError:
        raise UserError("data frames need pandas, which is not installed. Try: pip install pandas") from None
    return pandas
