"""The tables of a report, as text that any renderer lays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from robharness.report.records import CellNumbers, GapClosed, MeanAccuracy, Numbers, Report, SlopeNumbers, WorstCase
from robharness.report.runs import over_runs, spread
from robharness.specs import MetricResult
from robharness.statistics import Interval, drop_text

T = TypeVar("T")


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
    """Attacks with their worst cases, corruptions, slopes, errors, gaps and metrics, as far as the suite has them."""
    made = [_attacks(report), _distances(report), _corruptions(report), _slopes(report), _corruption_errors(report)]
    return [table for table in [*made, _gaps(report), _metrics(report)] if table is not None]


def _attacks(report: Report) -> Table | None:
    clean = _by_row(report, lambda cell: cell.kind == "clean")
    attacks = _by_row(report, lambda cell: cell.kind == "attack" and cell.distances is None)
    if not report.cells or (not attacks and any(cell.kind == "corruption" for cell in report.cells)):
        return None
    rows: list[tuple[Value, ...] | None] = [_row(name, cells, report) for name, cells in clean.items()]
    if attacks:
        rows += [None, *(_row(name, cells, report) for name, cells in attacks.items()), None]
    worst: dict[tuple[str, str], dict[str, WorstCase]] = {}
    for case in report.worst_cases:
        worst.setdefault((case.norm, case.eps), {})[case.model] = case
    for (norm, eps), cases in worst.items():
        rows.append((Value(f"worst case {norm} ≤ {eps}"), *_across(
            report, cases, lambda case: _worst_value(case, report),
            lambda some: _numbers_over_runs([case.numbers for case in some], report),
        )))  # fmt: skip
    robust = "robust accuracy (right clean and attacked)"
    counted = robust if report.count == "robust" else "accuracy"
    if report.count == "all" and any(cell.numbers.n and cell.numbers.accuracy is None for cell in report.cells):
        counted = f"accuracy, of ensembles {robust},"
    caption = f"{counted} in %, ↓ relative drop against clean; in brackets 95 % intervals; n = {report.n}"
    if worst:
        caption += "; worst case: right under every attack of that norm and up to that budget"
    return Table("Attacks" if attacks else "Accuracy", ("", *report.columns), tuple(rows), caption + _over_runs(report))


def _distances(report: Report) -> Table | None:
    cells = _by_row(report, lambda cell: cell.distances is not None)
    if not cells:
        return None
    rows = [
        (
            Value(name),
            *_across(
                report,
                row,
                lambda cell: _distance_value(cell, report),
                lambda some: _over([_median(cell) for cell in some], "{:.4g}"),
            ),
        )
        for name, row in cells.items()
    ]
    caption = (
        f"median distance to the nearest wrong answer that the attack found, 0 where the clean one is wrong; in "
        f"brackets the 95 % interval; below, the distances within which a quarter and three quarters are wrong; "
        f"n = {report.n}"
    )
    return Table("Smallest perturbations", ("", *report.columns), tuple(rows), caption + _over_runs(report))


def _median(cell: CellNumbers) -> float | None:
    return None if cell.distances is None else cell.distances.median


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
        values = _across(report, by_model, _mean_value, lambda some: _over([m.accuracy for m in some], "{:.1f}", 100))
        rows.append((Value(name), *values))
    caption = f"accuracy in %, ↓ relative drop against clean; in brackets 95 % intervals; n = {report.n}"
    return Table("Corruptions", ("", *report.columns), tuple(rows), caption + _over_runs(report))


def _slopes(report: Report) -> Table | None:
    if not report.slopes:
        return None
    by_group: dict[str, dict[str, SlopeNumbers]] = {}
    for slope in report.slopes:
        by_group.setdefault(_part(slope), {})[slope.model] = slope
    models = tuple(dict.fromkeys(report.run_of.get(slope.model, slope.model) for slope in report.slopes))
    rows = []
    for group, slopes in by_group.items():
        values = _across(report, slopes, _slope_value, lambda some: _over([s.slope for s in some], "{:.3f}"))
        there = dict(zip(report.columns, values, strict=True))
        rows.append((Value(group), *(there[label] for label in models)))
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
    rows: dict[str, dict[str, tuple[float | None, Interval | None]]] = {}
    for errors in report.corruption_errors:
        here = f"{errors.name}, {errors.corruptions}"
        rows.setdefault(here, {})[errors.model] = (errors.error, errors.interval)
        if errors.baseline is not None:
            rows.setdefault(f"relative {here}", {})[errors.model] = (errors.relative, errors.relative_interval)
            for name, error in errors.by_corruption.items():
                rows.setdefault(f"CE, {name}", {})[errors.model] = (error, None)
    baselines = dict.fromkeys(errors.baseline for errors in report.corruption_errors if errors.baseline)
    caption = "mean over corruptions of the error in %, each the mean over its severities"
    if baselines:
        caption += f", relative to that of {' and '.join(baselines)}; relative: of what is added to the clean error"
    caption += "; in brackets 95 % bootstrap intervals over examples"
    made = tuple(
        (
            Value(name),
            *_across(
                report,
                row,
                lambda error: _error_value(*error),
                lambda some: _over([error for error, _ in some], "{:.1f}", 100),
            ),
        )
        for name, row in rows.items()
    )
    return Table("Corruption errors", ("", *report.columns), made, caption + _over_runs(report))


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


def _gaps(report: Report) -> Table | None:
    if report.gap is None or not report.gaps:
        return None
    columns = list(dict.fromkeys(gap.model for gap in report.gaps))
    found = {(gap.perturbation, gap.model): gap for gap in report.gaps}
    rows = tuple(
        (Value(name), *(_gap_value(found.get((name, column))) for column in columns))
        for name in dict.fromkeys(gap.perturbation for gap in report.gaps)
    )
    caption = (
        f"share of the way from {report.gap[0]} to {report.gap[1]}, in accuracy, in %; in brackets 95 % intervals, "
        "over runs or, of single models, over examples; no gap?: there may be none to close"
    )
    return Table("Gap closed", ("", *columns), rows, caption)


def _gap_value(gap: GapClosed | None) -> Value:
    if gap is None or gap.closed is None:
        return NOTHING
    below = []
    if gap.interval is not None:
        is_known = math.isfinite(gap.interval.low)
        below += [_percent(gap.interval, 0) if is_known else "no gap?"]
    below += [f"{gap.runs} of {gap.asked} runs"] if gap.runs < gap.asked else []
    return Value(f"{100 * gap.closed:.0f}", tuple(below))


def _metrics(report: Report) -> Table | None:
    if not report.metrics:
        return None
    rows = tuple((Value(name), *_across(report, _with_published(report, name), _metric_value, _metric_over_runs))
                 for name in report.metrics)  # fmt: skip
    return Table("Metrics", ("", *report.columns), rows, _over_runs(report).removeprefix("; "))


def _with_published(report: Report, name: str) -> dict[str, tuple[MetricResult, float | None]]:
    """A metric's values by label, and what is published of them."""
    published = report.expected_metrics.get(name, {})
    return {label: (measured, published.get(label)) for label, measured in report.metrics[name].items()}


