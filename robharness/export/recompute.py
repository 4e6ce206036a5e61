"""Cells that are computed again for their perturbed inputs, which no store holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from robharness.errors import ContractViolation, describe
from robharness.evaluation.batch import Batch
from robharness.evaluation.loading import LoadedModel
from robharness.evaluation.outcomes import BatchOutcome, group_cells, outcomes_by_cell, unexpected
from robharness.planning.cells import Cell
from robharness.plugins.calls import plugin_code


def read(loaded: LoadedModel, positions: Sequence[int]) -> list[tuple[np.ndarray, Batch]]:
    """Return the examples at these positions, ascending, as batches; those that cannot be read are in none.

    Raises ContractViolation, by the data, for whatever else the data set raises.
    """
    try:
        with plugin_code():
            return loaded.reader.batches(loaded.reader.images_at(positions))
    except ContractViolation:
        raise
    except Exception as error:  # a data set may raise anything
        raise ContractViolation(describe(error), by="data") from error


def compute(
    loaded: LoadedModel, cells: Sequence[Cell], batches: Sequence[tuple[np.ndarray, Batch]]
) -> Iterator[tuple[Cell, list[BatchOutcome] | ContractViolation]]:
    """Yield each cell of a loaded model with its outcomes on the batches, or with the error that it has none.

    batches: with their positions.
    """
    for group in group_cells(cells):
        pending = {cell.key: cell for cell in group}
        try:
            for cell, parts in outcomes_by_cell(loaded, group, batches):
                del pending[cell.key]
                yield cell, parts
        except Exception as error:  # what the model or the attack made may break our own code
            violation = error if isinstance(error, ContractViolation) else unexpected(error)
            for cell in pending.values():
                yield cell, violation
