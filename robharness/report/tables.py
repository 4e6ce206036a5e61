"""The tables of a report, as text that any renderer lays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from robharness.metrics import Interval, drop_text
from robharness.report.corruptions import MeanAccuracy, SlopeNumbers
from robharness.report.model import CellNumbers, Numbers, Report, WorstCase
from robharness.specs import Measured


@dataclass(frozen=True)
class Value:
    """What one place of a table shows: the number, and smaller lines below it."""

    text: str
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """rows: the first entry names the row; a row of None is a line between sections."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...] | None, ...]
    caption: str = ""


NOTHING = Value("–")


def tables(report: Report) -> list[Table]:
    """Attacks with their worst cases, corruptions, slopes, errors and metrics, as far as the suite has them."""
    made = [_attacks(report), _distances(report), _corruptions(report), _slopes(report), _corruption_errors(report)]
    return [table for table in [*made, _metrics(report)] if table is not None]


def _attacks(report: Report) -> Table | None:
    clean = _by_row(report, lambda cell: cell.kind == "clean")
    attacks = _by_row(report, lambda cell: cell.kind == "attack" and cell.distances is None)
    if not attacks and any(cell.kind == "corruption" for cell in report.cells):
        return None
    rows: list[tuple[Value, ...] | None] = [_row(name, cells, report) for name, cells in clean.items()]
    if attacks:
        rows += [None, *(_row(name, cells, report) for name, cells in attacks.items()), None]
    worst: dict[tuple[str, str], dict[str, WorstCase]] = {}
    for case in report.worst_cases:
        worst.setdefault((case.norm, case.eps), {})[case.model] = case
    for (norm, eps), cases in worst.items():
        values = [_worst_value(cases[m], report) if m in cases else NOTHING for m in report.models]
        rows.append((Value(f"worst case {norm} ≤ {eps}"), *values))
    robust = "robust accuracy (right clean and attacked)"
    counted = robust if report.count == "robust" else "accuracy"
    if report.count == "all" and any(cell.numbers.n and cell.numbers.accuracy is None for cell in report.cells):
        counted = f"accuracy, of ensembles {robust},"
    caption = f"{counted} in %, ↓ relative drop against clean; in brackets 95 % intervals; n = {report.n}"
    if worst:
        caption += "; worst case: right under every attack of that norm and up to that budget"
    return Table("Attacks" if attacks else "Accuracy", ("", *report.models), tuple(rows), caption)


def _distances(report: Report) -> Table | None:
    cells = _by_row(report, lambda cell: cell.distances is not None)
    if not cells:
        return None
    rows = [
        (
            Value(name),
            *(_distance_value(cells[name][m], report) if m in cells[name] else NOTHING for m in report.models),
        )
        for name in cells
    ]
    caption = (
        f"median distance to the nearest wrong answer that the attack found, 0 where the clean one is wrong; in "
        f"brackets the 95 % interval; below, the distances within which a quarter and three quarters are wrong; "
        f"n = {report.n}"
    )
    return Table("Smallest perturbations", ("", *report.models), tuple(rows), caption)


def _distance_value(cell: CellNumbers, report: Report) -> Value:
    found = cell.distances
    if found is None:
        return NOTHING
    first, third = ("?" if value is None else f"{value:.4g}" for value in found.quartiles)
    below = [f"[{found.interval.low:.4g}, {found.interval.high:.4g}]", f"{first} to {third}"]
    below += [f"none found for {found.n - found.found}"] if found.found < found.n else []
    below += [] if cell.complete else [f"{found.n} of {report.n} examples"]
    return Value("–" if found.median is None else f"{found.median:.4g}", tuple(below))


