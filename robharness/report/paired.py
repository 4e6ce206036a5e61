"""Outcomes that are paired by example: of one model under two conditions, or of two models or results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robharness import statistics
from robharness.statistics.intervals import Bools
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions
from robharness.suite.clusters import cluster_numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """Outcomes of a model on examples.

    positions: of the n examples with outcomes in the fixed order of the data set, ascending, (n,) int64.
    right: whether each counts as right, (n,) bool.
    """

    positions: np.ndarray
    right: Bools

    def at(self, positions: np.ndarray) -> Bools:
        """Return whether the examples at these positions, all of which must have outcomes, count as right."""
        return self.right if positions is self.positions else self.right[np.searchsorted(self.positions, positions)]

    def and_also(self, other: Outcomes) -> Outcomes:
        """Return the outcomes on the examples that both have, which are right if they are right in both."""
        positions = common_positions([self.positions, other.positions])
        return Outcomes(positions=positions, right=self.at(positions) & other.at(positions))


def outcomes_of(results: Results, result: CellResult) -> Outcomes:
    """Return the outcomes of a cell as its suite counts them: in a robust accuracy, right both clean and perturbed."""
    found = Outcomes(positions=result.positions, right=result.correct)
    if result.cell.count == "all" or result.cell.kind == "clean" or not result.n:
        return found
    return found.and_also(clean_outcomes(results, result.cell.model.label))


def clean_outcomes(results: Results, label: str) -> Outcomes:
    """Return the outcomes of a model on clean examples."""
    clean = results.clean(label)
    return Outcomes(positions=clean.positions, right=clean.correct)


def cluster_of_each(results: Results) -> np.ndarray | None:
    """Return the number of the cluster of each position, (n,); None if examples are independent."""
    pattern = results.outline.suite.clusters
    if pattern is None:
        return None
    ids: dict[int, str] = {}
    for result in sorted(results.cells, key=lambda each: -each.n):
        if len(ids) < results.outline.n and result.n and not set(result.positions.tolist()) <= ids.keys():
            ids |= dict(zip(result.positions.tolist(), map(str, result.columns["example"]), strict=True))
    return np.array(cluster_numbers(pattern, ids, results.outline.n)[0], np.int64)


def exact_test(is_clustered: bool) -> str:
    """Return the name of the exact test of a difference, of examples that are independent or of clusters of them."""
    return "exact test of random signs of clusters" if is_clustered else "exact McNemar test"


def drop_difference(
    before: Outcomes, after: Outcomes, cleans: tuple[Outcomes, Outcomes], clusters: np.ndarray | None
) -> statistics.DropDifference | None:
    """Compare two relative drops on the examples that have all four outcomes.

    cleans: of the model before and of the model after, on clean examples.
    clusters: the number of the cluster of each position; None if examples are independent.
    Returns None without such examples, and if a model has no clean example right.
    """
    positions = common_positions([each.positions for each in (before, after, *cleans)])
    if not len(positions):
        return None
    clean, perturbed = ((first.at(positions), second.at(positions)) for first, second in (cleans, (before, after)))
    try:
        return statistics.drop_difference(clean, perturbed, None if clusters is None else clusters[positions])
    except statistics.ZeroClean:
        return None
