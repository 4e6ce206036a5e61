"""Tables of the differences from the reference, in the rows of the tables of accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from robharness.report.paired import exact_test
from robharness.report.records import DifferenceNumbers, Report
from robharness.report.rows import NO_VALUE, model_table
from robharness.report.values import Note, Number, Row, Table, Value, accuracy_digits, part_of
from robharness.text import counted, printable


def difference_table(table: Table | None, report: Report, accuracy: str) -> Table | None:
    """Return the differences from the reference in the rows of a table of accuracies; None if there are none.

    accuracy: the name of the accuracy in the table.
    """
    if table is None or not report.differences:
        return None
    reference = report.differences[0].reference
    columns = [label for label in report.columns if label != reference]
    by_row, keys = _by_row(report), {(cell.model, cell.perturbation): cell.key for cell in report.cells}
    rows: list[Row | None] = []
    for row in table.rows:
        if row is None:
            rows += [None] if rows and rows[-1] is not None else []
        elif row.name in by_row:
            values = tuple(_value(by_row[row.name].get(label), report, keys) for label in columns)
            rows.append(Row(row.name, values, row.kind))
    if not rows:
        return None
    rows = rows[:-1] if rows[-1] is None else rows
    shown = [each for row in rows if row is not None for each in by_row[row.name].values()]
    title = f"{table.title}: difference from {reference}"
    return model_table(title, report, rows, "; ".join(_caption(shown, report, accuracy)), _INTERVALS, columns)


_INTERVALS = "in brackets 95 % confidence intervals, each for one difference alone"


def _by_row(report: Report) -> dict[str, dict[str, DifferenceNumbers]]:
    """Return the differences by the name of their row and the label of their column."""
    groups = {cell.perturbation: cell.group for cell in report.cells if cell.kind == "corruption"}
    found: dict[str, dict[str, DifferenceNumbers]] = {}
    for each in report.differences:
        name = each.perturbation
        found.setdefault(f"{name}, {groups[name]}" if name in groups else name, {})[each.model] = each
    return found


def _caption(shown: Sequence[DifferenceNumbers], report: Report, accuracy: str) -> Iterator[str]:
    reference = printable(shown[0].reference)
    yield f"{accuracy} minus that of {reference}, in points"
    if any(each.drop_difference is not None for each in shown):
        yield f"↓ relative drop minus that of {reference}, in points"
    if any(each.runs is None for each in shown):
        units = max((each.units or 0 for each in shown if each.is_clustered), default=0)
        clusters = f" in {counted(units, 'cluster', 'clusters')}" if units else ""
        yield f"paired on the same examples, n = {report.n}{clusters}"
    runs = max((each.runs[1] for each in shown if each.runs is not None), default=1)
    if runs > 1:
        yield f"{reference}: the mean of {runs} runs"
    if any(each.p is not None for each in shown):
        yield f"p: {test_of(report)}"


def test_of(report: Report) -> str:
    """Return the name of the tests of all differences together."""
    tested = [each for each in report.differences if each.p is not None]
    adjusted = f", adjusted by Holm for {len(tested)} cells" if len(tested) > 1 else ""
    return exact_test(any(each.is_clustered for each in tested)) + adjusted


def _value(found: DifferenceNumbers | None, report: Report, keys: Mapping[tuple[str, str], str]) -> Value:
    if found is None:
        return NO_VALUE
    digits = accuracy_digits(found.n)
    drop = None
    if found.drop_difference is not None:
        drop = Value(
            number=found.drop_difference,
            kind="points",
            interval=found.drop_interval,
            deviation=found.drop_deviation,
        )
    notes: tuple[Note, ...] = part_of(found.n, report.n, "examples")
    if found.runs is not None and found.model not in report.models:
        expected = report.expected_runs(found.model)
        runs = "runs" if expected > 1 else "run"
        notes += part_of(found.runs[0], expected, runs) or ((Number(expected), runs),)
    return Value(
        number=found.difference,
        kind="points",
        digits=digits,
        interval=found.interval,
        interval_digits=digits,
        deviation=found.deviation,
        drop=drop,
        p=found.p_holm,
        key=keys.get((found.model, found.perturbation), ""),
        notes=notes,
    )
