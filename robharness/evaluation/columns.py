"""Columns that the store keeps of an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from robharness.evaluation.batch import Batch
from robharness.evaluation.reader import DecodedImages, Reader
from robharness.evaluation.referee import Outcome
from robharness.planning.cells import UNREADABLE, Cell

MAX_REASONS = 16
"""The number of unreadable examples per span whose reasons are stored."""


def stored_columns(cell: Cell, batch: Batch, outcome: Outcome, attacked: np.ndarray) -> dict[str, Any]:
    """Return the stored columns of an outcome, one row per example.

    attacked: the examples that were attacked for this cell, (N,) bool.
    """
    columns = {
        "example": list(batch.ids),
        "label": own_labels(cell, batch.labels),
        "prediction": own_labels(cell, outcome.prediction),
        "correct": outcome.correct,
        "margin": outcome.margin,
        "logit_range": outcome.logit_range,
        "confidence": outcome.confidence,
        "p_true": outcome.p_true,
        "size": outcome.size,
        "attacked": attacked,
    }
    nothing = np.full(len(batch), None, object)
    notes = {name: outcome.notes.get(name, nothing) for name in cell.notes}
    of_classes = {name: own_labels(cell, notes[name]) for name in _CLASS_NOTES if name in outcome.notes}
    return columns | {name: _as_list(column) for name, column in (notes | of_classes).items()}


_CLASS_NOTES = ("target", "prediction_8bit")
"""Notes that hold classes."""


def own_labels(cell: Cell, labels: Tensor | np.ndarray) -> np.ndarray:
    """Return labels or predictions of a cell, (N,), as numbers of the data set's label space.

    labels: as networks see them: positions in the classes that logits are restricted to, if they are. Numbers below 0
        are no classes, and stay.
    """
    found = labels.cpu().numpy() if isinstance(labels, Tensor) else labels
    classes = cell.data.seen_by(cell.model).classes
    return found if classes is None else np.where(found < 0, found, np.asarray(classes)[np.maximum(found, 0)])


def _as_list(column: np.ndarray) -> list[Any]:
    """Return one value per row. Vectors stay NumPy arrays, since Python floats would lose their type."""
    return list(column) if column.ndim > 1 else column.tolist()


def in_order(parts: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> dict[str, list[Any] | np.ndarray]:
    """Join the columns of several batches in the order of positions.

    parts: the positions of each batch, (N,), and its columns.
    """
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([positions for positions, _ in parts]))
    columns = {name: [value for _, part in parts for value in part[name]] for name in parts[0][1]}
    return {name: [values[row] for row in order] for name, values in columns.items()}


def unreadable_columns(cell: Cell, reader: Reader, images: DecodedImages) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return positions and columns of the unreadable examples of a span, as `in_order` takes them, or nothing.

    Such an example counts as wrong and not attacked. Its prediction is `UNREADABLE`, its measured values are NaN.
    """
    if not images.unreadable:
        return []
    positions = np.array(sorted(images.unreadable))
    n, data = len(positions), reader.data
    columns = {
        "example": [data.ids(position, position + 1)[0] for position in positions.tolist()],
        "label": np.array([data.dataset.labels[data.order[position]] for position in positions]),
        "prediction": np.full(n, UNREADABLE),
        "correct": np.zeros(n, bool),
        **{name: np.full(n, np.nan, dtype) for name, dtype in _MEASURED.items()},
        "attacked": np.zeros(n, bool),
    }
    return [(positions, columns | {name: [None] * n for name in cell.notes})]


def unreadable_reasons(cell: Cell, reader: Reader, images: DecodedImages) -> dict[str, dict[str, str]]:
    """Return the provenance that names unreadable examples of a span: {"unreadable": {id: reason}} of clean cells."""
    if not images.unreadable or cell.kind != "clean":
        return {}
    named = sorted(images.unreadable)[:MAX_REASONS]
    ids = {position: reader.data.ids(position, position + 1)[0] for position in named}
    return {"unreadable": {ids[position]: images.unreadable[position] for position in named}}


_MEASURED = {
    **dict.fromkeys(("margin", "logit_range", "confidence", "p_true"), np.float32),
    "size": np.float64,
}
