"""The tables of a report: numbers with their intervals, formatted by the renderers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from robharness.report.audit_tables import audit_table
from robharness.report.detail_tables import calibration, movements, passes, worst_class
from robharness.report.details import Published
from robharness.report.difference_tables import difference_table
from robharness.report.optimality_tables import optimality
from robharness.report.records import CellNumbers, MeanAccuracy, Numbers, Report, SlopeNumbers, WorstCase
from robharness.report.relative_tables import gains, gaps_closed
from robharness.report.rows import (
    NO_VALUE,
    cells_by_row,
    mean_over_runs,
    model_row,
    model_table,
    published_notes,
    unit_of,
)
from robharness.report.runs import over_runs
from robharness.report.transfer_tables import transfer_tables
from robharness.report.values import Note, Number, Row, Table, Value, accuracy_digits, part_of
from robharness.specs import MetricResult
from robharness.statistics import Interval


def tables(report: Report) -> list[Table]:
    """Return the tables that the suite has numbers for, attacks with their worst cases first."""
    attacks, corruptions = _attacks(report), _corruptions(report)
    made = [attacks, difference_table(attacks, report, counted_accuracy(report))]
    made += [*transfer_tables(report, counted_accuracy(report), _cells_row), _distances(report)]
    made += [optimality(report), movements(report), corruptions]
    made += [difference_table(corruptions, report, report.measure), _slopes(report)]
    made += [_corruption_errors(report), gaps_closed(report), gains(report), calibration(report), worst_class(report)]
    made += [passes(report), _metrics(report), audit_table(report)]
    return [table for table in made if table is not None]


# --- attacks --------------------------------------------------------------------------------------------------------


def _attacks(report: Report) -> Table | None:
    clean = cells_by_row(report, lambda cell: cell.kind == "clean")
    bounded = cells_by_row(report, lambda cell: cell.kind == "attack" and not cell.is_unbounded)
    if not report.cells or (not bounded and any(cell.kind == "corruption" for cell in report.cells)):
        return None
    attacks = {name: cells for name, cells in bounded.items() if all(each.transfer is None for each in cells.values())}
    rows: list[Row | None] = [_cells_row(name, cells, report) for name, cells in clean.items()]
    if attacks:
        rows += [None, *(_cells_row(name, cells, report) for name, cells in attacks.items())]
    worst = _worst_cases(report)
    rows += [None] if worst else []
    for name, cases in worst.items():
        rows.append(model_row(name, report, cases, lambda case: _worst_case(case, report),
                         lambda some: _accuracy_over_runs([case.numbers for case in some])))  # fmt: skip
    drop = "↓ relative drop from the clean retrieval" if report.retrieval else _DROP
    caption = f"{counted_accuracy(report)} in %; {drop}; n = {report.n}"
    if worst:
        caption += "; worst case: correct under every attack of the norm or measure, with budgets up to the given one"
        caption += ", transfer attacks included" if len(attacks) < len(bounded) else ""
    title = "Attacks" if attacks or worst else "Accuracy"
    if report.retrieval:
        title = "Retrieval under attacks" if attacks or worst else "Retrieval"
    return model_table(title, report, rows, caption, _INTERVALS)


def counted_accuracy(report: Report) -> str:
    """Return the name of the accuracy in the table of attacks."""
    if report.retrieval:
        return "retrieval (the clean features that are nearest are the example's own)"
    robust = "robust accuracy (correct both clean and attacked)"
    if report.count == "all" and any(cell.numbers.n and cell.numbers.accuracy is None for cell in report.cells):
        return f"accuracy, for ensembles {robust},"
    return robust if report.count == "robust" else "accuracy"


_DROP = "↓ relative drop from the clean accuracy"
_INTERVALS = "in brackets 95 % confidence intervals"
_BOOTSTRAP = "in brackets 95 % bootstrap confidence intervals over examples"


def _worst_cases(report: Report) -> dict[str, dict[str, WorstCase]]:
    """Return the worst cases by row and model, without those that repeat an attack of the same budget."""
    attacks: dict[tuple[str | None, str | None], dict[str, dict[str, Numbers]]] = {}
    for cell in report.cells:
        if cell.kind == "attack":
            attacks.setdefault((cell.norm, cell.eps), {}).setdefault(cell.perturbation, {})[cell.model] = cell.numbers
    found: dict[tuple[str, str], dict[str, WorstCase]] = {}
    for case in report.worst_cases:
        found.setdefault((case.norm, case.eps), {})[case.model] = case
    return {
        next(iter(cases.values())).name: cases
        for (norm, eps), cases in found.items()
        if not any(
            all(
                case.asked == 1 or (case.attacks == case.asked and case.numbers == numbers.get(model))
                for model, case in cases.items()
            )
            for numbers in attacks.get((norm, eps), {}).values()
        )
    }


def _cells_row(name: str, cells: dict[str, CellNumbers], report: Report) -> Row:
    row = model_row(name, report, cells, lambda cell: _cell(cell, report), lambda some: _cells_over_runs(some, report))
    return replace(row, kind=next(iter(cells.values())).kind)


def _cell(cell: CellNumbers, report: Report) -> Value:
    notes: list[Note] = [*part_of(cell.numbers.n, report.n, "examples")]
    if cell.success is not None:
        notes.append(("target reached", Number(cell.success, "percentage", 1)))
    if cell.accuracy_8bit is not None:
        notes.append(("in 8 bits", Number(cell.accuracy_8bit, "percentage", 1)))
    notes += [(f"{name} broke", Number(count)) for name, count in cell.components.items()]
    value = _accuracy(cell.numbers)
    return replace(value, key=cell.key, notes=(*notes, *_published_accuracy(cell, value, report)))


def _cells_over_runs(cells: Sequence[CellNumbers], report: Report) -> Value:
    """Return the value over the complete runs."""
    complete = [cell for cell in cells if cell.complete]
    value = _accuracy_over_runs([cell.numbers for cell in complete]) if complete else NO_VALUE
    notes = _published_accuracy(cells[0], value, report)
    return replace(value, notes=(*notes, *part_of(len(complete), len(cells), "complete")))


def _published_accuracy(cell: CellNumbers, ours: Value, report: Report) -> tuple[Note, ...]:
    return published_notes(report, cell.published, ours, "percentage", 2)


def _worst_case(case: WorstCase, report: Report) -> Value:
    notes = part_of(case.attacks, case.asked, "attacks")
    notes += part_of(case.numbers.n, report.n, "examples")
    return replace(_accuracy(case.numbers), notes=notes)


def _accuracy(numbers: Numbers) -> Value:
    """Return the accuracy, or the robust accuracy if there is no other, with the relative drop."""
    is_robust = numbers.accuracy is None
    accuracy = numbers.robust_accuracy if is_robust else numbers.accuracy
    if accuracy is None:
        return NO_VALUE
    digits = accuracy_digits(numbers.n)
    interval = numbers.robust_interval if is_robust else numbers.interval
    drop = None
    if numbers.relative_drop is not None:
        drop = Value(number=numbers.relative_drop, kind="drop", interval=numbers.relative_drop_interval)
    return Value(number=accuracy, digits=digits, interval=interval, interval_digits=digits, drop=drop)


def _accuracy_over_runs(numbers: Sequence[Numbers]) -> Value:
    found = over_runs("", "", len(numbers), numbers)
    is_robust = found.accuracy is None
    accuracies = [each.robust_accuracy if is_robust else each.accuracy for each in numbers]
    value = mean_over_runs(accuracies, "percentage", accuracy_digits(numbers[0].n))
    if found.relative_drop is None:
        return value
    return replace(value, drop=Value(number=found.relative_drop, kind="drop", deviation=found.relative_drop_deviation))


def _distances(report: Report) -> Table | None:
    cells = cells_by_row(report, lambda cell: cell.is_unbounded)
    if not any(cell.distances for row in cells.values() for cell in row.values()):
        return None
    rows = [
        model_row(name, report, row, lambda cell: _distance(cell, report),
             lambda some: mean_over_runs([_median(cell) for cell in some], "distance", 4))
        for name, row in cells.items()
    ]  # fmt: skip
    rows += [
        model_row(f"area, {name}", report, row, _area,
             lambda some: mean_over_runs([_area(cell).number for cell in some], "percentage", 1))
        for name, row in cells.items()
    ]  # fmt: skip
    caption = (
        "median distance to the nearest wrong answer that the attack found, 0 if the clean input is wrong; "
        f"{_areas(cells)}{_units(report)}; n = {report.n}"
    )
    brackets = (
        "in brackets the 95 % confidence interval; quartiles: the distances within which a quarter and three quarters "
        "of the examples are wrong"
    )
    return model_table("Smallest perturbations", report, rows, caption, brackets)


def _units(report: Report) -> str:
    """Name the norms and measures of the distances that have a unit."""
    norms = dict.fromkeys(cell.norm for cell in report.cells if cell.is_unbounded and cell.norm and cell.unit)
    return "".join(f"; {norm}: in {unit_of(report, norm)}" for norm in norms)


def _areas(cells: dict[str, dict[str, CellNumbers]]) -> str:
    """Describe the areas below accuracies over budgets, each with the budget that it reaches up to."""
    until = {name: cell.distances.area_until for name, row in cells.items() for cell in row.values() if cell.distances}
    known = [f"{value:g}{f' for {name}' if len(until) > 1 else ''}" for name, value in until.items() if value]
    return f"area: mean accuracy in % over the budgets from 0 to {', '.join(known) or 'the largest distance'}"


def _area(cell: CellNumbers) -> Value:
    return NO_VALUE if cell.distances is None else Value(number=cell.distances.area, digits=1)


def _median(cell: CellNumbers) -> float | None:
    return None if cell.distances is None else cell.distances.median


def _distance(cell: CellNumbers, report: Report) -> Value:
    found = cell.distances
    if found is None:
        return replace(NO_VALUE, notes=part_of(cell.numbers.n, report.n, "examples"))
    first, third = (Number(value, "distance", 4) for value in found.quartiles)
    notes: list[Note] = []
    if found.found < found.n:
        notes.append(("none found for", Number(found.n - found.found)))
    notes += part_of(found.n, report.n, "examples")
    return Value(number=found.median, kind="distance", digits=4, interval=found.interval, interval_digits=4,
                 key=cell.key, details=(("quartiles", first, "to", third),), notes=tuple(notes))  # fmt: skip


# --- corruptions ----------------------------------------------------------------------------------------------------


def _corruptions(report: Report) -> Table | None:
    cells = cells_by_row(report, lambda cell: cell.kind == "corruption")
    if not cells:
        return None
    clean = cells_by_row(report, lambda cell: cell.kind == "clean")
    rows: list[Row | None] = [_cells_row(name, row, report) for name, row in clean.items()]
    group: str | None = None
    groups = list(dict.fromkeys(cell.group for cell in report.cells if cell.kind == "corruption"))
    for name, row in sorted(cells.items(), key=lambda item: groups.index(_group(item[1]))):
        if _group(row) != group:
            group = _group(row)
            rows.append(None)
        rows.append(_cells_row(f"{name}, {group}", row, report))
    rows.append(None)
    means: dict[str, dict[str, MeanAccuracy]] = {}
    for mean in report.corruption_means:
        means.setdefault(f"mean of {_part(mean)}", {})[mean.model] = mean
    for name, by_model in means.items():
        rows.append(model_row(name, report, by_model, lambda mean: _mean_accuracy(mean, report),
                         lambda some: mean_over_runs([mean.accuracy for mean in some], "percentage", 1)))  # fmt: skip
    title = "Retrieval under corruptions" if report.retrieval else "Corruptions"
    return model_table(title, report, rows, f"{report.measure} in %; {_DROP}; n = {report.n}", _INTERVALS)


def _group(row: dict[str, CellNumbers]) -> str | None:
    return next(iter(row.values())).group


def _part(numbers: MeanAccuracy | SlopeNumbers) -> str:
    if numbers.severity is not None:
        return f"severity {numbers.severity}"
    return numbers.group or "all corruptions"


def _mean_accuracy(mean: MeanAccuracy, report: Report) -> Value:
    if mean.accuracy is None or mean.interval is None:
        return NO_VALUE
    digits = accuracy_digits(mean.n)
    return Value(number=mean.accuracy, digits=digits, interval=mean.interval, interval_digits=digits,
                 notes=_parts(mean, report))  # fmt: skip


def _parts(found: MeanAccuracy | SlopeNumbers, report: Report) -> tuple[Note, ...]:
    """Return what a number over corruptions lacks."""
    return (*part_of(found.corruptions, found.asked, "corruptions"), *part_of(found.n, report.n, "examples"))


def _slopes(report: Report) -> Table | None:
    if not report.slopes:
        return None
    parts: dict[str, dict[str, SlopeNumbers]] = {}
    for slope in report.slopes:
        parts.setdefault(_part(slope), {})[slope.model] = slope
    columns = list(dict.fromkeys(report.run_of.get(slope.model, slope.model) for slope in report.slopes))
    rows = [
        model_row(
            name,
            report,
            slopes,
            lambda slope: _slope(slope, report),
            lambda some: mean_over_runs([each.slope for each in some], "slope", 3),
            columns,
        )
        for name, slopes in parts.items()
    ]
    caption = f"slope of the model's relative drops on those of {report.reference}, by least squares through the origin"
    if any(slope.few_examples for slope in report.slopes):
        caption += "; * few examples"
    brackets = (
        f"{_BOOTSTRAP}, then over corruptions (from 3 on); without one: the smallest and the largest slope with one "
        "corruption left out"
    )
    return model_table(f"Slopes against {report.reference}", report, rows, caption, brackets, columns)


def _slope(slope: SlopeNumbers, report: Report) -> Value:
    if slope.slope is None:
        return NO_VALUE
    without = [value for value in slope.without.values() if not math.isnan(value)]
    details: tuple[Note, ...] = ()
    if without:
        details = ((Number(min(without), "slope", 2), "to", Number(max(without), "slope", 2), "without one"),)
    return Value(
        number=slope.slope,
        kind="slope",
        digits=3,
        interval=slope.interval,
        interval_digits=2,
        corruption_interval=slope.corruption_interval,
        few_examples=slope.few_examples,
        details=details,
        notes=_parts(slope, report),
    )


def _corruption_errors(report: Report) -> Table | None:
    if not report.corruption_errors:
        return None
    by_row: dict[str, dict[str, tuple[float | None, Interval | None, int]]] = {}
    for errors in report.corruption_errors:
        name = f"{errors.name}, {errors.corruptions}"
        by_row.setdefault(name, {})[errors.model] = (errors.error, errors.interval, errors.n)
        if errors.baseline is not None:
            by_row.setdefault(f"relative {name}", {})[errors.model] = (
                errors.relative,
                errors.relative_interval,
                errors.n,
            )
            for corruption, error in errors.by_corruption.items():
                by_row.setdefault(f"CE, {corruption}", {})[errors.model] = (error, None, errors.n)
    baselines = dict.fromkeys(errors.baseline for errors in report.corruption_errors if errors.baseline)
    caption = "mean over corruptions of the error in %, where a corruption's error is the mean over its severities"
    if baselines:
        caption += f", relative to that of {' and '.join(baselines)}; relative: of the increase over the clean error"
    rows = [model_row(name, report, row, lambda error: _error(*error, report.n),
                 lambda some: mean_over_runs([error for error, *_ in some], "percentage", 1))
            for name, row in by_row.items()]  # fmt: skip
    return model_table("Corruption errors", report, rows, caption, _BOOTSTRAP)


def _error(error: float | None, interval: Interval | None, n: int, asked: int) -> Value:
    if error is None:
        return NO_VALUE
    return Value(number=error, digits=1, interval=interval, interval_digits=1, notes=part_of(n, asked, "examples"))


# --- metrics ---------------------------------------------------------------------------------------------------------


def _metrics(report: Report) -> Table | None:
    if not report.metrics:
        return None
    rows: list[Row] = []
    for name, results in report.metrics.items():
        published = report.published_metrics.get(name, {})
        by_model = {label: (_metric(result), published.get(label, ())) for label, result in results.items()}
        rows.append(model_row(name, report, by_model, lambda each: _published_metric(*each, report),
                         lambda some: _metric_over_runs(some, report)))  # fmt: skip
    return model_table("Metrics", report, rows)


def _metric(result: MetricResult) -> Value:
    return Value(number=None if math.isnan(result.value) else result.value, kind="metric", digits=4)


def _metric_over_runs(found: Sequence[tuple[Value, Sequence[Published]]], report: Report) -> Value:
    return _published_metric(mean_over_runs([value.number for value, _ in found], "metric", 4), found[0][1], report)


def _published_metric(value: Value, published: Sequence[Published], report: Report) -> Value:
    return replace(value, notes=published_notes(report, published, value, "metric", 6))
