"""The gate: a verdict on each cell of a suite against a baseline, by exact tests that hold for all cells together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from robharness import statistics
from robharness.comparison.compare import compare
from robharness.comparison.findings import comparison_findings
from robharness.comparison.records import CellDifference, Comparison, MeasuredCell, Side, pair_name
from robharness.findings import Finding
from robharness.gate.records import CellCheck, CheckReport, Verdict

REPEATED_BY_VERDICTS = ("cells-incomplete", "cells-on-one-side", "models-on-one-side", "conditions-unknown")
"""Codes of findings that verdicts and their reasons repeat."""
ROUNDING = 1e-9
"""Differences up to this fraction are rounding, since a single example counts more."""


def check(
    before: Side,
    after: Side,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    tolerance: float = 0.005,
    alpha: float = 0.01,
    title: str = "",
    findings: Sequence[Finding] = (),
    accept: str = "",
) -> CheckReport:
    """Compare the cells of a suite with those of a baseline, and give a verdict on each.

    A cell regresses if its accuracy falls by more than the tolerance, and significantly: by the exact one-sided test,
    adjusted by Holm for all cells that are tested.

    before: the baseline.
    after: the present results.
    pairs: labels before and after; by default each label with itself.
    tolerance: the fall, a fraction, up to which a cell passes.
    alpha: the level of the tests of all cells together.
    title: of the suite.
    findings: about the present results.
    accept: the command that accepts the present results as the baseline.
    """
    every = list(dict.fromkeys([*before.labels, *after.labels]))
    comparison = compare(before, after, pairs if pairs is not None else [(label, label) for label in every])
    cells = _checked(before, after, comparison, tolerance, alpha)
    return CheckReport(
        suite=after.suite,
        title=title or after.suite,
        baseline=before.name,
        n=max((cell.difference.n for cell in cells if cell.difference is not None), default=0),
        n_baseline=before.n,
        tolerance=tolerance,
        alpha=alpha,
        cells=cells,
        findings=tuple(dict.fromkeys([*findings, *_comparison_findings(before, after, comparison)])),
        accept=accept,
    )


def _checked(
    before: Side, after: Side, comparison: Comparison, tolerance: float, alpha: float
) -> tuple[CellCheck, ...]:
    """Return the verdict on each cell that a side has."""
    differences = {(each.other, each.model, each.perturbation): each for each in comparison.cells}
    is_same_order = not before.order or not after.order or before.order == after.order
    cells: list[CellCheck] = []
    tested: list[int] = []
    for first, second, perturbation in _cells(before, after, comparison.pairs):
        one, other = before.by_name.get((first, perturbation)), after.by_name.get((second, perturbation))
        difference = differences.get((first, second, perturbation))
        verdict, reason = _untested(one, other, difference, is_same_order)
        if verdict is None:
            tested.append(len(cells))
        shared = difference if difference is not None and difference.n and is_same_order else None
        cells.append(
            CellCheck(
                name=f"{pair_name(first, second)} · {perturbation}",
                model=second,
                perturbation=perturbation,
                verdict=verdict or "passed",
                reason=reason,
                before=_accuracy(one) if shared is None else shared.before,
                after=_accuracy(other) if shared is None else shared.after,
                difference=shared,
            )
        )
    for number, judged in zip(tested, _judged([cells[number] for number in tested], tolerance, alpha), strict=True):
        cells[number] = judged
    return tuple(cells)


def _cells(before: Side, after: Side, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield label before, label after and perturbation of each cell that a side has, in the suite's order."""
    for first, second in pairs:
        names = [cell.perturbation for cell in after.cells if cell.model == second]
        names += [cell.perturbation for cell in before.cells if cell.model == first]
        for name in dict.fromkeys(names):
            yield first, second, name


def _accuracy(cell: MeasuredCell | None) -> float | None:
    return statistics.accuracy(cell.right) if cell is not None and cell.n else None


def _untested(
    one: MeasuredCell | None, other: MeasuredCell | None, difference: CellDifference | None, is_same_order: bool
) -> tuple[Verdict | None, str]:
    """Return the verdict on a cell that cannot be tested, and its reason; None for a cell that can."""
    if other is None:
        return "missing", "not in the suite"
    if not other.is_complete:
        count = f"{other.n_expected - other.n} of {other.n_expected} examples have no outcomes"
        return ("failed", f"{count}: {other.failures[0]}") if other.failures else ("missing", count)
    if one is None:
        return "new", "not in the baseline"
    if not is_same_order:
        return "incompatible", "the data set has other examples than that of the baseline"
    if difference is None or difference.conditions == "unknown":
        return "incompatible", "the data and the perturbation of the baseline are not known"
    if difference.conditions == "changed":
        return (
            "incompatible",
            "the data, the options of the perturbation or the precision are not those of the baseline",
        )
    if not difference.n:
        reason = f": {one.failures[0]}" if one.failures else ""
        return "missing", f"the baseline has no outcomes of these examples{reason}"
    return None, ""


def _judged(cells: Sequence[CellCheck], tolerance: float, alpha: float) -> Iterator[CellCheck]:
    """Yield the cells that are tested, with the verdicts of the tests."""
    differences = [cell.difference for cell in cells if cell.difference is not None]
    falls = statistics.holm([difference.p_fall or 0 for difference in differences])
    rises = statistics.holm([_p_rise(difference) for difference in differences])
    for cell, difference, fall, rise in zip(cells, differences, falls, rises, strict=True):
        change = difference.difference or 0
        verdict, reason = cell.verdict, ""
        if change < -tolerance - ROUNDING and fall <= alpha:
            verdict, reason = "regressed", _change(difference, "fell")
        elif change > tolerance + ROUNDING and rise <= alpha:
            verdict, reason = "improved", _change(difference, "rose")
        yield replace(
            cell,
            verdict=verdict,
            reason=reason,
            p_holm=float(fall),
            smallest_fall=statistics.smallest_fall(
                difference.n,
                difference.discordance or 0,
                alpha / len(differences),
                tolerance=tolerance,
                design_effect=difference.design_effect,
            ),
        )


def _p_rise(difference: CellDifference) -> float:
    """Return the p value of the one-sided test against "the accuracy did not rise", from the two-sided one."""
    return (difference.p or 0) / 2 if (difference.difference or 0) > 0 else 1.0


def _change(difference: CellDifference, word: str) -> str:
    return (
        f"its accuracy {word} by {100 * abs(difference.difference or 0):.2f} points, from "
        f"{100 * (difference.before or 0):.2f} % to {100 * (difference.after or 0):.2f} %"
    )


def _comparison_findings(before: Side, after: Side, comparison: Comparison) -> Iterator[Finding]:
    """Yield findings on the comparison, without those that verdicts and their reasons repeat."""
    yield from comparison.findings
    is_described = any(cell.identity for cell in before.cells)  # else nothing names what differs
    for found in comparison_findings(before, after, comparison):
        if found.code not in REPEATED_BY_VERDICTS and (is_described or found.code != "conditions-differ"):
            yield found