def _corruptions(report: Report) -> Table | None:
    cells = _by_row(report, lambda cell: cell.kind == "corruption")
    if not cells:
        return None
    rows: list[tuple[Value, ...] | None] = [
        _row(name, row, report) for name, row in _by_row(report, lambda cell: cell.kind == "clean").items()
    ]
    group: str | None = None
    for name, row in sorted(cells.items(), key=lambda item: _group_order(report).index(_group(item[1]))):
        if _group(row) != group:
            group = _group(row)
            rows.append(None)
        rows.append(_row(f"{name}, {group}", row, report))
    rows.append(None)
    means: dict[str, dict[str, MeanAccuracy]] = {}
    for mean in report.corruption_means:
        means.setdefault(f"mean of {_part(mean)}", {})[mean.model] = mean
    for name, by_model in means.items():
        values = [_mean_value(by_model[m]) if m in by_model else NOTHING for m in report.models]
        rows.append((Value(name), *values))
    caption = f"accuracy in %, ↓ relative drop against clean; in brackets 95 % intervals; n = {report.n}"
    return Table("Corruptions", ("", *report.models), tuple(rows), caption)


def _slopes(report: Report) -> Table | None:
    if not report.slopes:
        return None
    by_group: dict[str, dict[str, SlopeNumbers]] = {}
    for slope in report.slopes:
        by_group.setdefault(_part(slope), {})[slope.model] = slope
    models = tuple(dict.fromkeys(slope.model for slope in report.slopes))
    rows = []
    for group, slopes in by_group.items():
        rows.append((Value(group), *(_slope_value(slopes[m]) if m in slopes else NOTHING for m in models)))
    flag = "; * few examples" if any(slope.few_examples for slope in report.slopes) else ""
    caption = (
        f"least squares through the origin of the model's drops on those of {report.reference}; in brackets 95 % "
        f"bootstrap intervals over examples, then over corruptions (from 3 on); below, the least and the largest slope "
        f"with one corruption left out{flag}"
    )
    return Table(f"Slopes against {report.reference}", ("", *models), tuple(rows), caption)


def _corruption_errors(report: Report) -> Table | None:
    if not report.corruption_errors:
        return None
    rows: dict[str, dict[str, Value]] = {}
    for errors in report.corruption_errors:
        here = f"{errors.name}, {errors.corruptions}"
        rows.setdefault(here, {})[errors.model] = _error_value(errors.error, errors.interval)
        if errors.baseline is not None:
            relative = _error_value(errors.relative, errors.relative_interval)
            rows.setdefault(f"relative {here}", {})[errors.model] = relative
            for name, error in errors.by_corruption.items():
                rows.setdefault(f"CE, {name}", {})[errors.model] = _error_value(error, None)
    baselines = dict.fromkeys(errors.baseline for errors in report.corruption_errors if errors.baseline)
    caption = "mean over corruptions of the error in %, each the mean over its severities"
    if baselines:
        caption += f", relative to that of {' and '.join(baselines)}; relative: of what is added to the clean error"
    caption += "; in brackets 95 % bootstrap intervals over examples"
    made = tuple((Value(name), *(row.get(m, NOTHING) for m in report.models)) for name, row in rows.items())
    return Table("Corruption errors", ("", *report.models), made, caption)


def _error_value(error: float | None, interval: Interval | None) -> Value:
    if error is None:
        return NOTHING
    below = [_percent(interval, 1)] if interval is not None else []
    return Value(f"{100 * error:.1f}", tuple(below))


def _mean_value(mean: MeanAccuracy) -> Value:
    if mean.accuracy is None or mean.interval is None:
        return NOTHING
    digits = 2 if mean.n >= 1000 else 1
    lacks = [f"{mean.corruptions} of {mean.asked} corruptions"] if mean.corruptions < mean.asked else []
    return Value(f"{100 * mean.accuracy:.{digits}f}", (_percent(mean.interval, digits), *lacks))


def _part(numbers: MeanAccuracy | SlopeNumbers) -> str:
    if numbers.severity is not None:
        return f"severity {numbers.severity}"
    return numbers.group or "all corruptions"


def _metrics(report: Report) -> Table | None:
    if not report.metrics:
        return None
    rows = tuple(
        (Value(name), *(_metric_value(values.get(m)) for m in report.models)) for name, values in report.metrics.items()
    )
    return Table("Metrics", ("", *report.models), rows)


