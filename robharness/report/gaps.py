"""How much of the way from one model to another a third one goes, attack by attack: the gap closed of Table 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robharness import metrics
from robharness.metrics import Bools, Interval

if TYPE_CHECKING:
    from robharness.results import CellResult, Results


@dataclass(frozen=True, kw_only=True)
class GapClosed:
    """Of a model, or of the mean of its runs, on the way that the suite's `gap` says.

    runs: how many are complete. closed: 0 is where the way begins, 1 where it ends; None where there is no way.
    interval: over runs, or, of single models, over examples; None of a single model beside several runs. printed: as
    the paper's Table 4 has it, from relative drops rounded to whole percentages.
    """

    model: str
    perturbation: str
    runs: int
    closed: float | None
    interval: Interval | None
    printed: float | None


@dataclass(frozen=True)
class _Runs:
    """Which examples each complete run has right, clean and perturbed."""

    clean: list[Bools]
    perturbed: list[Bools]

    @property
    def accuracies(self) -> list[float]:
        return [metrics.accuracy(right) for right in self.perturbed]

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def drop(self) -> float:
        """The mean of the runs' own. Raises ZeroClean."""
        pairs = zip(self.clean, self.accuracies, strict=True)
        return float(np.mean([metrics.relative_drop(metrics.accuracy(clean), left) for clean, left in pairs]))


def gaps(results: Results) -> Iterator[GapClosed]:
    """Of all models but the two that the way goes between, where all three have a complete run."""
    suite = results.suite
    if suite.gap is None:
        return
    columns: dict[str, list[str]] = {}
    for model in suite.models:
        columns.setdefault(model.run_of or model.label, []).append(model.label)
    of_cell = {(result.cell.model.label, result.cell.short_name): result for result in results.cells}
    for perturbation in dict.fromkeys(p.name for p in suite.perturbations if p.strength is not None):
        found = {}
        for column, labels in columns.items():
            pairs = [(of_cell.get((label, "clean")), of_cell.get((label, perturbation))) for label in labels]
            found[column] = _runs([(clean, result) for clean, result in pairs if clean and result])
        start, end = (found[label] for label in suite.gap)
        for column, runs in found.items():
            if column not in suite.gap and all(some.perturbed for some in (runs, start, end)):
                yield _closed(column, perturbation, runs, start, end)


def _runs(pairs: list[tuple[CellResult, CellResult]]) -> _Runs:
    """Of those that are complete. An ensemble spares what is wrong already, and is counted so."""
    whole = [(clean.correct, result) for clean, result in pairs if clean.is_complete and result.is_complete]
    return _Runs(
        [clean for clean, _ in whole],
        [clean & result.correct if result.cell.count == "robust" else result.correct for clean, result in whole],
    )


def _closed(column: str, perturbation: str, method: _Runs, start: _Runs, end: _Runs) -> GapClosed:
    three = (method, start, end)
    closed = interval = printed = None
    try:
        closed = metrics.gap_closed(method.accuracy, start.accuracy, end.accuracy)
        printed = metrics.gap_closed_printed(method.drop, start.drop, end.drop)
    except metrics.UndefinedNumber:
        pass
    counts = {min(2, len(runs.perturbed)) for runs in three}
    if closed is not None and counts == {2}:
        interval = metrics.gap_closed_interval(*(runs.accuracies for runs in three), paired=False)
    elif closed is not None and counts == {1} and len(method.perturbed[0]) > 1:
        interval = metrics.gap_closed_interval(*(runs.perturbed[0] for runs in three), paired=True)
    return GapClosed(
        model=column, perturbation=perturbation, runs=len(method.perturbed), closed=closed, interval=interval,
        printed=printed,
    )  # fmt: skip
