"""The numbers of a verdict in words, for test reports and annotations, which have no tables."""

from __future__ import annotations

import math

from robharness.comparison.records import BenchmarkCheck, CellCheck, CheckReport
from robharness.findings import Finding
from robharness.report.renderers.formatting import format_number, format_value
from robharness.report.values import Value
from robharness.statistics import Interval
from robharness.text import printable


def facts_of(check: CellCheck | BenchmarkCheck) -> list[tuple[str, str]]:
    """Return what is known of a cell or a benchmark: names of numbers, and the numbers as text; no reason.

    Accuracies are in percent, differences in points, with 95 % intervals.
    """
    return _of_benchmark(check) if isinstance(check, BenchmarkCheck) else _of_cell(check)


def _of_cell(check: CellCheck) -> list[tuple[str, str]]:
    found = check.difference
    if found is None:
        return []
    facts = [("n", str(found.n))]
    if found.before is not None and found.after is not None and found.difference is not None:
        change = Value(
            number=found.difference, kind="points", digits=2, interval=found.interval, interval_digits=2
        )  # fmt: skip
        facts += [
            ("before", f"{format_number(found.before, 'percentage', 2)} %"),
            ("after", f"{format_number(found.after, 'percentage', 2)} %"),
            ("difference", f"{_with_interval(change)} points"),
            ("lost", str(found.lost)),
            ("gained", str(found.gained)),
            ("discordance", f"{format_number(found.discordance or 0, 'percentage', 2)} %"),
        ]
    if found.p_fall is not None:
        facts.append(("p", format_number(found.p_fall, "p", 0)))
    if check.p_holm is not None:
        facts.append(("p (Holm)", format_number(check.p_holm, "p", 0)))
    if check.smallest_fall is not None:
        facts.append(("smallest fall", fall_text(check.smallest_fall)))
    return facts


def fall_text(fall: float) -> str:
    """Return the smallest fall that a check finds, a fraction, as text: in points, or "none" if it is infinite."""
    return f"{format_number(fall, 'percentage', 2)} points" if math.isfinite(fall) else "none"


def _of_benchmark(check: BenchmarkCheck) -> list[tuple[str, str]]:
    sides = (("before", check.before, check.spread_before), ("after", check.after, check.spread_after))
    return [(name, _ratio(ratio, spread)) for name, ratio, spread in sides if ratio is not None]


def _ratio(ratio: float, spread: Interval | None) -> str:
    return f"{ratio:.3f}" if spread is None else f"{ratio:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def _with_interval(value: Value) -> str:
    text, lines = format_value(value)
    return " ".join([text, *lines])


def facts_of_check(report: CheckReport) -> list[tuple[str, str]]:
    """Return what holds for all cells of a check: names, and texts."""
    return [
        ("suite", printable(report.suite)),
        ("baseline", printable(report.baseline)),
        ("n", str(report.n)),
        ("n of the baseline", str(report.n_baseline)),
        ("tolerance", f"{format_number(report.tolerance, 'percentage', 2)} points"),
        ("alpha", f"{report.alpha:g}"),
    ]


def sentence_of(check: CellCheck | BenchmarkCheck) -> str:
    """Return the verdict and its reason as one sentence."""
    return ": ".join(filter(None, [check.verdict, check.reason]))


def errors_beside_cells(report: CheckReport) -> list[Finding]:
    """Return the findings that are errors, without those on failed cells, whose verdicts say it already."""
    is_told = bool(report.of("failed"))
    return [
        found
        for found in report.findings
        if found.severity == "error" and not (is_told and found.code == "cell-failed")
    ]