def _metric_value(measured: Measured | None) -> Value:
    return NOTHING if measured is None or math.isnan(measured.value) else Value(f"{measured.value:.4g}")


def _by_row(report: Report, wanted: Callable[[CellNumbers], bool]) -> dict[str, dict[str, CellNumbers]]:
    rows: dict[str, dict[str, CellNumbers]] = {}
    for cell in report.cells:
        if wanted(cell):
            rows.setdefault(cell.perturbation, {})[cell.model] = cell
    return rows


def _group(row: dict[str, CellNumbers]) -> str | None:
    return next(iter(row.values())).group


def _group_order(report: Report) -> list[str | None]:
    return list(dict.fromkeys(cell.group for cell in report.cells if cell.kind == "corruption"))


def _row(name: str, cells: dict[str, CellNumbers], report: Report) -> tuple[Value, ...]:
    return (Value(name), *(_cell_value(cells[m], report) if m in cells else NOTHING for m in report.models))


def _cell_value(cell: CellNumbers, report: Report) -> Value:
    value = number_value(cell.numbers, report)
    below = list(value.below)
    if not cell.complete:
        below.append(f"{cell.numbers.n} of {report.n} examples")
    if cell.success is not None:
        below.append(f"target reached {100 * cell.success:.1f}")
    if cell.accuracy_8bit is not None:
        below.append(f"in 8 bits {100 * cell.accuracy_8bit:.1f}")
    if cell.components:
        below += [f"{name} broke {count}" for name, count in cell.components.items()]
    if cell.expected is not None:
        below.append(f"published {100 * cell.expected:.2f}")
    return Value(value.text, tuple(below))


def _worst_value(case: WorstCase, report: Report) -> Value:
    value = number_value(case.numbers, report)
    lacks = [f"{case.attacks} of {case.asked} attacks"] if case.attacks < case.asked else []
    lacks += [f"{case.numbers.n} of {report.n} examples"] if case.numbers.n < report.n else []
    return Value(value.text, (*value.below, *lacks))


def number_value(numbers: Numbers, report: Report) -> Value:
    """ "38.20 ↓50%" over "[37.1, 39.3]" and "↓[48, 52]"."""
    robust = numbers.accuracy is None
    accuracy, interval = (
        (numbers.robust_accuracy, numbers.robust_interval) if robust else (numbers.accuracy, numbers.interval)
    )
    if accuracy is None:
        return NOTHING
    digits = 2 if numbers.n >= 1000 else 1
    text, below = f"{100 * accuracy:.{digits}f}", [] if interval is None else [_percent(interval, digits)]
    if numbers.relative_drop is not None:
        text += f" ↓{drop_text(numbers.relative_drop)}"
        if numbers.relative_drop_interval is not None:
            below.append(f"↓{_percent(numbers.relative_drop_interval, 0)}")
    return Value(text, tuple(below))


def _slope_value(slope: SlopeNumbers) -> Value:
    if slope.slope is None:
        return NOTHING
    lines = [_plain(slope.interval)] + ([_plain(slope.corruption_interval)] if slope.corruption_interval else [])
    found = [value for value in slope.without.values() if not math.isnan(value)]
    lines += [f"{min(found):.2f} to {max(found):.2f} without one"] if found else []
    lines += [f"{slope.corruptions} of {slope.asked} corruptions"] if slope.corruptions < slope.asked else []
    return Value(f"{slope.slope:.3f}{'*' if slope.few_examples else ''}", tuple(lines))


def _percent(interval: Interval, digits: int) -> str:
    return f"[{_numbers((100 * bound for bound in interval), digits)}]"


def _plain(interval: Interval | None) -> str:
    return "" if interval is None else f"[{_numbers(interval, 2)}]"


def _numbers(values: Iterable[float], digits: int) -> str:
    return ", ".join("?" if math.isnan(v) else f"{round(v, digits) + 0.0:.{digits}f}" for v in values)
