"""Optimality of attacks without a budget, on each model and over all models, as AttackBench measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from robharness import statistics
from robharness.report.details import BestDistances, GlobalOptimality, Optimality
from robharness.report.distances import accuracy_curve
from robharness.report.paired import cluster_of_each
from robharness.statistics.intervals import Floats
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions

PASS_BUDGET = 2000
"""Forward and backward passes per example, added up, that AttackBench allows an attack."""


@dataclass(frozen=True)
class Optimalities:
    """The optimality of all attacks without a budget that have another such attack of their norm beside them.

    local: key of a cell -> its local optimality.
    """

    local: dict[str, Optimality] = field(default_factory=dict)
    over_models: tuple[GlobalOptimality, ...] = ()
    best: tuple[BestDistances, ...] = ()


@dataclass(frozen=True, eq=False)
class _Attacks:
    """Attacks of one norm on one model, on the same examples.

    distances: (attacks, n).
    passes: of each attack, and whether they were counted.
    budget: of passes.
    """

    label: str
    cells: Sequence[CellResult]
    distances: Floats
    passes: Sequence[tuple[float | None, bool]]
    budget: float

    @property
    def are_within(self) -> list[bool]:
        """Whether each attack is within the budget of passes; one whose passes are not known is."""
        return [count is None or count <= self.budget for count, _ in self.passes]

    @property
    def best(self) -> Floats:
        """The smallest distance of each example that an attack within the budget found, (n,); inf without any."""
        found: Floats = self.distances[self.are_within].min(axis=0, initial=np.inf)
        return found


def optimalities(results: Results, budget: float = PASS_BUDGET) -> Optimalities:
    """Return the optimality of the attacks without a budget, and the best distances that it compares with.

    budget: of passes per example.
    The best distance of an example is the smallest one that any attack of the norm found on the model. AttackBench
    stops all attacks at the budget. An attack that took more passes is therefore measured, but is no part of the best
    distances, so that its number may be above 1.
    """
    local: dict[str, Optimality] = {}
    over_models: list[GlobalOptimality] = []
    best: list[BestDistances] = []
    by_norm, models = _by_norm(results), len(results.outline.suite.models)
    clusters = cluster_of_each(results) if by_norm else None
    for norm, attacks in by_norm.items():
        cells = [cell for cell in attacks if cell.n]
        asked = len({cell.cell.short_name for cell in attacks})
        positions = common_positions([cell.positions for cell in cells])
        if not len(positions):
            continue
        found: dict[str, list[tuple[Optimality, Floats]]] = {}
        for model in _by_model(cells, positions, budget):
            best.append(_best(model, norm, asked))
            numbers = _local(model, None if clusters is None else clusters[positions])
            local |= {cell.cell.key: each for cell, (each, _) in zip(model.cells, numbers, strict=True)}
            for cell, each in zip(model.cells, numbers, strict=True):
                found.setdefault(cell.cell.short_name, []).append(each)
        over_models += [_global(name, norm, some, models) for name, some in found.items()]
    return Optimalities(local, tuple(over_models), tuple(best))


def passes_of(result: CellResult) -> tuple[float | None, bool]:
    """Return the forward and backward passes per attacked example of a cell, added up, and whether they were counted.

    Of a store without counts, they are those that the attack declares; None if it declares none. A gradient is a
    forward and a backward pass. The passes of a fit are divided among the examples of the cell.
    """
    if result.passes is not None:
        return result.passes.total + (result.fit_passes.total / result.n if result.fit_passes else 0), True
    cost = result.cell.cost
    return cost.forwards + 2 * (cost.gradients + cost.shared_gradients) or None, False


def _by_norm(results: Results) -> dict[str, list[CellResult]]:
    """Return the cells of attacks without a budget by norm, if some have outcomes."""
    found: dict[str, list[CellResult]] = {}
    for result in results.cells:
        if result.is_unbounded and result.cell.perturbation is not None:
            found.setdefault(str(result.cell.perturbation.norm), []).append(result)
    return {norm: cells for norm, cells in found.items() if any(cell.n for cell in cells)}


def _by_model(cells: Sequence[CellResult], positions: np.ndarray, budget: float) -> Iterator[_Attacks]:
    """Yield the attacks on each model that has several."""
    by_model: dict[str, list[CellResult]] = {}
    for cell in cells:
        by_model.setdefault(cell.cell.model.label, []).append(cell)
    for label, some in by_model.items():
        if len(some) > 1:
            rows = np.stack([cell.distances[np.searchsorted(cell.positions, positions)] for cell in some])
            yield _Attacks(label, some, rows, [passes_of(cell) for cell in some], budget)


def _best(model: _Attacks, norm: str, asked: int) -> BestDistances:
    ordered = np.sort(model.best)
    until = _limit(ordered)
    return BestDistances(
        model=model.label,
        norm=norm,
        n=len(ordered),
        attacks=sum(model.are_within),
        asked=asked,
        found=int(np.isfinite(ordered).sum()),
        until=until,
        area=None if until is None else float(np.minimum(ordered, until).mean() / until),
        curve=accuracy_curve(ordered),
    )


def _limit(best: Floats) -> float | None:
    try:
        return statistics.optimality_limit(best)
    except statistics.UndefinedNumber:
        return None


def _local(model: _Attacks, clusters: np.ndarray | None) -> list[tuple[Optimality, Floats]]:
    """Return the local optimality of each attack, and its values in resamples of the examples."""
    best, count = model.best, len(model.cells)
    until = _limit(best)
    values, resampled = np.full(count, np.nan), np.full((1, count), np.nan)
    if until is not None:
        values = statistics.local_optimality(model.distances, best, until)
        resampled = statistics.resampled_local_optimality(model.distances, best, until, clusters=clusters)
    return [
        (
            Optimality(
                n=len(best),
                value=None if np.isnan(value) else float(value),
                interval=None if np.isnan(value) else statistics.percentile_interval(column),
                passes=passes,
                is_recorded=is_recorded,
                is_within=is_within,
            ),
            column,
        )
        for value, column, (passes, is_recorded), is_within in zip(
            values, resampled.T, model.passes, model.are_within, strict=True
        )
    ]


def _global(name: str, norm: str, found: Sequence[tuple[Optimality, Floats]], asked: int) -> GlobalOptimality:
    known = [(each.value, column) for each, column in found if each.value is not None]
    passes = [each.passes for each, _ in found]
    return GlobalOptimality(
        perturbation=name,
        norm=norm,
        n=found[0][0].n,
        models=len(known),
        asked=asked,
        value=float(np.mean([value for value, _ in known])) if known else None,
        interval=statistics.percentile_interval(np.mean([column for _, column in known], axis=0)) if known else None,
        passes=None if None in passes else float(np.mean([count for count in passes if count is not None])),
        is_within=all(each.is_within for each, _ in found),
    )
