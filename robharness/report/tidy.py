"""The numbers of a report as tidy rows: one per model, perturbation and statistic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robharness.errors import UserError, glob_matches, nearest_word
from robharness.report.details import Distances, Optimality
from robharness.report.records import CellNumbers, Numbers, Report
from robharness.specs import Budget
from robharness.statistics.intervals import Interval

COLUMNS: dict[str, type] = {
    "suite": str,
    "data": str,
    "model": str,
    "kind": str,
    "perturbation": str,
    "norm": str,
    "budget": str,
    "eps": float,
    "severity": int,
    "group": str,
    "statistic": str,
    "part": str,
    "reference": str,
    "value": float,
    "low": float,
    "high": float,
    "n": int,
    "complete": bool,
    "key": str,
    "unit": str,
}
"""Columns and their types; a value that does not apply to a row is None.

kind: "clean", "attack", "corruption", "worst case", "difference", "corruption mean", "slope", "corruption error",
    "runs", "gap", "gain", "optimality", "metric", "published metric" or "audit".
budget: eps as the suite writes it, such as "0.25/255"; eps is its value.
part: of the statistic, such as a class, a bin of confidences, a note of an attack, a corruption, a check of an audit,
    or the source of a published number.
reference: the model or table that the number is relative to.
value, low, high: the number, and both ends of its 95 % confidence interval.
n: examples; of means over runs, the number of runs; of the median or the mean of gains, the number of gains.
complete: whether all examples, attacks, corruptions or runs that belong to the number are stored.
unit: of eps, and of distances, in the norm or measure of the row, such as "pixels".
"""
Tidy = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Selected statistics and columns of the tidy rows.

    statistics: patterns such as "accuracy" or "mine/*"; a row is selected if one of them matches its statistic.
        Empty for all statistics.
    columns: names out of `COLUMNS`, in the order of the file; empty for all columns.
    """

    statistics: Sequence[str] = ()
    columns: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The selected columns. Raises UserError for a name that is no column, and for a repeated name."""
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(
                    f"there is no column '{name}'. Try: --columns {nearest_word(name, COLUMNS) or ','.join(COLUMNS)}"
                )
            if self.columns.count(name) > 1:
                raise UserError(f"column '{name}' is repeated. Try: --columns {','.join(dict.fromkeys(self.columns))}")
        return list(self.columns or COLUMNS)

    def of(self, report: Report) -> list[Tidy]:
        """Return the selected rows of a report, with the selected columns.

        Raises UserError as `names`, and for a pattern that matches no statistic of a report with results.
        """
        names, found = self.names, rows(report)
        available = list(dict.fromkeys(row["statistic"] for row in found))
        for pattern in self.statistics:
            if "accuracy" in available and not any(glob_matches(each, pattern) for each in available):
                proposed = nearest_word(pattern, available) or "accuracy"
                raise UserError(f"the report has no statistic '{pattern}'. Try: --statistics {proposed}")
        selected = [each for each in available if any(glob_matches(each, pattern) for pattern in self.statistics)]
        kept = [row for row in found if row["statistic"] in selected] if self.statistics else found
        return [{name: row[name] for name in names} for row in kept]


ALL = Selection()


def rows(report: Report) -> list[Tidy]:
    """Return all numbers of a report. Each row has all of `COLUMNS`; statistics without a value are left out."""
    made = [*_cells(report), *_optimalities(report), *_worst_cases(report), *_differences(report)]
    made += [*_corruptions(report), *_over_runs(report), *_metrics(report), *_audits(report)]
    empty = dict.fromkeys(COLUMNS)
    common = {"suite": report.suite, "data": report.data}
    units = {cell.norm: cell.unit for cell in report.cells if cell.norm and cell.unit}
    known = (row | {"unit": units.get(row.get("norm") or "")} for row in made if row["value"] is not None)
    return [empty | common | row for row in known]


def _row(statistic: str, value: float | None, interval: Interval | None = None, **more: Any) -> Tidy:
    ends = {} if interval is None else {"low": interval.low, "high": interval.high}
    number = None if value is None or math.isnan(value) else float(value)
    return {"statistic": statistic, "value": number, **ends, **more}


def _cells(report: Report) -> Iterator[Tidy]:
    for cell in report.cells:
        where: Tidy = {
            "data": cell.data,
            "model": cell.model,
            "kind": cell.kind,
            "perturbation": cell.perturbation,
            "norm": cell.norm,
            **_budget(cell.eps),
            "severity": cell.severity,
            "group": cell.group,
            "complete": cell.complete,
            "key": cell.key,
        }
        for found in _cell(cell):
            yield {"n": cell.numbers.n, **where, **found}


def _budget(eps: str | None) -> Tidy:
    return {} if eps is None else {"budget": eps, "eps": float(Budget(eps))}


def _cell(cell: CellNumbers) -> Iterator[Tidy]:
    yield from _numbers(cell.numbers)
    for published in cell.published:
        yield _row("published_accuracy", published.value, part=published.source or None, n=None)
    yield _row("target_reached", cell.success)
    yield _row("accuracy_8bit", cell.accuracy_8bit)
    if cell.passes is not None:
        yield _row("forwards", cell.passes.forwards)
        yield _row("gradients", cell.passes.gradients)
    if cell.fit_passes is not None:
        yield _row("fit_forwards", cell.fit_passes.forwards)
        yield _row("fit_gradients", cell.fit_passes.gradients)
    if (transfer := cell.transfer) is not None:
        where: Tidy = {"n": transfer.n, "reference": transfer.source}
        yield _row("transfer_rate", transfer.rate, transfer.interval, **where)
        yield _row("transfer_asymmetry", transfer.asymmetry, transfer.asymmetry_interval, **where)
    if cell.numbers.n:
        yield _row("unreadable", cell.unreadable)
        yield _row("not_finite", cell.not_numbers)
    for name, total in cell.notes.items():
        yield _row("note_total", total, part=name)
    for name, count in cell.components.items():
        yield _row("made_wrong", count, part=name)
    if cell.distances is not None:
        yield from _distances(cell.distances)
    if cell.optimality is not None:
        yield from _optimality(cell.optimality)
    if cell.calibration is not None:
        found = cell.calibration
        yield _row("ece", found.ece, n=found.n)
        yield _row("confidence", found.confidence, n=found.n)
        yield _row("confidence_when_wrong", found.confidence_when_wrong, n=found.n)
        for each in found.bins:
            part = f"({each.low:.4f}, {each.high:.4f}]"
            yield _row("bin_confidence", each.confidence, n=each.n, part=part)
            yield _row("bin_accuracy", each.accuracy, each.interval, n=each.n, part=part)
    if cell.classes is not None:
        yield _row("worst_class_accuracy", cell.classes.worst, cell.classes.worst_interval)
        for one in cell.classes.lowest:
            yield _row("class_accuracy", one.accuracy, one.interval, n=one.n, part=str(one.label))


def _numbers(numbers: Numbers) -> Iterator[Tidy]:
    for name in ("accuracy", "robust_accuracy", "relative_drop"):
        interval = getattr(numbers, "interval" if name == "accuracy" else f"{name.removesuffix('_accuracy')}_interval")
        yield _row(name, getattr(numbers, name), interval)


def _distances(found: Distances) -> Iterator[Tidy]:
    yield _row("median_distance", found.median, found.interval)
    for name, quartile in zip(("first_quartile_distance", "third_quartile_distance"), found.quartiles, strict=True):
        yield _row(name, quartile)
    yield _row("distances_found", found.found)
    yield _row("area", found.area, eps=found.area_until)
    for eps, accuracy in dict(found.curve).items():
        yield _row("curve_accuracy", accuracy, eps=eps)


def _optimality(found: Optimality) -> Iterator[Tidy]:
    yield _row("local_optimality", found.value, found.interval, n=found.n)
    yield _row("passes", found.passes, part="counted" if found.is_recorded else "declared", n=found.n)


def _optimalities(report: Report) -> Iterator[Tidy]:
    """Yield the optimality of attacks over all models, and the best distances of each model."""
    for each in report.optimalities:
        whole = each.models == each.asked and each.n == report.n
        where: Tidy = {"kind": "optimality", "perturbation": each.perturbation, "norm": each.norm, "complete": whole}
        yield _row("global_optimality", each.value, each.interval, n=each.n, **where)
        yield _row("passes", each.passes, n=each.n, **where)
    for best in report.best_distances:
        where = {"model": best.model, "kind": "optimality", "perturbation": f"best of {best.attacks} attacks",
                 "norm": best.norm, "n": best.n, "complete": best.n == report.n}  # fmt: skip
        yield _row("area", best.area, eps=best.until, **where)
        yield _row("distances_found", best.found, **where)
        for eps, accuracy in dict(best.curve).items():
            yield _row("curve_accuracy", accuracy, eps=eps, **where)


def _worst_cases(report: Report) -> Iterator[Tidy]:
    for case in report.worst_cases:
        where: Tidy = {
            "model": case.model,
            "kind": "worst case",
            "perturbation": case.name,
            "norm": case.norm,
            **_budget(case.eps),
            "n": case.numbers.n,
            "complete": case.attacks == case.asked and case.numbers.n == report.n,
        }
        for found in _numbers(case.numbers):
            yield {**where, **found}


def _differences(report: Report) -> Iterator[Tidy]:
    """Yield the differences from the reference, of accuracies and of relative drops."""
    places: dict[str, Tidy] = {
        cell.perturbation: {"norm": cell.norm, **_budget(cell.eps), "severity": cell.severity, "group": cell.group}
        for cell in report.cells
    }
    for case in report.worst_cases:
        places[case.name] = {"norm": case.norm, **_budget(case.eps)}
    for each in report.differences:
        where: Tidy = {"model": each.model, "reference": each.reference, "kind": "difference", "n": each.n,
                       "perturbation": each.perturbation, "complete": each.n == report.n,
                       **places[each.perturbation]}  # fmt: skip
        if each.runs is not None:
            where["part"] = "means of {} and {} runs".format(*each.runs)
        yield _row("accuracy_difference", each.difference, each.interval, **where)
        yield _row("accuracy_difference_deviation", each.deviation, **where)
        yield _row("relative_drop_difference", each.drop_difference, each.drop_interval, **where)
        yield _row("relative_drop_difference_deviation", each.drop_deviation, **where)
        yield _row("lost", each.lost, **where)
        yield _row("gained", each.gained, **where)
        yield _row("mcnemar_p", each.p, **where)
        yield _row("mcnemar_p_holm", each.p_holm, **where)


def _corruptions(report: Report) -> Iterator[Tidy]:
    for mean in report.corruption_means:
        where: Tidy = {"model": mean.model, "kind": "corruption mean", "group": mean.group, "severity": mean.severity}
        whole = mean.corruptions == mean.asked and mean.n == report.n
        yield _row("accuracy", mean.accuracy, mean.interval, n=mean.n, complete=whole, **where)
    for slope in report.slopes:
        whole = slope.corruptions == slope.asked and slope.n == report.n
        where = {"model": slope.model, "kind": "slope", "group": slope.group, "severity": slope.severity, "n": slope.n,
                 "reference": slope.reference, "complete": whole}  # fmt: skip
        yield _row("slope", slope.slope, slope.interval, **where)
        yield _row("slope_over_corruptions", slope.slope, slope.corruption_interval, **where)
        for name, value in slope.without.items():
            yield _row("slope_without", value, part=name, **where)
    for errors in report.corruption_errors:
        where = {"model": errors.model, "kind": "corruption error", "perturbation": errors.corruptions, "n": errors.n,
                 "reference": errors.baseline, "complete": errors.n == report.n}  # fmt: skip
        yield _row(errors.name, errors.error, errors.interval, **where)
        yield _row(f"relative {errors.name}", errors.relative, errors.relative_interval, **where)
        for name, error in errors.by_corruption.items():
            yield _row("corruption_error", error, part=name, **where)


def _over_runs(report: Report) -> Iterator[Tidy]:
    for runs in report.runs:
        where: Tidy = {"model": runs.model, "kind": "runs", "perturbation": runs.perturbation, "n": runs.runs,
                 "complete": runs.runs == runs.asked}  # fmt: skip
        for name in ("accuracy", "robust_accuracy", "relative_drop"):
            yield _row(f"{name}_mean", getattr(runs, name), **where)
            yield _row(f"{name}_deviation", getattr(runs, f"{name}_deviation"), **where)
    for gap in report.gaps_closed:
        where = {"model": gap.model, "kind": "gap", "perturbation": gap.perturbation, "n": gap.runs,
                 "reference": None if report.gap is None else " to ".join(report.gap),
                 "complete": gap.runs == gap.asked}  # fmt: skip
        yield _row("gap_closed", gap.closed, gap.interval, **where)
        yield _row("gap_closed_printed", gap.printed, **where)
    for gain in report.gains:
        yield _row("gain", gain.gain, gain.interval, model=gain.model, kind="gain", perturbation=gain.perturbation,
                   reference=gain.base, n=gain.runs, complete=gain.runs == gain.asked)  # fmt: skip
    for summary in report.gain_summaries:
        base = next((gain.base for gain in report.gains if gain.model == summary.model), None)
        yield _row(f"{summary.statistic}_gain", summary.value, model=summary.model, kind="gain", reference=base,
                   n=summary.gains, complete=summary.gains == summary.asked)  # fmt: skip


def _metrics(report: Report) -> Iterator[Tidy]:
    for name, results in report.metrics.items():
        for label, result in results.items():
            yield _row(name, result.value, model=label, kind="metric", complete=report.complete)
    for name, by_model in report.published_metrics.items():
        for label, found in by_model.items():
            for each in found:
                yield _row(name, each.value, model=label, kind="published metric", part=each.source or None)


def _audits(report: Report) -> Iterator[Tidy]:
    """Yield the verdict of each check, 1 if it passed and 0 if it failed, and the figures behind it.

    A check that was not measured has no row.
    """
    for audit in report.audits:
        for check in audit.checks:
            numbers = dict(check.numbers)
            where: Tidy = {"n": int(numbers.pop("n", audit.n)), "model": audit.model, "kind": "audit"}
            where |= {"part": check.code, "complete": report.complete}
            if check.verdict != "not measured":
                yield _row("audit_passed", float(check.verdict == "passed"), **where)
            for name, value in numbers.items():
                yield _row(f"audit_{name}", value, **where)
