"""Tables of calibration, of the worst class, of the passes of attacks, and of how far they moved features."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from robharness import statistics
from robharness.report.details import Calibration
from robharness.report.records import CellNumbers, Report
from robharness.report.rows import NO_VALUE, cells_by_row, mean_over_runs, model_row, model_table
from robharness.report.values import Number, Row, Table, Value, part_of

MANY_CONFIDENCES = 1000
"""Examples from which on the ECE carries no flag."""


def calibration(report: Report) -> Table | None:
    """Return the table of calibration errors and mean confidences; None without enough confidences."""
    cells = cells_by_row(report, _is_calibrated)
    if not cells:
        return None
    rows: list[Row | None] = []
    for name, number in _QUANTITIES.items():
        rows += [None] if rows else []
        rows += [_calibration_row(f"{name}, {perturbation}", report, some, name, number)
                 for perturbation, some in cells.items()]  # fmt: skip
    caption = (
        f"ECE: expected calibration error over {statistics.BINS} bins of equal width; confidence: mean of the largest "
        f"probability; when wrong: of wrong predictions; all in %; n = {report.n}"
    )
    if any(cell.calibration is not None and cell.calibration.n < MANY_CONFIDENCES
           for some in cells.values() for cell in some.values()):  # fmt: skip
        caption += "; * few examples: chance alone makes the ECE larger"
    return model_table("Calibration", report, rows, caption)


def _is_calibrated(cell: CellNumbers) -> bool:
    return _is_clean_or_attacked(cell) and cell.shows_calibration


def _is_clean_or_attacked(cell: CellNumbers) -> bool:
    return cell.kind in ("clean", "attack") and not cell.is_unbounded


_QUANTITIES: dict[str, Callable[[Calibration], float | None]] = {
    "ECE": lambda found: found.ece,
    "confidence": lambda found: found.confidence,
    "confidence when wrong": lambda found: found.confidence_when_wrong,
}


def _calibration_row(
    name: str,
    report: Report,
    cells: dict[str, CellNumbers],
    quantity: str,
    number: Callable[[Calibration], float | None],
) -> Row:
    def of(cell: CellNumbers) -> float | None:
        return None if cell.calibration is None else number(cell.calibration)

    def one(cell: CellNumbers) -> Value:
        found, is_error = cell.calibration, quantity == "ECE"
        if found is None:
            return NO_VALUE
        notes = ((Number(found.n), "of", Number(report.n), "confidences"),) if is_error and found.n < report.n else ()
        few = is_error and found.n < MANY_CONFIDENCES
        return Value(number=of(cell), digits=1, few_examples=few, notes=notes)

    return model_row(
        name, report, cells, one, lambda some: mean_over_runs([of(cell) for cell in some], "percentage", 1)
    )


def worst_class(report: Report) -> Table | None:
    """Return the table of the lowest accuracies of a class; None without enough examples per class."""
    cells = cells_by_row(report, _has_classes)
    if not cells:
        return None
    rows = [
        model_row(
            name,
            report,
            some,
            lambda cell: _worst(cell, report),
            lambda runs: mean_over_runs([_lowest(cell) for cell in runs], "percentage", 1),
        )
        for name, some in cells.items()
    ]
    counts = sorted({cell.classes.classes for some in cells.values() for cell in some.values() if cell.classes})
    caption = (
        f"lowest accuracy of a class in %, of {' or '.join(map(str, counts))} classes; in brackets 95 % confidence "
        f"intervals of the lowest accuracy of all classes, which hold for a minimum; n = {report.n}"
    )
    return model_table("Worst class", report, rows, caption)


def _has_classes(cell: CellNumbers) -> bool:
    return _is_clean_or_attacked(cell) and cell.shows_classes


def _lowest(cell: CellNumbers) -> float | None:
    return None if cell.classes is None else cell.classes.worst


def _worst(cell: CellNumbers, report: Report) -> Value:
    if cell.classes is None:
        return NO_VALUE
    label = Number(cell.classes.lowest[0].label)
    notes = (("class", label), *part_of(cell.numbers.n, report.n, "examples"))
    interval = cell.classes.worst_interval
    return Value(number=cell.classes.worst, digits=1, interval=interval, interval_digits=1, notes=notes)


def movements(report: Report) -> Table | None:
    """Return how far attacks on features moved the features; None without such attacks."""
    cells = cells_by_row(report, lambda cell: cell.movement is not None)
    if not cells:
        return None
    rows = [
        model_row(
            f"{name}: {_note(row.values())}",
            report,
            row,
            _movement,
            lambda some: mean_over_runs([_movement(cell).number for cell in some], "distance", 4),
        )
        for name, row in cells.items()
    ]
    caption = f"mean distance of the attacked features from the clean ones, as the attack measures it; n = {report.n}"
    return model_table("Movement of features", report, rows, caption, "in brackets 95 % confidence intervals")


def _note(cells: Iterable[CellNumbers]) -> str:
    return next((cell.movement.note for cell in cells if cell.movement is not None), "")


def _movement(cell: CellNumbers) -> Value:
    if (found := cell.movement) is None:
        return NO_VALUE
    return Value(number=found.mean, kind="distance", digits=4, interval=found.interval, interval_digits=4, key=cell.key)


def passes(report: Report) -> Table | None:
    """Return the passes per attacked example, and those of fits; None if each attack made those that it declares."""
    cells = cells_by_row(report, lambda cell: cell.passes is not None)
    shown = [cell for row in cells.values() for cell in row.values()]
    are_fitted = any(cell.fit_passes for cell in shown)
    if not are_fitted and all(cell.passes == cell.cost for cell in shown):
        return None
    rows = [
        model_row(
            name,
            report,
            row,
            lambda cell: _passes(cell, report),
            lambda some: mean_over_runs([_passes(cell, report).number for cell in some], "count", 0),
        )
        for name, row in cells.items()
    ]
    caption = f"forward and backward passes of an attack per attacked example, without those that judge; n = {report.n}"
    caption += "; once: passes of one example each that fit the attack, in all" if are_fitted else ""
    return model_table("Passes per example", report, rows, caption)


def _passes(cell: CellNumbers, report: Report) -> Value:
    if (found := cell.passes) is None:
        return NO_VALUE
    notes = part_of(cell.numbers.n, report.n, "examples")
    if cell.cost and found.total < cell.cost.total:
        notes += (("of", Number(cell.cost.total), "at most"),)
    if cell.fit_passes:
        notes += (("once", Number(cell.fit_passes.total)),)
    return Value(number=found.total, kind="count", digits=0 if found.total >= 100 else 1, notes=notes, key=cell.key)
