"""The result of a comparison in words.

The suite alone chooses the numbers of these sentences, never the results: the first attack at its first budget, else
the first corruption, else clean examples; and the number of cells that differ significantly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from robharness.comparison.records import LEVEL, CellDifference, Comparison, RunsDifference
from robharness.report.answer import NO_DIFFERENCE
from robharness.report.values import accuracy_digits
from robharness.statistics import Interval
from robharness.text import counted, printable

T = TypeVar("T", CellDifference, RunsDifference)
FEW = 4
"""The largest number of pairs of models that have a sentence each."""


def answer(comparison: Comparison) -> tuple[str, ...]:
    """Return the result in words, the main sentence first."""
    found = [*_on_runs(comparison), *_on_pairs(comparison)]
    if comparison.cells:
        found.append(_significant(comparison))
    return tuple(found)


def _on_runs(comparison: Comparison) -> Iterator[str]:
    shown = _main(comparison.runs, {cell.perturbation: cell.kind for cell in comparison.cells})
    if len(shown) <= FEW:
        yield from map(_runs, shown)


def _on_pairs(comparison: Comparison) -> Iterator[str]:
    run_of = comparison.run_of
    cells = [cell for cell in comparison.cells if cell.model not in run_of and cell.other not in run_of]
    shown = _main(cells, {cell.perturbation: cell.kind for cell in cells})
    if len(shown) <= FEW:
        yield from (_pair(cell, comparison) for cell in shown)


def _main(found: Sequence[T], kinds: Mapping[str, str]) -> list[T]:
    """Return of each pair of models the number that its sentence is on."""
    by_pair: dict[tuple[str, str], list[T]] = {}
    for each in found:
        by_pair.setdefault((each.other, each.model), []).append(each)
    ranks = {"attack": 0, "corruption": 1}
    return [min(some, key=lambda each: ranks.get(kinds.get(each.perturbation, ""), 2)) for some in by_pair.values()]


def _pair(cell: CellDifference, comparison: Comparison) -> str:
    if cell.difference is None or cell.interval is None or cell.before is None or cell.after is None:
        return f"{printable(cell.name)} has no examples that both sides have."
    digits = accuracy_digits(cell.n)
    accuracies = f"{_percent(cell.after, digits)} % against {_percent(cell.before, digits)} %"
    return (
        f"{_sentence(cell, cell.difference, digits)}, {accuracies} {_examples(cell, comparison)}; "
        f"{_interval(cell.difference, cell.interval, digits)}."
    )


def _runs(found: RunsDifference) -> str:
    if found.difference is None or found.before is None or found.after is None:
        return f"{printable(found.model)} has no runs to compare under {printable(found.perturbation)}."
    digits = accuracy_digits(found.n)
    after = _mean(found.after, found.after_deviation, found.runs_after, digits)
    before = _mean(found.before, found.before_deviation, found.runs_before, digits)
    interval = "an interval over runs needs two runs on each side, and runs that differ"
    if found.interval is not None:
        interval = f"over runs, which differ in their seed, {_interval(found.difference, found.interval, digits)}"
    means = f"{after} against {before} on {found.n:,} examples"
    return f"{_sentence(found, found.difference, digits)}, {means}; {interval}."


def _mean(mean: float, deviation: float | None, runs: int, digits: int) -> str:
    spread = "" if deviation is None else f" ± {_percent(deviation, digits)}"
    return f"{_percent(mean, digits)}{spread} % in {counted(runs, 'run', 'runs')}"


def _sentence(found: CellDifference | RunsDifference, difference: float, digits: int) -> str:
    """Return the clause that says how many more or fewer examples are right."""
    model, other = printable(found.model), printable(found.other)
    under = "on clean examples" if found.perturbation == "clean" else f"under {printable(found.perturbation)}"
    points = f"{_percent(abs(difference), digits)} points"
    if not points.strip("0. points"):
        much, than = "as many examples", "as"
    else:
        much, than = f"{points} {'more' if difference > 0 else 'fewer'} examples", "than"
    whom = f"after {than} before" if found.model == found.other else f"{than} {other}"
    return f"{model} is right on {much} {whom} {under}"


def _interval(difference: float, interval: Interval, digits: int) -> str:
    """Return the interval in the direction of the sentence: of the fall if the accuracy fell."""
    low, high = (-interval.high, -interval.low) if difference < 0 else interval
    verdict = f": {NO_DIFFERENCE}" if low <= 0 <= high else ""
    return f"95 % interval {_percent(low, digits)} to {_percent(high, digits)}{verdict}"


def _examples(cell: CellDifference, comparison: Comparison) -> str:
    clusters = f" in {counted(cell.units, 'cluster', 'clusters')}" if comparison.clusters and cell.units else ""
    if cell.n == cell.n_before == cell.n_after:
        return f"on {cell.n:,} examples{clusters}"
    others = [f"{side} has {n:,}" for side, n in (("before", cell.n_before), ("after", cell.n_after)) if n != cell.n]
    return f"on the {cell.n:,} examples that both have{clusters} ({', '.join(others)})"


def _significant(comparison: Comparison) -> str:
    """Return the sentence on the number of cells that differ significantly."""
    cells, test = counted(len(comparison.cells), "cell", "cells"), f"{comparison.test}, {100 * LEVEL:g} %"
    tested = [cell for cell in comparison.cells if cell.n]
    if not tested:
        return f"None of {cells} has examples that both sides have."
    if not any(cell.lost or cell.gained for cell in tested):
        return f"In {cells}, every example has the same outcome on both sides."
    fell = sum((cell.difference or 0) < 0 for cell in comparison.significant)
    rose = len(comparison.significant) - fell
    if not comparison.significant:
        return f"The accuracy differs significantly in none of {cells} ({test})."
    differ = f"The accuracy differs significantly in {fell + rose} of {cells}"
    return f"{differ}: it fell in {fell} and rose in {rose} ({test})."


def _percent(fraction: float, digits: int) -> str:
    return f"{round(100 * fraction, digits) + 0.0:.{digits}f}"  # without the sign of -0.0
