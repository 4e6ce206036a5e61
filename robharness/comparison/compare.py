"""Compare two sides, cell by cell, on the examples that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robharness import statistics
from robharness.comparison.clusters import Clusters, clusters_of
from robharness.comparison.records import CellDifference, Comparison, MeasuredCell, Side
from robharness.report.paired import drop_difference
from robharness.store.spans import common_positions

NAMED = 5
"""The number of changed examples of each kind that a comparison names unless more are asked for."""


def compare(
    before: Side, after: Side, pairs: Sequence[tuple[str, str]] | None = None, *, title: str = "", changed: int = NAMED
) -> Comparison:
    """Compare the cells of two sides.

    pairs: labels before and after; by default the labels that both have.
    changed: the number of changed examples of each kind that are named per cell.
    """
    both = [label for label in before.labels if label in after.labels]
    pairs = tuple(pairs if pairs is not None else zip(both, both, strict=True))
    clusters = clusters_of(before, after)
    found, only_before, only_after = [], [], []
    for first, second in pairs:
        names = [cell.perturbation for cell in before.cells if cell.model == first]
        others = [cell.perturbation for cell in after.cells if cell.model == second]
        names = others + names if after.ids else names + others  # baselines have no ids, and no order of their suite
        for name in dict.fromkeys(names):
            one, other = before.by_name.get((first, name)), after.by_name.get((second, name))
            if one is None or other is None:
                only_before += [one.name] if one else []
                only_after += [other.name] if other else []
            else:
                found.append(_difference(before, after, one, other, clusters, changed))
    tested = [number for number, each in enumerate(found) if each.p is not None]
    for number, adjusted in zip(tested, statistics.holm([found[number].p or 0 for number in tested]), strict=True):
        found[number] = replace(found[number], p_holm=float(adjusted))
    return Comparison(
        title=title or after.suite,
        before=before.name,
        after=after.name,
        pairs=pairs,
        n=max((each.n for each in found), default=0),
        cells=tuple(found),
        only_before=tuple(only_before),
        only_after=tuple(only_after),
        run_of={**before.run_of, **after.run_of},
        data=next((cell.data for cell in after.cells), ""),
        n_before=before.n,
        n_after=after.n,
        clusters=clusters.pattern,
        findings=clusters.findings,
    )


def _difference(
    before: Side, after: Side, one: MeasuredCell, other: MeasuredCell, clusters: Clusters, changed: int
) -> CellDifference:
    """Return the difference of a cell, the numbers None without common examples."""
    positions = common_positions([one.positions, other.positions])
    known = {one.conditions, other.conditions}
    difference = CellDifference(
        model=other.model,
        other=one.model,
        perturbation=other.perturbation,
        title=other.title,
        kind=other.kind,
        norm=other.norm,
        eps=other.eps,
        severity=other.severity,
        group=other.group,
        n=len(positions),
        n_before=one.n,
        n_after=other.n,
        conditions="unknown" if "" in known else "same" if len(known) == 1 else "changed",
        count=other.count,
        complete=one.is_complete and other.is_complete,
        unit=other.unit or one.unit,
    )
    if not len(positions):
        return difference
    first, second = one.at(positions), other.at(positions)
    numbers = None if clusters.numbers is None else clusters.numbers[positions]
    paired = statistics.paired_difference(first, second, numbers)
    return replace(
        difference,
        before=statistics.accuracy(first),
        after=statistics.accuracy(second),
        difference=paired.difference,
        interval=paired.interval,
        lost=paired.lost,
        gained=paired.gained,
        units=paired.units,
        design_effect=paired.design_effect,
        p=paired.p,
        p_fall=paired.p_fall,
        lost_ids=_named(before, after, positions[first & ~second][:changed]),
        gained_ids=_named(before, after, positions[~first & second][:changed]),
        **_drops(before, after, one, other, clusters),
    )


def _drops(before: Side, after: Side, one: MeasuredCell, other: MeasuredCell, clusters: Clusters) -> dict[str, Any]:
    """Return the relative drops of both sides and their difference; nothing for clean cells, and if undefined."""
    first, second = before.by_name.get((one.model, "clean")), after.by_name.get((other.model, "clean"))
    if one.kind == "clean" or first is None or second is None:
        return {}
    drops = drop_difference(one, other, (first, second), clusters.numbers)
    return {f"drop_{name}": value for name, value in drops._asdict().items()} if drops else {}


def _named(before: Side, after: Side, positions: np.ndarray) -> tuple[str, ...]:
    """Return the ids at these positions, of the side that has them."""
    ids = after.ids or before.ids
    found = ((ids[position] if position < len(ids) else None, position) for position in positions.tolist())
    return tuple(f"position {position}" if id is None else id for id, position in found)
