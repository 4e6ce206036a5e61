"""Accuracies of models relative to those of other models: gaps closed, as in Table 4, and gains, as in Table 5."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from robharness import statistics
from robharness.report.details import Gain, GainSummary, GapClosed
from robharness.statistics.intervals import Bools, Interval
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


class _ByColumn:
    """The complete runs of each column: of a model, or of its runs together."""

    def __init__(self, results: Results) -> None:
        self.labels: dict[str, list[str]] = {}
        for model in results.outline.suite.models:
            self.labels.setdefault(model.run_of or model.label, []).append(model.label)
        self._cells = {(result.cell.model.label, result.cell.short_name): result for result in results.cells}

    def has(self, columns: Sequence[str]) -> bool:
        """Whether these are labels of columns; live models may not include them."""
        return self.labels.keys() >= set(columns)

    def runs(self, column: str, perturbation: str) -> _Runs:
        labels = self.labels[column]
        pairs = [(self._cells.get((label, "clean")), self._cells.get((label, perturbation))) for label in labels]
        return _runs(len(labels), [(clean, result) for clean, result in pairs if clean and result])


def _runs(expected: int, pairs: list[tuple[CellResult, CellResult]]) -> _Runs:
    """Return the outcomes of complete runs. With the robust count, examples that are wrong clean count as wrong."""
    whole = [(clean.correct, result) for clean, result in pairs if clean.is_complete and result.is_complete]
    return _Runs(
        expected,
        [clean for clean, _ in whole],
        [clean & result.correct if result.cell.count == "robust" else result.correct for clean, result in whole],
    )


def _least(several: Sequence[_Runs]) -> _Runs:
    """Return those runs of which the smallest share is complete."""
    return min(several, key=lambda runs: len(runs.perturbed) / runs.expected)


def _interval(of: Callable[..., Interval], several: Sequence[_Runs]) -> Interval:
    """Return the interval of a statistic: over examples for single models, else over runs. Raises UndefinedNumber."""
    if all(runs.expected == 1 for runs in several):
        return of(*(runs.perturbed[0] for runs in several), paired=True)
    return of(*(runs.accuracies for runs in several), paired=False)


# --- gaps closed ----------------------------------------------------------------------------------------------------


def gaps_closed(results: Results) -> Iterator[GapClosed]:
    """Yield the gap closed by each other model under each perturbation with a budget or a severity.

    Yields nothing for a perturbation if this model or one of the two models of the gap has no complete run.
    """
    suite, columns = results.outline.suite, _ByColumn(results)
    if suite.gap is None or not columns.has(suite.gap):
        return
    for perturbation in dict.fromkeys(p.name for p in suite.perturbations if not p.is_unbounded):
        start, end = (columns.runs(label, perturbation) for label in suite.gap)
        for column in columns.labels:
            runs = columns.runs(column, perturbation)
            if column not in suite.gap and all(some.perturbed for some in (runs, start, end)):
                yield _closed(column, perturbation, runs, start, end)


def _closed(column: str, perturbation: str, method: _Runs, start: _Runs, end: _Runs) -> GapClosed:
    three = (method, start, end)
    closed = interval = printed = None
    with suppress(statistics.UndefinedNumber):
        printed = statistics.gap_closed_printed(method.drop, start.drop, end.drop)
    with suppress(statistics.UndefinedNumber):
        closed = statistics.gap_closed(method.accuracy, start.accuracy, end.accuracy)
        interval = _interval(statistics.gap_closed_interval, three)
    least = _least(three)
    return GapClosed(
        model=column, perturbation=perturbation, runs=len(least.perturbed), asked=least.expected, closed=closed,
        interval=interval, printed=printed,
    )  # fmt: skip


# --- gains ----------------------------------------------------------------------------------------------------------


def gains(results: Results) -> Iterator[Gain]:
    """Yield the gain of each model of the suite's `gain` under each attack with a budget.

    Yields nothing for an attack if this model or its base has no complete run.
    """
    suite, columns = results.outline.suite, _ByColumn(results)
    for perturbation in _attacks(results):
        for column, base in (suite.gain or {}).items():
            if columns.has((column, base)):
                two = columns.runs(column, perturbation), columns.runs(base, perturbation)
                if all(runs.perturbed for runs in two):
                    yield _gain(column, base, perturbation, two)


def _attacks(results: Results) -> list[str]:
    """Return the names of the attacks with a budget."""
    attacks = (p for p in results.outline.suite.perturbations if p.kind == "attack" and not p.is_unbounded)
    return list(dict.fromkeys(attack.name for attack in attacks))


def _gain(column: str, base: str, perturbation: str, two: tuple[_Runs, _Runs]) -> Gain:
    ours, below = two
    gain = interval = None
    reason = ""
    try:
        gain = statistics.gain(ours.accuracy, below.accuracy)
        interval = _interval(statistics.gain_interval, two)
        if not math.isfinite(interval.low):
            gain, interval, reason = None, None, "base may be 0"
    except statistics.ZeroBase:
        reason = "base is 0"
    except statistics.EmptySample:
        pass  # the gain is known, and its interval is not
    least = _least(two)
    return Gain(
        model=column, base=base, perturbation=perturbation, runs=len(least.perturbed), asked=least.expected, gain=gain,
        interval=interval, reason=reason,
    )  # fmt: skip


def gain_summaries(results: Results, found: Sequence[Gain]) -> Iterator[GainSummary]:
    """Yield the median of each model's gains, and the mean of all of them.

    found: the gains of these results; without any, nothing is yielded.
    """
    models, attacks = dict.fromkeys(each.model for each in found), len(_attacks(results))
    for model in models:
        own = [each.gain for each in found if each.model == model and each.gain is not None]
        value = float(np.median(own)) if own else None
        yield GainSummary(statistic="median", model=model, value=value, gains=len(own), asked=attacks)
    if models:
        every = [each.gain for each in found if each.gain is not None]
        value = float(np.mean(every)) if every else None
        asked = attacks * len(results.outline.suite.gain or ())
        yield GainSummary(statistic="mean", model=None, value=value, gains=len(every), asked=asked)
