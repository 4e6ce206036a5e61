"""Checks of results against a baseline, and updates of the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from robharness.comparison.baseline import BaselineUpdate, write_baseline
from robharness.comparison.ratios import Ratio
from robharness.findings import Finding
from robharness.gate.baselines import CheckBaseline
from robharness.gate.ratios import TOLERANCE, check_ratios
from robharness.gate.records import CheckReport
from robharness.gate.verdicts import check
from robharness.report.findings import cell_findings, provenance_findings, training_findings
from robharness.store.results import Results
from robharness.text import counted


def check_results(
    results: Results,
    baseline: CheckBaseline,
    *,
    update: bool = False,
    findings: Sequence[Finding] = (),
    benchmarks: Mapping[str, Ratio] | None = None,
    benchmark_tolerance: float = TOLERANCE,
) -> CheckReport:
    """Compare results with a baseline, and write it anew if that is asked for.

    results: of the suite, with its plan.
    update: whether the baseline is written; it is not if cells are incomplete, or if the results are invalid.
    findings: of the run.
    benchmarks: ratios of benchmarks by their names, compared with those of the baseline; None if there are none.
    benchmark_tolerance: see `check_ratios`.
    """
    suite = results.plan.suite
    before, after, pairs = baseline.sides(results)
    report = check(
        before,
        after,
        pairs=pairs,
        tolerance=suite.check.tolerance / 100,
        alpha=suite.check.alpha,
        title=suite.title or suite.name,
        findings=list(dict.fromkeys([*findings, *_findings(results)])),
        accept=baseline.update,
    )
    report = replace(report, settings=suite.settings)
    if benchmarks is not None:
        report = replace(report, benchmarks=check_ratios(before.benchmarks or {}, benchmarks, benchmark_tolerance))
    reason = _why_not_written(results, report)
    if reason:
        report = replace(report, accept="")
    if not update or baseline.path is None:
        return report
    if reason:
        return replace(report, update=BaselineUpdate(path=str(baseline.path), refused=reason))
    after = replace(after, benchmarks=benchmarks)
    written = write_baseline(baseline.path, after, title=suite.title, update=baseline.update)
    return replace(report, update=written)


def _findings(results: Results) -> Iterator[Finding]:
    """Yield what a reader of verdicts must know of the results; the plan's advice on the suite is not of that kind."""
    yield from (found for found in results.outline.run.findings if found.severity == "error")
    yield from results.findings
    yield from training_findings(results)
    yield from cell_findings(results)
    yield from provenance_findings(results)


def _why_not_written(results: Results, report: CheckReport) -> str:
    """Return why results cannot be a baseline; empty if they can."""
    incomplete = sum(not each.is_complete for each in results.every) + len(results.outline.pending_cells)
    if incomplete:
        return f"{counted(incomplete, 'cell is', 'cells are')} incomplete"
    error = next((each for each in report.findings if each.severity == "error"), None)
    return "" if error is None else str(error)
