"""Columns that the store keeps of an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robharness.evaluation.batch import Batch
from robharness.evaluation.reader import Reader
from robharness.evaluation.referee import Outcome
from robharness.planning.cells import UNREADABLE, Cell


def stored_columns(cell: Cell, batch: Batch, outcome: Outcome, attacked: np.ndarray) -> dict[str, Any]:
    """What the store keeps of an outcome, a row per example. attacked: (N,) bool."""
    columns = {
        "example": list(batch.ids),
        "label": batch.labels.cpu().numpy(),
        "prediction": outcome.prediction,
        "correct": outcome.correct,
        "margin": outcome.margin,
        "logit_range": outcome.logit_range,
        "size": outcome.size,
        "attacked": attacked,
    }
    nothing = np.full(len(batch), None, object)
    return columns | {name: _listed(outcome.notes.get(name, nothing)) for name in cell.notes}


def _listed(column: np.ndarray) -> list[Any]:
    """A value per row; vectors keep their type, which Python's floats would not."""
    return list(column) if column.ndim > 1 else column.tolist()


def in_order(parts: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> dict[str, list[Any] | np.ndarray]:
    """The columns of all batches together, by position."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([positions for positions, _ in parts]))
    columns = {name: [value for _, part in parts for value in part[name]] for name in parts[0][1]}
    return {name: [values[row] for row in order] for name, values in columns.items()}


def unreadable_columns(cell: Cell, reader: Reader, pictures: Any) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """The columns of examples that are broken: wrong, of a class that is none, and not attacked."""
    if not pictures.unreadable:
        return []
    positions = np.array(sorted(pictures.unreadable))
    n, data = len(positions), reader.data
    columns = {
        "example": [data.ids(at, at + 1)[0] for at in positions.tolist()],
        "label": np.array([int(data.dataset.labels[data.order[at]]) for at in positions]),
        "prediction": np.full(n, UNREADABLE),
        "correct": np.zeros(n, bool),
        **{name: np.full(n, np.nan, dtype) for name, dtype in _MEASURED.items()},
        "attacked": np.zeros(n, bool),
    }
    return [(positions, columns | {name: [None] * n for name in cell.notes})]


_MEASURED = {"margin": np.float32, "logit_range": np.float32, "size": np.float64}
