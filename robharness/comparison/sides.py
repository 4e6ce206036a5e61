"""Sides of a comparison from stored results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from robharness.comparison.records import MeasuredCell, Side
from robharness.planning.identity import protocol_of
from robharness.planning.outline import CellOutline
from robharness.report.environments import environments_of
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions


def side_of(results: Results, name: str, labels: Sequence[str] | None = None) -> Side:
    """Return stored results as a side. Cells that wait for the training of a model have no outcomes.

    name: in messages.
    labels: of the models to take; None for all.
    """
    suite, n = results.outline.suite, results.outline.n
    taken = [each for each in results.cells if labels is None or each.cell.model.label in labels]
    pending = [
        each
        for each in results.outline.pending_cells
        if not each.with_features and (labels is None or each.model.label in labels)
    ]
    run_of = {model.label: model.run_of for model in suite.models if model.run_of is not None}
    ids = _ids(taken, n)
    return Side(
        name=name,
        suite=suite.name,
        cells=(*(_measured(results, each) for each in taken), *(_pending(each, n) for each in pending)),
        ids=ids,
        order=_order(results, ids),
        n=n,
        run_of=run_of,
        findings=results.findings,
        clusters=suite.clusters,
    )


def order_of(ids: Sequence[str]) -> str:
    """Return the hash of the ids of all examples in the fixed order, 24 hexadecimal digits.

    A prefix of a data set has the hash of the whole, so that results on fewer examples can be compared.
    """
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:24]


def _order(results: Results, ids: Sequence[str | None]) -> str:
    """Return the hash of all ids, from the plan or else from the store if it has all; empty if it is not known."""
    data = results.plan.data if results.outline.is_planned else None
    if data is not None:
        return order_of(data.ids(0, len(data.order)))
    known = [id for id in ids if id is not None]
    return order_of(known) if results.outline.is_whole and len(known) == len(ids) else ""


def _measured(results: Results, result: CellResult) -> MeasuredCell:
    cell = result.cell
    positions, right = result.positions, result.correct
    if cell.count == "robust" and result.n:
        clean = results.clean(cell.model.label)
        positions = common_positions([positions, clean.positions])
        right = result.correct_at(positions) & clean.correct_at(positions)
    return _cell(
        cell,
        result.n_expected,
        positions,
        right,
        failures=tuple(dict.fromkeys(failure.error for failure in result.failures)),
        environments=environments_of(result),
    )


def _pending(cell: CellOutline, n: int) -> MeasuredCell:
    reason = f"{cell.model.label} is not trained yet"
    return _cell(cell, n, np.zeros(0, np.int64), np.zeros(0, bool), failures=(reason,), environments=())


def _cell(
    cell: CellOutline,
    n_expected: int,
    positions: np.ndarray,
    right: np.ndarray,
    failures: tuple[str, ...],
    environments: tuple[dict[str, object], ...],
) -> MeasuredCell:
    perturbation = cell.perturbation
    return MeasuredCell(
        model=cell.model.label,
        data=cell.data.name,
        perturbation=cell.short_name,
        title=perturbation.title if perturbation else "clean",
        kind=cell.kind,  # type: ignore[arg-type]  # the cells of `Results.cells` are without features
        norm=perturbation.norm if perturbation else None,
        eps=str(perturbation.eps) if perturbation and perturbation.eps is not None else None,
        severity=perturbation.severity if perturbation else None,
        group=perturbation.group if perturbation else None,
        key=cell.key,
        protocol=protocol_of(cell.identity),
        n_expected=n_expected,
        positions=positions,
        right=right,
        failures=failures,
        environments=environments,
        identity=cell.identity,
        count=cell.count,
    )


def _ids(cells: Sequence[CellResult], n: int) -> tuple[str | None, ...]:
    """Return the ids by position, from as few cells as have them all; the largest cells first."""
    found: list[str | None] = [None] * n
    is_known = np.zeros(n, bool)
    for result in sorted(cells, key=lambda each: -each.n):
        if not is_known[result.positions].all():
            is_known[result.positions] = True
            for position, example in zip(result.positions.tolist(), result.columns["example"], strict=True):
                found[position] = str(example)
    return tuple(found)
