"""From results to the numbers of a report, each with its n and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robharness import statistics
from robharness.audit.build import audit_findings, audits, iterated_findings
from robharness.findings import Finding, finding
from robharness.planning.outline import ModelOutline, SuiteOutline
from robharness.report.answer import answer
from robharness.report.calibration import calibration, confidence_findings
from robharness.report.classes import PerClass
from robharness.report.corruptions import Corruptions
from robharness.report.details import Published
from robharness.report.differences import differences
from robharness.report.distances import distances
from robharness.report.environments import environments
from robharness.report.findings import (
    cell_findings,
    metric_findings,
    number_findings,
    provenance_findings,
    training_findings,
)
from robharness.report.movements import movement
from robharness.report.optimality import optimalities
from robharness.report.plugin_metrics import compute_metrics
from robharness.report.records import CellNumbers, Numbers, Report, RunNumbers, WorstCase
from robharness.report.relative_models import gain_summaries, gains, gaps_closed
from robharness.report.runs import over_runs
from robharness.report.transfers import Transfers
from robharness.report.worst_cases import worst_outcomes
from robharness.store.passes import Passes
from robharness.store.results import CellResult, Results

MANY_OUTCOMES = 10_000_000
"""The number of outcomes from which on a report leaves out details unless they are asked for."""


def build(results: Results, findings: Sequence[Finding] = (), *, details: bool | None = None) -> Report:
    """Build the report of these results.

    findings: of the run itself and of plugins, beside those that the stored outcomes show.
    details: whether calibration and accuracy per class are computed, about 1 ms per 50,000 outcomes after reading them.
        By default they are, up to `MANY_OUTCOMES` outcomes.
    """
    outline = results.outline
    suite = outline.suite
    outcomes = sum(result.n for result in results.cells)
    with_details = outcomes <= MANY_OUTCOMES if details is None else details
    found, optimality, per_class = distances(results), optimalities(results), PerClass()
    transfers = Transfers(results)
    cells = tuple(
        replace(
            cell_numbers(results, result),
            distances=found.get(result.cell.key),
            optimality=optimality.local.get(result.cell.key),
            movement=movement(result),
            transfer=transfers.of(result),
            calibration=calibration(result) if with_details and not suite.retrieval else None,
            classes=per_class.numbers(result) if with_details and not suite.retrieval else None,
        )
        for result in results.cells
    )
    corruptions = Corruptions(results)
    slopes, errors = tuple(corruptions.slopes()), tuple(corruptions.errors())
    values, failed = compute_metrics(results)
    found_gains = tuple(gains(results))
    audited = audits(results)
    run_of = {model.label: model.run_of for model in suite.models if model.run_of is not None}
    report = Report(
        suite=suite.name,
        title=suite.title or suite.name,
        data=suite.data.name,
        n=outline.n,
        compat=suite.compat,
        pixels=dict(outline.pixels.paths),
        protocols=dict(outline.run.protocols),
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
        gain=None if suite.gain is None else dict(suite.gain),
        gains=found_gains,
        gain_summaries=tuple(gain_summaries(results, found_gains)),
        metrics=values,
        published_metrics={
            metric.name: {
                model.label: published for model in suite.models if (published := _published(suite, model, metric.name))
            }
            for metric in suite.metrics
        },
        published_sources=tuple(each.source for each in suite.expected),
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
                    *iterated_findings(results),
                    *audit_findings(audited),
                    *([] if suite.retrieval else confidence_findings(results, with_details)),
                    *([] if with_details else [_details_left_out(results, outcomes)]),
                ]
            )
        ),
        run_of=run_of,
        runs=tuple(_runs(cells, run_of)),
        optimalities=optimality.over_models,
        best_distances=optimality.best,
        differences=differences(results, cells),
        command=outline.command("run"),
        settings=outline.run.settings,
        environments=environments(results),
        identities={result.cell.key: dict(result.cell.identity) for result in results.every},
        retrieval=suite.retrieval,
        audits=audited,
    )
    return replace(report, answer=answer(results, report))


def _details_left_out(results: Results, outcomes: int) -> Finding:
    return finding(
        "details-left-out",
        f"calibration and accuracy per class are not computed here, since there are {outcomes:,} outcomes",
        hint=f"to compute them: {results.outline.command('report', '-o', 'report.html')}",
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
    return CellNumbers(
        model=cell.model.label,
        data=cell.data.name,
        kind=cell.kind,
        perturbation=cell.short_name,
        norm=perturbation.norm if perturbation else None,
        unit=perturbation.unit if perturbation else "",
        eps=str(perturbation.eps) if perturbation and perturbation.eps is not None else None,
        severity=perturbation.severity if perturbation else None,
        group=perturbation.group if perturbation else None,
        numbers=_numbers(results, result),
        complete=result.is_complete,
        key=cell.key,
        not_numbers=result.not_numbers,
        unreadable=result.n_unreadable,
        notes=dict(result.totals),
        alarms=perturbation.alarms if perturbation else (),
        published=_published(results.outline.suite, cell.model, cell.short_name, 100),
        components=_components(result),
        success=_success(result),
        accuracy_8bit=_accuracy_8bit(result),
        passes=result.passes,
        cost=_cost(result),
        fit_passes=result.fit_passes,
        title=perturbation.title if perturbation else "clean",
    )


def _published(suite: SuiteOutline, model: ModelOutline, name: str, unit: float = 1) -> tuple[Published, ...]:
    """Return the published numbers of a model's cell or metric.

    unit: what they are divided by, 100 for percentages.
    """
    found = suite.published(model, name)
    return tuple(Published(source=suite.expected[at].source, value=number / unit) for at, number in found)


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


def _worst_cases(results: Results) -> Iterator[WorstCase]:
    """Yield the worst cases of every model, by norm and ascending budget."""
    for label in results.labels:
        clean = results.clean(label)
        for worst in worst_outcomes(results, label):
            numbers = Numbers(n=0)
            if len(worst.positions) and worst.attacks:
                before = clean.correct_at(worst.positions)
                numbers = _perturbed_numbers(before, worst.right, worst.right, results.outline.suite.count)
            yield WorstCase(
                model=label, norm=worst.norm, unit=worst.unit, eps=worst.eps, attacks=worst.attacks, asked=worst.asked,
                numbers=numbers,
            )  # fmt: skip


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


def _cost(result: CellResult) -> Passes | None:
    cost = result.cell.cost
    return Passes(cost.forwards, cost.gradients + cost.shared_gradients) if result.cell.kind == "attack" else None


def _accuracy_8bit(result: CellResult) -> float | None:
    """Return the accuracy on inputs rounded to 8 bits. Examples that were not attacked have 8 bits already."""
    if result.cell.perturbation is None or not result.cell.perturbation.eight_bit or not result.n:
        return None
    rounded = result.columns["correct_8bit"]
    is_known = np.array([value is not None and value == value for value in rounded])
    return statistics.accuracy(np.where(is_known, rounded == True, result.correct))  # noqa: E712
