"""A check as a document: verdicts in words, and a line per cell, regressions first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from robharness.comparison.records import (
    NO_PASS,
    VERDICTS,
    BaselineUpdate,
    BenchmarkCheck,
    CellCheck,
    CheckReport,
    Verdict,
)
from robharness.findings import named_examples
from robharness.report.document import Document
from robharness.report.values import Row, Table, Value
from robharness.statistics import Interval
from robharness.text import counted, printable, sentence

T = TypeVar("T", CellCheck, BenchmarkCheck)
DIGITS = 2
"""The digits of accuracies and differences, in percent and points."""
CELLS = "Cells"
"""The title of the table of cells."""
HEADER = ("cell", "verdict", "before", "after", "difference", "changed", "p", "smallest fall")


def document_of_check(report: CheckReport) -> Document:
    """Return the content of a check as text: the verdicts in words, and a line per cell, regressions first."""
    return Document(
        title=f"{report.title}: check against {report.baseline}",
        answer=tuple(_answer(report)),
        source=_source(report),
        tables=(
            *([_table(report)] if report.cells else []),
            *([_benchmark_table(report.benchmarks)] if report.benchmarks else []),
        ),
        findings=report.findings,
        verdict=_verdict(report),
    )


def _source(report: CheckReport) -> str:
    rule = (
        f"a cell regresses if it falls by more than {100 * report.tolerance:g} points, and significantly (level "
        f"{report.alpha:g} for all cells together)"
    )
    clusters = f" in {counted(report.clusters, 'cluster', 'clusters')}" if report.clusters else ""
    return f"{counted(report.n, 'example', 'examples')}{clusters} per cell are compared; {rule}" if report.n else rule


def _answer(report: CheckReport) -> Iterator[str]:
    for verdict in VERDICTS:
        found = [each for each in report.cells if each.verdict == verdict]
        if found and verdict != "passed":
            yield from _reasons(verdict, found, len(report.cells))
    yield from _benchmark_reasons(report.benchmarks)
    if not report.of("regressed") and any(each.smallest_fall is not None for each in report.cells):
        yield f"Nothing regressed. {_smallest_falls(report.cells, 'clusters' if report.clusters else 'examples')}"
    if report.update is not None and not report.update.refused:
        yield _updated(report, report.update)
    elif report.of("improved") and report.accept and report.update is None:
        yield f"To make the improvement the baseline: {report.accept}"


PHRASES: dict[Verdict, tuple[str, str]] = {
    "regressed": ("regressed", "regressed"),
    "improved": ("improved", "improved"),
    "new": ("is new", "are new"),
    "missing": ("is missing", "are missing"),
    "failed": ("failed", "failed"),
    "incompatible": ("cannot be compared", "cannot be compared"),
}
"""Verdict -> the words on one cell and on several."""


def _reasons(verdict: Verdict, cells: Sequence[CellCheck], total: int) -> Iterator[str]:
    """Yield a sentence per reason; each regression and each improvement has its own."""
    if verdict in ("regressed", "improved"):
        one, several = PHRASES[verdict]
        yield f"{len(cells)} of {counted(total, 'cell', 'cells')} {one if len(cells) == 1 else several}:"
        for cell in cells:
            yield f"  {printable(cell.name)}: {cell.reason}"
        return
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        by_reason.setdefault(cell.reason, []).append(cell.name)
    for reason, names in by_reason.items():
        one, several = PHRASES[verdict]
        yield f"{counted(len(names), f'cell {one}', f'cells {several}')} ({reason}): {named_examples(names)}"


def _benchmark_reasons(benchmarks: Sequence[BenchmarkCheck]) -> Iterator[str]:
    """Yield a line for each ratio that did not pass, and for each that improved."""
    total = counted(len(benchmarks), "ratio of benchmarks", "ratios of benchmarks")
    groups: tuple[tuple[str, tuple[Verdict, ...]], ...] = (("did not pass", NO_PASS), ("improved", ("improved",)))
    for words, verdicts in groups:
        found = [each for each in benchmarks if each.verdict in verdicts]
        if found:
            yield f"{len(found)} of {total} {words}:"
        for each in _by_verdict(found):
            yield f"  {printable(each.name)} {PHRASES[each.verdict][0]}: {each.reason}"


def _smallest_falls(cells: Sequence[CellCheck], units: str) -> str:
    """Return the falls that this check would have found, as a sentence.

    units: the word for what is independent.
    """
    falls = [cell.smallest_fall for cell in cells if cell.smallest_fall is not None]
    count, finite_falls = counted(len(falls), "cell", "cells"), [fall for fall in falls if math.isfinite(fall)]
    if not finite_falls:
        return f"So few {units} cannot show a fall, whatever its size, in {count} at this level."
    low, high = (f"{100 * fall:.{DIGITS}f}" for fall in (min(finite_falls), max(finite_falls)))
    size = f"{low} points" if low == high else f"{low} to {high} points, depending on the cell"
    some = "" if len(finite_falls) == len(falls) else f"; {len(falls) - len(finite_falls)} of them show none"
    return f"The smallest fall that is found with a probability of 90 % is {size} ({count}{some})."


def _updated(report: CheckReport, update: BaselineUpdate) -> str:
    path = printable(update.path)
    if not update.is_written:
        return f"{path} has these results already, and is unchanged."
    counts = [
        counted(len(names), f"cell {word}", f"cells {word}")
        for word, names in (("added", update.added), ("removed", update.removed), ("changed", update.changed))
        if names
    ]
    if update.benchmarks:
        counts.append(counted(len(update.benchmarks), "ratio of benchmarks changed", "ratios of benchmarks changed"))
    accepted = [each.name for each in report.of("regressed")]
    regressions = (
        f" It accepts {counted(len(accepted), 'regression', 'regressions')}: {named_examples(accepted)}."
        if accepted
        else ""
    )
    fewer = (
        f" Its cells have {report.n:,} examples in place of {report.n_baseline:,}, and smaller falls are not found."
        if 0 < report.n < report.n_baseline
        else ""
    )
    return f"Wrote {path}: {', '.join(counts) or 'no cell changed'}.{fewer}{regressions}"


def _verdict(report: CheckReport) -> str:
    """Return the last sentence; empty if the check passed."""
    if report.update is not None:
        refused = sentence(report.update.refused)
        return f"{printable(report.update.path)} was not written: {refused}." if refused else ""
    words = [f"{len(found)} {verdict}" for verdict in NO_PASS if (found := report.of(verdict))]
    words += [counted(len(report.errors), "error", "errors")] if report.errors else []
    if not words:
        return ""
    accept = f" To accept the present results: {report.accept}" if report.accept else ""
    return f"Not passed: {', '.join(words)}.{accept}"


def _table(report: CheckReport) -> Table:
    return Table(
        title=CELLS,
        header=HEADER,
        rows=tuple(Row(cell.name, values_of(cell)) for cell in _by_verdict(report.cells)),
        caption=(
            "accuracy in %, difference in points; changed: examples that are right only before (-) and only after (+); "
            "p: exact one-sided McNemar test against no fall, Holm-adjusted for all cells; smallest fall: in points, "
            "found with a probability of 90 % at this n and with so many changes"
        ),
        brackets="in brackets the 95 % confidence interval",
    )


def _by_verdict(checks: Sequence[T]) -> list[T]:
    """Return the checks in the order of their verdicts."""
    order = list(VERDICTS)
    return sorted(checks, key=lambda each: order.index(each.verdict))


def _benchmark_table(benchmarks: Sequence[BenchmarkCheck]) -> Table:
    def value(number: float | None, spread: Interval | None) -> Value:
        return Value(number=number, kind="metric", digits=4, interval=spread, interval_digits=4)

    return Table(
        title="Benchmarks",
        header=("ratio", "verdict", "before", "after"),
        rows=tuple(
            Row(
                each.name,
                (
                    Value(words=each.verdict),
                    value(each.before, each.spread_before),
                    value(each.after, each.spread_after),
                ),
            )
            for each in _by_verdict(benchmarks)
        ),
        caption="ratios of timings of one run",
        brackets="in brackets the spread within the run",
    )


def values_of(cell: CellCheck) -> tuple[Value, ...]:
    """Return the values of a cell in the columns of `HEADER` after the first."""
    found, verdict = cell.difference, Value(words=cell.verdict)
    accuracies = Value(number=cell.before, digits=DIGITS), Value(number=cell.after, digits=DIGITS)
    if found is None:
        return verdict, *accuracies, *(Value() for _ in HEADER[4:])
    fall = cell.smallest_fall
    return (
        verdict,
        *accuracies,
        Value(number=found.difference, kind="points", digits=DIGITS, interval=found.interval, interval_digits=DIGITS),
        Value(words=found.changed),
        Value(number=cell.p_holm, kind="p"),
        Value(words="none") if fall is not None and math.isinf(fall) else Value(number=fall, digits=DIGITS),
    )
