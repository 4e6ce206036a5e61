"""Sides of a comparison from stored results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from robharness.comparison.records import MeasuredCell, Side
from robharness.findings import Finding, finding, named_examples
from robharness.planning.identity import conditions_of
from robharness.planning.outline import CellOutline
from robharness.report.environments import environments_of
from robharness.report.paired import Outcomes, outcomes_of
from robharness.store.results import CellResult, Results

NO_OUTCOMES = Outcomes(positions=np.zeros(0, np.int64), right=np.zeros(0, bool))


def side_of(results: Results, name: str, labels: Sequence[str] | None = None) -> Side:
    """Return stored results as a side. Cells that wait for the training of a model have no outcomes.

    Attacks without a budget are left out, and a finding says so: their result is a distance. Their accuracies are what
    the whole search leaves, nearly 0 for every model.
    name: in messages.
    labels: of the models to take; None for all.
    """
    suite, n = results.outline.suite, results.outline.n
    chosen = [each for each in results.cells if labels is None or each.cell.model.label in labels]
    taken = [each for each in chosen if not each.is_unbounded]
    pending = [
        each
        for each in results.outline.pending_cells
        if each.is_own and not each.is_unbounded and (labels is None or each.model.label in labels)
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
        findings=(*results.findings, *_left_out(chosen)),
        clusters=suite.clusters,
        protocols=results.outline.run.protocols,
    )


def _left_out(cells: Sequence[CellResult]) -> Iterator[Finding]:
    names = list(dict.fromkeys(each.cell.short_name for each in cells if each.is_unbounded))
    if names:
        message = (
            "an attack without a budget is not compared: its result is a distance, for which there is no test here"
        )
        hint = "robharness report shows the median distances"
        yield finding("distances-not-compared", message, subject=named_examples(names), hint=hint)


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
    return _cell(
        result.cell,
        result.n_expected,
        outcomes_of(results, result),
        failures=tuple(dict.fromkeys(failure.error for failure in result.failures)),
        environments=environments_of(result),
    )


def _pending(cell: CellOutline, n: int) -> MeasuredCell:
    reason = f"{cell.model.label} is not trained yet"
    return _cell(cell, n, NO_OUTCOMES, failures=(reason,), environments=())


def _cell(
    cell: CellOutline,
    n_expected: int,
    outcomes: Outcomes,
    failures: tuple[str, ...],
    environments: tuple[dict[str, object], ...],
) -> MeasuredCell:
    perturbation = cell.perturbation
    return MeasuredCell(
        model=cell.model.label,
        data=cell.data.name,
        perturbation=cell.short_name,
        title=perturbation.title if perturbation else "clean",
        kind=perturbation.kind if perturbation else "clean",
        norm=perturbation.norm if perturbation else None,
        eps=str(perturbation.eps) if perturbation and perturbation.eps is not None else None,
        severity=perturbation.severity if perturbation else None,
        group=perturbation.group if perturbation else None,
        key=cell.key,
        conditions=conditions_of(cell.identity),
        n_expected=n_expected,
        positions=outcomes.positions,
        right=outcomes.right,
        failures=failures,
        environments=environments,
        identity=cell.identity,
        count=cell.count,
        unit=perturbation.unit if perturbation else "",
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
