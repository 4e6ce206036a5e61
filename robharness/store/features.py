"""Stored features of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robharness import statistics
from robharness.errors import UserError


class FeaturesNotStored(UserError, statistics.EmptySample):
    """Features that no run has stored yet; a metric of them has no number."""


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """A model's features of examples, the output of one of its submodules. Unreadable examples are left out.

    values: (n, D) float32.
    labels: the true classes, (n,) int64.
    examples: n ids.
    positions: (n,) int64, ascending.
    boundary: the distance in feature space to the decision boundary of the true class, (n,) float64, negative if the
        example is misclassified; see `robharness.evaluation.heads`. NaN for heads that are not linear and for
        corrupted examples.
    """

    values: np.ndarray
    labels: np.ndarray
    examples: tuple[str, ...]
    positions: np.ndarray
    boundary: np.ndarray

    def __repr__(self) -> str:
        return f"<Features of {self.values.shape[0]} examples, {self.values.shape[1]} values each>"

    def at(self, positions: np.ndarray) -> Features:
        """Select the features at these positions, all of which must be stored."""
        rows = np.searchsorted(self.positions, positions)
        return Features(
            values=self.values[rows],
            labels=self.labels[rows],
            examples=tuple(self.examples[row] for row in rows),
            positions=self.positions[rows],
            boundary=self.boundary[rows],
        )
