"""Sides of a comparison from stored results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from robharness.comparison.records import MeasuredCell, Side
from robharness.planning.identity import protocol_of
from robharness.report.environments import environments_of
from robharness.store.results import CellResult, Results
from robharness.store.spans import common_positions


def side_of(results: Results, name: str, labels: Sequence[str] | None = None) -> Side:
    """Return stored results as a side.

    name: in messages.
    labels: of the models to take; None for all.
    """
    suite = results.outline.suite
    taken = [each for each in results.cells if labels is None or each.cell.model.label in labels]
    run_of = {model.label: model.run_of for model in suite.models if model.run_of is not None}
    plan = results.plan if results.outline.is_planned else None
    return Side(
        name=name,
        suite=suite.name,
        cells=tuple(_cell(results, each) for each in taken),
        ids=_ids(taken, results.outline.n),
        order="" if plan is None or plan.data is None else order_of(plan.data.ids(0, len(plan.data.order))),
        n=results.outline.n,
        run_of=run_of,
        clusters=suite.clusters,
    )


def order_of(ids: Sequence[str]) -> str:
    """Return the hash of the ids of all examples in the fixed order, 24 hexadecimal digits.

    A prefix of a data set has the hash of the whole, so that results on fewer examples can be compared.
    """
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:24]


def _cell(results: Results, result: CellResult) -> MeasuredCell:
    cell, perturbation = result.cell, result.cell.perturbation
    positions, right = result.positions, result.correct
    if cell.count == "robust" and result.n:
        clean = results.clean(cell.model.label)
        positions = common_positions([positions, clean.positions])
        right = result.correct_at(positions) & clean.correct_at(positions)
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
        n_expected=result.n_expected,
        positions=positions,
        right=right,
        failures=tuple(dict.fromkeys(failure.error for failure in result.failures)),
        environments=environments_of(result),
    )


def _ids(cells: Sequence[CellResult], n: int) -> tuple[str | None, ...]:
    """Return the ids by position, from as few cells as have them all."""
    found: list[str | None] = [None] * n
    for result in sorted(cells, key=lambda each: -each.n)[:1]:
        for position, example in zip(result.positions.tolist(), result.columns["example"], strict=True):
            found[position] = str(example)
    return tuple(found)
