"""Gap closed: the fraction of the accuracy gap between two models that a third model closes, as in Table 4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from robharness import statistics
from robharness.report.details import GapClosed
from robharness.statistics.intervals import Bools
from robharness.store.results import CellResult, Results


@dataclass(frozen=True)
class _Runs:
    """Outcomes of the complete runs of one model under one perturbation.

    expected: number of runs in the suite.
    clean, perturbed: (n,) bool for each complete run, whether an example is correct.
    """

    expected: int
    clean: list[Bools]
    perturbed: list[Bools]

    @property
    def accuracies(self) -> list[float]:
        return [statistics.accuracy(right) for right in self.perturbed]

    @property
    def accuracy(self) -> float:
        """The mean over runs, computed from counts, so that equal accuracies are equal in floating point."""
        return statistics.accuracy(np.concatenate(self.perturbed))

    @property
    def drop(self) -> float:
        """The mean of the runs' relative drops. Raises ZeroClean."""
        pairs = zip(self.clean, self.accuracies, strict=True)
        return float(
            np.mean([statistics.relative_drop(statistics.accuracy(clean), attacked) for clean, attacked in pairs])
        )


def gaps_closed(results: Results) -> Iterator[GapClosed]:
    """Yield the gap closed by each other model under each perturbation with a budget or a severity.

    Yields nothing for a perturbation if this model or one of the two models of the gap has no complete run.
    """
    suite, columns = results.outline.suite, dict[str, list[str]]()
    for model in suite.models:
        columns.setdefault(model.run_of or model.label, []).append(model.label)
    if suite.gap is None or not columns.keys() >= set(suite.gap):  # live models may not include them
        return
    of_cell = {(result.cell.model.label, result.cell.short_name): result for result in results.cells}
    for perturbation in dict.fromkeys(p.name for p in suite.perturbations if not p.is_unbounded):
        found = {}
        for column, labels in columns.items():
            pairs = [(of_cell.get((label, "clean")), of_cell.get((label, perturbation))) for label in labels]
            found[column] = _runs(len(labels), [(clean, result) for clean, result in pairs if clean and result])
        start, end = (found[label] for label in suite.gap)
        for column, runs in found.items():
            if column not in suite.gap and all(some.perturbed for some in (runs, start, end)):
                yield _closed(column, perturbation, runs, start, end)


def _runs(expected: int, pairs: list[tuple[CellResult, CellResult]]) -> _Runs:
    """Return the outcomes of complete runs. With the robust count, examples that are wrong clean count as wrong."""
    whole = [(clean.correct, result) for clean, result in pairs if clean.is_complete and result.is_complete]
    return _Runs(
        expected,
        [clean for clean, _ in whole],
        [clean & result.correct if result.cell.count == "robust" else result.correct for clean, result in whole],
    )


def _closed(column: str, perturbation: str, method: _Runs, start: _Runs, end: _Runs) -> GapClosed:
    three = (method, start, end)
    closed = interval = printed = None
    with suppress(statistics.UndefinedNumber):
        printed = statistics.gap_closed_printed(method.drop, start.drop, end.drop)
    with suppress(statistics.UndefinedNumber):
        closed = statistics.gap_closed(method.accuracy, start.accuracy, end.accuracy)
        if all(runs.expected == 1 for runs in three):
            interval = statistics.gap_closed_interval(*(runs.perturbed[0] for runs in three), paired=True)
        else:
            interval = statistics.gap_closed_interval(*(runs.accuracies for runs in three), paired=False)
    least = min(three, key=lambda runs: len(runs.perturbed) / runs.expected)
    return GapClosed(
        model=column, perturbation=perturbation, runs=len(least.perturbed), asked=least.expected, closed=closed,
        interval=interval, printed=printed,
    )  # fmt: skip
