"""Table of the optimality of attacks without a budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from robharness.report.details import BestDistances, GlobalOptimality, with_unit
from robharness.report.optimality import PASS_BUDGET
from robharness.report.records import CellNumbers, Report
from robharness.report.rows import NO_VALUE, cells_by_row, mean_over_runs, model_row, model_table, unit_of
from robharness.report.values import Note, Number, Row, Table, Value, part_of


def optimality(report: Report) -> Table | None:
    """Return the table of the optimality of attacks: attacks by norm as rows, the best first; None without any.

    Two columns follow those of models: the mean over models, and passes.
    """
    if not report.optimalities:
        return None
    cells = cells_by_row(report, lambda cell: cell.optimality is not None)
    rows: list[Row | None] = []
    for norm in dict.fromkeys(found.norm for found in report.optimalities):
        attacks = [found for found in report.optimalities if found.norm == norm]
        attacks.sort(key=lambda found: -1.0 if found.value is None else found.value, reverse=True)
        rows += [None] if rows else []
        rows += [_row(found, report, cells[found.perturbation]) for found in attacks]
        rows.append(_limits(norm, report))
    caption = (
        "local optimality of AttackBench in %: area between the accuracy under the attack and the clean accuracy, over "
        "that of the best distance of each example, for budgets from 0 to eps_0, where the best distances end; all "
        f"models: mean, the global optimality; passes: forward and backward, per example; n = {report.n}"
    )
    if not all(found.is_within for found in report.optimalities):
        caption += f"; an attack that takes more than {PASS_BUDGET:,} passes counts for no best distance"
    brackets = "in brackets 95 % bootstrap confidence intervals over examples, for these models and eps_0"
    table = model_table("Optimality of attacks", report, rows, caption, brackets)
    return replace(table, header=(*table.header, "all models", "passes"))


def _row(found: GlobalOptimality, report: Report, cells: dict[str, CellNumbers]) -> Row:
    row = model_row(
        found.perturbation,
        report,
        cells,
        lambda cell: _local(cell, report),
        lambda some: mean_over_runs([_local(cell, report).number for cell in some], "percentage", 1),
    )
    return replace(row, values=(*row.values, _mean(found, report), _passes(found, cells.values())))


def _local(cell: CellNumbers, report: Report) -> Value:
    if (found := cell.optimality) is None:
        return NO_VALUE
    return Value(number=found.value, digits=1, interval=found.interval, interval_digits=1, key=cell.key,
                 notes=part_of(found.n, report.n, "examples"))  # fmt: skip


def _mean(found: GlobalOptimality, report: Report) -> Value:
    notes = part_of(found.models, found.asked, "models") + part_of(found.n, report.n, "examples")
    return Value(number=found.value, digits=1, interval=found.interval, interval_digits=1, notes=notes)


def _passes(found: GlobalOptimality, cells: Collection[CellNumbers]) -> Value:
    notes: list[Note] = []
    if not found.is_within:
        notes.append(("more than", Number(PASS_BUDGET)))
    if found.passes is not None and not all(cell.optimality and cell.optimality.is_recorded for cell in cells):
        notes.append(("as declared",))
    return Value(number=found.passes, kind="count", notes=tuple(notes))


def _limits(norm: str, report: Report) -> Row:
    """Return the row of the budgets eps_0, with the number of examples for which no attack found a perturbation."""
    best = {found.model: found for found in report.best_distances if found.norm == norm}
    row = model_row(f"eps_0, {with_unit(norm, unit_of(report, norm))}", report, best, _limit,
                    lambda some: mean_over_runs([found.until for found in some], "distance", 4))  # fmt: skip
    return replace(row, values=(*row.values, NO_VALUE, NO_VALUE))


def _limit(found: BestDistances) -> Value:
    notes: list[Note] = [*part_of(found.attacks, found.asked, "attacks")]
    if found.found < found.n:
        notes.append(("none found for", Number(found.n - found.found)))
    return Value(number=found.until, kind="distance", digits=4, notes=tuple(notes))
