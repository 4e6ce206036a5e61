"""Tables of an audit: verdicts of all models side by side, and the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator

from robharness.audit.records import CHECKS
from robharness.report.records import Report
from robharness.report.values import Row, Table, Value


def audit_tables(report: Report) -> Iterator[Table]:
    """Yield the table of verdicts, and a table per model with the figures and with what to do; none without audit."""
    if not report.audits:
        return
    labels = tuple(each.model for each in report.audits)
    rows = tuple(
        Row(title, tuple(Value(words=each[code].verdict) for each in report.audits))
        for code, (title, _) in CHECKS.items()
    )
    caption = f"a check fails by an exact test or a bound, see docs/explanation/audit.md; n = {report.n}"
    yield Table("Audit", ("", *labels), rows, caption)
    for each in report.audits:
        rows = tuple(
            Row(check.title, (Value(words=check.verdict), Value(words=check.figures), Value(words=check.advice)))
            for check in each.checks
        )
        yield Table(f"Audit of {each.model}", ("", "verdict", "figures", "what to do"), rows)
