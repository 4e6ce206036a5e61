"""The outcomes that are expected in a part: of the right examples, with their labels, with all that reports read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from robharness.planning.cells import Cell, Plan
from robharness.planning.outline import CellOutline
from robharness.planning.planned import PlannedData
from robharness.store.parts import DamagedPart, Part, PartContent

if TYPE_CHECKING:
    import pyarrow as pa

ALWAYS = ("position", "example", "label", "prediction", "correct", "margin", "logit_range", "size", "attacked")
"""The columns of every cell, without those that parts of an earlier version lack."""


_NUMBERS = ("int64", "double", "float", "bool", "null")
"""Types of numbers in notes; a plugin may declare another of them than before."""
_TEXTS = ("string", "null")
_VECTORS = ("list<element: float>", "list<item: float>", "null")


class Examples(Protocol):
    """A check of the ids and labels of a part."""

    def check(self, key: str, part: Part, ids: pa.ChunkedArray, labels: np.ndarray) -> None:
        """Raise DamagedPart, with the reason, if the part is not of these examples.

        key: of the cell that the part belongs to.
        """
        ...


class ExpectedData:
    """The ids and labels of a plan's data, by position."""

    def __init__(self, data: PlannedData) -> None:
        self._data = data

    @cached_property
    def ids(self) -> pa.Array:
        import pyarrow as pa

        return pa.array(self._data.ids(0, len(self._data.order)), pa.string())

    @cached_property
    def labels(self) -> np.ndarray:
        return np.array(self._data.dataset.labels, np.int64)[np.array(self._data.order, np.int64)]

    def check(self, key: str, part: Part, ids: pa.ChunkedArray, labels: np.ndarray) -> None:
        if part.stop > len(self.ids):
            raise DamagedPart(f"it holds more examples than the {len(self.ids)} of the data")
        if not ids.equals(_chunked(self.ids.slice(part.start, part.stop - part.start))):
            raise DamagedPart("its examples are not those of the plan")
        if not np.array_equal(labels, self.labels[part.start : part.stop]):
            raise DamagedPart("its labels are not those of the plan")


class ExpectedOutcomes:
    """A check of the parts of one cell.

    columns: those that it compares with the plan; of the others it needs the names and types.
    """

    columns: Sequence[str] = ("example", "label", "prediction", "correct")

    def __init__(self, cell: Cell | CellOutline, examples: Examples) -> None:
        self._key, self._examples, perturbation = cell.key, examples, cell.perturbation
        self._names, self._types = list(ALWAYS), dict[str, Sequence[str]]()
        if cell.with_features:
            self._names += ["features"]
            self._types = {"features": _VECTORS, "boundary": _NUMBERS}
        elif perturbation is not None:
            self._types = {name: _TEXTS if kind is str else _NUMBERS for name, kind in perturbation.notes.items()}
            self._names += ["component"] if perturbation.is_ensemble else []
            self._names += ["success", "target"] if perturbation.is_targeted else []
            self._names += ["correct_8bit"] if perturbation.eight_bit else []

    def __call__(self, part: Part, content: PartContent) -> None:
        if absent := [name for name in self._names if name not in content.names]:
            raise DamagedPart(f"it has no column '{absent[0]}'")
        for name, found in zip(content.names, content.types, strict=True):
            if found not in self._types.get(name, (found,)):
                raise DamagedPart(f"its column '{name}' has the type {found}")
        table = content.table
        labels = table["label"].to_numpy()
        self._examples.check(self._key, part, table["example"], labels)
        if not np.array_equal(table["correct"].to_numpy(), table["prediction"].to_numpy() == labels):
            raise DamagedPart("its verdicts do not follow from its predictions and labels")


def _chunked(array: pa.Array) -> pa.ChunkedArray:
    import pyarrow as pa

    return pa.chunked_array([array])


def checks(plan: Plan) -> dict[str, ExpectedOutcomes]:
    """Return the check of each cell of a plan, those outside of `only` included, by its key."""
    cells = (*plan.cells, *plan.unselected_cells)
    data = {id(cell.data): cell.data for cell in cells}
    expected = {key: ExpectedData(each) for key, each in data.items()}
    return {cell.key: ExpectedOutcomes(cell, expected[id(cell.data)]) for cell in cells}