def _across(
    report: Report, row: Mapping[str, T], one: Callable[[T], Value], several: Callable[[list[T]], Value]
) -> Iterator[Value]:
    """The values of a row, by column. one: of a model; several: of the runs that are there."""
    for label, models in report.columns.items():
        there = [row[model] for model in models if model in row]
        if label in report.models:
            yield one(there[0]) if there else NOTHING
        elif there:
            value, asked = several(there), report.asked_runs(label)
            count = f"{len(there)} of {asked}" if len(there) < asked else f"{asked}"
            yield Value(value.text, (*value.below, f"{count} run{'s' if asked > 1 else ''}"))
        else:
            yield NOTHING


def _over(values: Sequence[float | None], form: str, scale: float = 1) -> Value:
    """ "1.33 ± 0.05", mean and sample standard deviation."""
    mean, deviation = spread(values)
    if mean is None:
        return NOTHING
    return Value(form.format(scale * mean) + ("" if deviation is None else f" ± {form.format(scale * deviation)}"))


def _numbers_over_runs(numbers: Sequence[Numbers], report: Report) -> Value:
    """ "38.2 ± 0.4 ↓50% ± 1"."""
    found = over_runs("", "", len(numbers), numbers)
    is_robust, digits = found.accuracy is None, 2 if numbers[0].n >= 1000 else 1
    accuracies = [each.robust_accuracy if is_robust else each.accuracy for each in numbers]
    value = _over(accuracies, f"{{:.{digits}f}}", 100)
    if found.relative_drop is None:
        return value
    deviation = found.relative_drop_deviation
    about = "" if deviation is None else f" ± {100 * deviation:.0f}"
    return Value(f"{value.text} ↓{drop_text(found.relative_drop)}{about}", value.below)


def _over_runs(report: Report) -> str:
    """What a caption says of columns that stand for several runs."""
    return "; ±: sample standard deviation over runs, which differ in their seed" if report.runs else ""


def _metric_value(found: tuple[MetricResult, float | None]) -> Value:
    measured, published = found
    return Value("–" if math.isnan(measured.value) else f"{measured.value:.4g}", _published(published))


def _metric_over_runs(found: Sequence[tuple[MetricResult, float | None]]) -> Value:
    return Value(_over([measured.value for measured, _ in found], "{:.4g}").text, _published(found[0][1]))


def _published(value: float | None) -> tuple[str, ...]:
    return () if value is None else (f"published {value:g}",)


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
    return (Value(name), *_across(report, cells, lambda cell: _cell_value(cell, report),
                                  lambda some: _cells_over_runs(some, report)))  # fmt: skip


def _cells_over_runs(cells: Sequence[CellNumbers], report: Report) -> Value:
    """Of runs that are complete; the others are none yet."""
    complete = [cell for cell in cells if cell.complete]
    if not complete:
        return NOTHING
    value, published = _numbers_over_runs([cell.numbers for cell in complete], report), complete[0].expected
    below = [] if published is None else [f"published {100 * published:.2f}"]
    below += [f"{len(complete)} complete"] if len(complete) < len(cells) else []
    return Value(value.text, (*value.below, *below))


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
