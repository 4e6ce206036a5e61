"""The numbers of a verdict in words, for test reports and annotations, which have no tables."""

from __future__ import annotations

from robharness.comparison.check_tables import HEADER, values_of
from robharness.comparison.records import NO_PASS, BenchmarkCheck, CellCheck, CheckReport
from robharness.report.renderers.formatting import format_value
from robharness.report.values import Value
from robharness.statistics import Interval
from robharness.text import printable

UNITS = {"before": "%", "after": "%", "difference": "points", "smallest fall": "points"}
"""Column of the table of cells -> the unit of its numbers."""


def facts_of(check: CellCheck | BenchmarkCheck) -> list[tuple[str, str]]:
    """Return what is known of a cell or a benchmark: names of numbers, and the numbers as text with their intervals."""
    if isinstance(check, BenchmarkCheck):
        return _of_benchmark(check)
    if check.difference is None:
        return []
    columns = zip(HEADER[2:], values_of(check)[1:], strict=True)
    numbers = [
        (name, _text(value, UNITS.get(name, ""))) for name, value in columns if value.words or value.number is not None
    ]
    n, units = check.difference.n, check.difference.units
    return [("n", str(n)), *([("clusters", str(units))] if units < n else []), *numbers]


def _text(value: Value, unit: str) -> str:
    """Return a number with its interval and its unit, such as "-1.20 [-2.10, -0.30] points"."""
    text, lines = format_value(value)
    return " ".join(filter(None, [text, *lines, unit if value.number is not None else ""]))


def _of_benchmark(check: BenchmarkCheck) -> list[tuple[str, str]]:
    sides = (("before", check.before, check.spread_before), ("after", check.after, check.spread_after))
    return [(name, _ratio(ratio, spread)) for name, ratio, spread in sides if ratio is not None]


def _ratio(ratio: float, spread: Interval | None) -> str:
    return f"{ratio:.3f}" if spread is None else f"{ratio:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def facts_of_check(report: CheckReport) -> list[tuple[str, str]]:
    """Return what holds for all cells of a check: names, and texts."""
    return [
        ("suite", printable(report.suite)),
        ("baseline", printable(report.baseline)),
        ("n", str(report.n)),
        ("n of the baseline", str(report.n_baseline)),
        ("tolerance", f"{100 * report.tolerance:g} points"),
        ("alpha", f"{report.alpha:g}"),
    ]


def sentence_of(check: CellCheck | BenchmarkCheck) -> str:
    """Return the verdict, its reason and the numbers that the reason leaves out as one sentence."""
    told = () if isinstance(check, BenchmarkCheck) else ("before", "after", "difference")
    numbers = ", ".join(f"{name} {text}" for name, text in facts_of(check) if name not in told)
    text = ": ".join(filter(None, [check.verdict, check.reason]))
    return f"{text} ({numbers})" if numbers else text


def failed_of(report: CheckReport) -> tuple[CellCheck | BenchmarkCheck, ...]:
    """Return the cells and benchmarks that do not pass, regressed ones first; none if a new baseline accepts them."""
    accepts = report.update is not None and not report.update.refused
    return () if accepts else tuple(sorted(report.of(*NO_PASS), key=lambda check: NO_PASS.index(check.verdict)))


def errors_of(report: CheckReport) -> list[tuple[str, str]]:
    """Return what else makes the exit code one of failure: subjects and sentences.

    These are the errors of the report, and the reason why a baseline was not written.
    """
    errors = [(": ".join(filter(None, [each.code, each.subject])), str(each)) for each in report.errors]
    if report.update is None:
        return errors
    refused = report.update.refused
    return [("baseline", f"{report.update.path} was not written: {refused}"), *errors] if refused else []
