"""Clusters of a comparison: examples that are not independent, such as clips of one video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robharness.comparison.records import Side
from robharness.findings import Finding, finding
from robharness.suite.clusters import cluster_numbers


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The clusters of the examples of two sides.

    pattern: the regular expression that finds them; None if examples are independent.
    numbers: of the cluster of each position, (n,) int64; None if examples are independent.
    """

    pattern: str | None = None
    numbers: np.ndarray | None = None
    findings: tuple[Finding, ...] = ()


def clusters_of(before: Side, after: Side) -> Clusters:
    """Return the clusters by the expression of the side after, else of the side before, and the ids of both sides."""
    pattern = after.clusters if after.clusters is not None else before.clusters
    if pattern is None:
        return Clusters()
    ids = dict(enumerate(before.ids)) | {at: id for at, id in enumerate(after.ids) if id is not None}
    known = {at: id for at, id in ids.items() if id is not None}
    if not known:
        unknown = finding(
            "clusters-unknown",
            "neither side has the ids of its examples, so that the clusters of the suite are not known. Examples count "
            "as independent, and p values and intervals are too small",
            hint="compare with a store",
        )
        return Clusters(findings=(unknown,))
    last = max((*(cell.positions[-1] for side in (before, after) for cell in side.cells if cell.n), *known))
    numbers, unmatched = cluster_numbers(pattern, known, int(last) + 1)
    return Clusters(
        pattern=pattern,
        numbers=np.array(numbers, np.int64),
        findings=(_unmatched(unmatched, len(known)),) if unmatched else (),
    )


def _unmatched(count: int, of: int) -> Finding:
    return finding(
        "clusters-unmatched",
        f"`clusters` of the suite matches {of - count:,} of {of:,} ids; each of the others is a cluster by itself",
        hint="correct `clusters` if these examples belong together",
    )
