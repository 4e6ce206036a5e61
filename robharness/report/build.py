"""From results to the numbers of a report, each with its n and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robharness import statistics
from robharness.findings import Finding
from robharness.report.corruptions import Corruptions
from robharness.report.findings import (
    attack_findings,
    cell_findings,
    metric_findings,
    number_findings,
    provenance_findings,
    training_findings,
)
from robharness.report.gaps import gaps_closed
from robharness.report.plugin_metrics import compute_metrics
from robharness.report.records import CellNumbers, Distances, Numbers, Report, RunNumbers, WorstCase
from robharness.report.runs import over_runs
from robharness.statistics.intervals import Interval
from robharness.store.results import CellResult, Results


def build(results: Results, findings: Sequence[Finding] = ()) -> Report:
    """Build the report of these results.

    findings: of the run itself and of plugins, beside those that the stored outcomes show.
    """
    outline = results.outline
    suite = outline.suite
    cells = tuple(cell_numbers(results, result) for result in results.cells)
    corruptions = Corruptions(results)
    slopes, errors = tuple(corruptions.slopes()), tuple(corruptions.errors())
    values, failed = compute_metrics(results)
    run_of = {model.label: model.run_of for model in suite.models if model.run_of is not None}
    return Report(
        suite=suite.name,
        title=suite.title or suite.name,
        data=suite.data.name,
        n=outline.n,
        compat=suite.compat,
        pixels=dict(outline.pixels.paths),
        reference=suite.reference,
        count=suite.count,
        complete=results.is_complete and not results.invalid,
        models=tuple(results.labels),
        cells=cells,
        worst_cases=tuple(_worst_cases(results)),
        corruption_means=tuple(corruptions.means()),
        slopes=slopes,
        corruption_errors=errors,
        gap=suite.gap,
        gaps_closed=tuple(gaps_closed(results)),
        metrics=values,
        expected_metrics={
            metric.name: {
                model.label: published
                for model in suite.models
                if (published := suite.published(model, metric.name)) is not None
            }
            for metric in suite.metrics
        },
        expected_source=suite.expected_source,
        findings=tuple(
            dict.fromkeys(
                [
                    *outline.run.findings,
                    *findings,
                    *results.findings,
                    *training_findings(results),
                    *cell_findings(results),
                    *failed,
                    *provenance_findings(results),
                    *metric_findings(values),
                    *number_findings(cells, slopes, errors),
                    *attack_findings(results),
                ]
            )
        ),
        run_of=run_of,
        runs=tuple(_runs(cells, run_of)),
    )


def _runs(cells: Sequence[CellNumbers], run_of: dict[str, str]) -> list[RunNumbers]:
    """Return the numbers over runs, for every label that runs share and every perturbation."""
    found: dict[tuple[str, str], list[Numbers]] = {}
    for cell in cells:
        if cell.model in run_of:
            complete = found.setdefault((run_of[cell.model], cell.perturbation), [])
            complete += [cell.numbers] if cell.complete else []
    shared = list(run_of.values())
    return [over_runs(*key, shared.count(key[0]), numbers) for key, numbers in found.items()]


def cell_numbers(results: Results, result: CellResult) -> CellNumbers:
    """Return the numbers of one cell. `results` has the clean cell of its model as well."""
    cell, perturbation = result.cell, result.cell.perturbation
    published = results.outline.suite.published(cell.model, cell.short_name)
    return CellNumbers(
        model=cell.model.label,
        data=cell.data.name,
        kind=cell.kind,
        perturbation=cell.short_name,
        norm=perturbation.norm if perturbation else None,
        eps=str(perturbation.eps) if perturbation and perturbation.eps is not None else None,
        severity=perturbation.severity if perturbation else None,
        group=perturbation.group if perturbation else None,
        numbers=_numbers(results, result),
        complete=result.is_complete,
        key=cell.key,
        not_numbers=result.not_numbers,
        unreadable=len(result.unreadable),
        notes=_note_totals(result),
        alarms=perturbation.alarms if perturbation else (),
        expected=None if published is None else published / 100,
        components=_components(result),
        success=_success(result),
        accuracy_8bit=_accuracy_8bit(result),
        distances=_distances(result) if perturbation and perturbation.is_unbounded and result.n else None,
        title=perturbation.title if perturbation else "clean",
    )


def _numbers(results: Results, result: CellResult) -> Numbers:
    clean = results.clean(result.cell.model.label)
    if result.n == 0:
        return Numbers(n=0)
    if result.cell.kind == "clean":
        right = int(result.correct.sum())
        return Numbers(n=result.n, accuracy=result.accuracy, interval=statistics.accuracy_interval(right, result.n))
    before, after = results.paired([clean, result])
    return _perturbed_numbers(before, after, result.correct, result.cell.count)


def _perturbed_numbers(clean: np.ndarray, perturbed: np.ndarray, alone: np.ndarray, count: str) -> Numbers:
    """Return accuracies and drops of a perturbed cell.

    clean, perturbed: whether predictions are right, on the examples that both cells have, (n,) bool.
    alone: the same on all examples of the perturbed cell.
    """
    robust = clean & perturbed
    numbers: dict[str, Any] = {"n": len(alone)}
    if count == "all":
        numbers["accuracy"] = statistics.accuracy(alone)
        numbers["interval"] = statistics.accuracy_interval(int(alone.sum()), len(alone))
    if len(clean):
        numbers["robust_accuracy"] = statistics.accuracy(robust)
        numbers["robust_interval"] = statistics.accuracy_interval(int(robust.sum()), len(robust))
        after = perturbed if count == "all" else robust
        try:
            numbers["relative_drop"] = statistics.relative_drop(statistics.accuracy(clean), statistics.accuracy(after))
            numbers["relative_drop_interval"] = statistics.relative_drop_interval(clean, after)
        except statistics.ZeroClean:
            pass  # a model that is never right has nothing to lose: the drop stays None
    return Numbers(**numbers)


def _worst_cases(results: Results) -> list[WorstCase]:
    found = []
    for label in results.labels:
        attacks = results.of(label, "attack")
        budgets = {(p.norm, p.eps): str(p.eps)
                   for p in (r.cell.perturbation for r in attacks) if p and p.eps is not None}  # fmt: skip
        for (norm, eps), text in sorted(budgets.items(), key=lambda item: (_ORDER.index(item[0][0]), item[0][1])):
            expected = [result for result in attacks if _is_within(result, norm, eps)]
            within = [result for result in expected if result.n]
            clean, *right = results.paired([results.clean(label), *within])
            numbers = Numbers(n=0)
            if len(clean) and right:
                worst = statistics.worst_case(np.stack(right))
                numbers = _perturbed_numbers(clean, worst, worst, results.outline.suite.count)
            counts = {"attacks": len(within), "asked": len(expected)}
            found.append(WorstCase(model=label, norm=str(norm), eps=text, numbers=numbers, **counts))
    return found


_ORDER = ["linf", "l2", "l1", None]


def _is_within(result: CellResult, norm: Any, eps: Any) -> bool:
    perturbation = result.cell.perturbation
    if perturbation is None or perturbation.eps is None:
        return False
    return bool(perturbation.norm == norm and perturbation.eps <= eps)


def _note_totals(result: CellResult) -> dict[str, float]:
    perturbation = result.cell.perturbation
    available = [name for name in (perturbation.totals if perturbation else ()) if name in result.columns]
    return {name: float(np.nansum(np.asarray(result.columns[name], float))) for name in available}


def _components(result: CellResult) -> dict[str, int]:
    if result.cell.perturbation is None or not result.cell.perturbation.is_ensemble or not result.n:
        return {}
    names = [name for name in result.columns["component"] if name is not None]
    return {str(name): names.count(name) for name in dict.fromkeys(names)}


def _success(result: CellResult) -> float | None:
    if result.cell.perturbation is None or not result.cell.perturbation.is_targeted or not result.n:
        return None
    reached, wanted = result.columns["success"], np.asarray(result.columns["target"], float)
    return statistics.accuracy(np.array(reached == True)[wanted >= 0]) if (wanted >= 0).any() else None  # noqa: E712


def _accuracy_8bit(result: CellResult) -> float | None:
    """Return the accuracy on inputs rounded to 8 bits. Examples that were not attacked have 8 bits already."""
    if result.cell.perturbation is None or not result.cell.perturbation.eight_bit or not result.n:
        return None
    rounded = result.columns["correct_8bit"]
    is_known = np.array([value is not None and value == value for value in rounded])
    return statistics.accuracy(np.where(is_known, rounded == True, result.correct))  # noqa: E712


def _distances(result: CellResult) -> Distances:
    distances = result.distances
    quartiles = [statistics.quantile(distances, share) for share in (0.25, 0.5, 0.75)]
    first, median, third = [value if np.isfinite(value) else None for value in quartiles]
    interval = statistics.median_interval(distances)
    steps = np.linspace(0, 1, 101)
    curve = [(statistics.quantile(distances, float(share)), share) for share in steps]
    return Distances(
        n=len(distances),
        found=int(np.isfinite(distances).sum()),
        median=median,
        interval=Interval(max(0.0, interval.low), interval.high),
        quartiles=(first, third),
        curve=tuple((eps, statistics.accuracy(distances > eps)) for eps, _ in curve if np.isfinite(eps)),
    )
