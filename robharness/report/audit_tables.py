"""An audit as a table of verdicts, all models side by side, and as lines with the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator

from robharness.audit.records import CHECKS
from robharness.report.records import Report
from robharness.report.values import Row, Table, Value

FEW_EXAMPLES = 100
"""Number of examples below which the caption warns: seven of 100 must have a defect before a check fails."""
CAPTION = "a check fails by an exact test or a bound"


def audit_table(report: Report) -> Table | None:
    """Return the table of verdicts, a row per check; None without an audit."""
    if not report.audits:
        return None
    header = ("Check", *(each.model for each in report.audits))
    rows = tuple(
        Row(title, tuple(Value(words=each[code].verdict) for each in report.audits))
        for code, (title, _) in CHECKS.items()
    )
    few = "; few examples refute little" if report.n < FEW_EXAMPLES else ""
    return Table("Audit", header, rows, f"{CAPTION}; n = {report.n}{few}")


def audit_lines(report: Report) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a heading and a line per check for each model: verdict, claim, figures and what to do."""
    for each in report.audits:
        lines = (
            f"{check.verdict}: {check.title}: {'; '.join(filter(None, (check.figures, check.advice)))}"
            for check in each.checks
        )
        yield f"Audit of {each.model}", tuple(lines)
