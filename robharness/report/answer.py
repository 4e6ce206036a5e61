"""The result in words.

The suite alone chooses the numbers of these sentences, never its results: the first attack at its first budget, and all
corruptions. Models are compared with the reference, or with the first model if there is none. Of more than `FEW` models
the extremes are named and the others are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robharness import statistics
from robharness.report.records import CellNumbers, Report
from robharness.report.runs import spread
from robharness.report.values import accuracy_digits
from robharness.statistics.intervals import Bools, Interval
from robharness.store.results import Results
from robharness.text import printable

FEW = 4
"""The largest number of models that are all named."""
LEVEL = 0.95
NO_DIFFERENCE = "no difference shows at this n"
OVER_RUNS = "; ± is the standard deviation over runs, which differ in their seed, not over examples"


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A number of a record of the report, in words.

    number, interval: of a record; None if it has none.
    clause: of a label and a number.
    bound: an end of an interval, or a deviation, as text.
    verdict: of an interval; may be empty.
    """

    number: Callable[[Any], float | None]
    interval: Callable[[Any], Interval | None]
    clause: Callable[[str, float], str]
    bound: Callable[[float], str]
    verdict: Callable[[Interval], str] = lambda _: ""


@dataclass(frozen=True)
class _Clause:
    """A clause on the number of a model, or on the mean of the runs that share a label.

    has_spread: whether it states a deviation over runs.
    """

    number: float
    words: str
    has_spread: bool


@dataclass(frozen=True)
class _Pair:
    """The outcomes of a model and of the one that it is compared with, on the examples that both have, (n,) bool."""

    label: str
    clean: tuple[Bools, Bools]
    attacked: tuple[Bools, Bools]

    @property
    def n(self) -> int:
        return len(self.clean[0])

    @property
    def drops(self) -> tuple[float, float]:
        own, other = (
            statistics.relative_drop(statistics.accuracy(before), statistics.accuracy(after))
            for before, after in zip(self.clean, self.attacked, strict=True)
        )
        return own, other

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the interval of the difference of the drops, the model's minus the other's."""
        return statistics.drop_difference_interval(self.clean, self.attacked, level)


def answer(results: Results, report: Report) -> tuple[str, ...]:
    """Return the result in words, the main sentence first."""
    if not any(cell.numbers.n for cell in report.cells):
        return ("No outcomes are stored yet.",)
    words = _Words(results, report)
    attack = next((cell for cell in report.cells if cell.kind == "attack"), None)
    found: list[str] = []
    if attack is not None:
        found += words.distances(attack.perturbation) if attack.eps is None else words.drops(attack.perturbation)
    if any(cell.kind == "corruption" for cell in report.cells):
        found += words.slopes() or words.means()
    found = found or words.accuracies()
    partial = sum(not cell.complete for cell in report.cells)
    if partial:
        verb = "lacks" if partial == 1 else "lack"
        found.append(f"{partial} of {len(report.cells)} cells {verb} examples, so these numbers may change.")
    return tuple(found)


class _Words:
    """Sentences on the numbers of a report."""

    def __init__(self, results: Results, report: Report) -> None:
        self.results, self.report = results, report
        reference = report.reference or report.models[0]
        self.base = report.run_of.get(reference, reference)
        self.unit = "clip" if results.cells[0].cell.data.kind == "video" else "image"

    def drops(self, name: str) -> list[str]:
        """Return sentences on the relative drops under an attack."""
        cells = [cell for cell in self.report.cells if cell.perturbation == name]
        clauses = self._clauses(cells, _drop(self.report.measure))
        pairs = list(self._pairs(name))
        all_paired = 0 < len(pairs) == len(clauses) - 1 < FEW
        found = (
            [] if all_paired else self._sentences(f"Under {printable(name)}, ", clauses, f", on {self._count(cells)}")
        )
        found += [self._compared(pair, name) for pair in pairs] if len(pairs) < FEW else [self._counted(pairs)]
        never_right = {each.model for each in self.report.cells if each.kind == "clean" and each.numbers.accuracy == 0}
        hopeless = [cell.model for cell in cells if cell.numbers.n and cell.model in never_right]
        if hopeless:
            verb = "has" if len(hopeless) == 1 else "have"
            found.append(
                f"{_listed(hopeless)} {verb} no clean {self.unit} right, so there is no {self.report.measure} to lose."
            )
        return found

    def distances(self, name: str) -> list[str]:
        """Return sentences on the smallest perturbations that an attack without a budget found."""
        cells = [cell for cell in self.report.cells if cell.perturbation == name and cell.distances is not None]
        lead, end = f"By the perturbations that {printable(name)} finds, ", f", on {self._count(cells)}"
        return self._sentences(lead, self._clauses(cells, _DISTANCE), end)

    def accuracies(self) -> list[str]:
        """Return sentences on the accuracies on clean examples."""
        cells = [cell for cell in self.report.cells if cell.kind == "clean" and cell.numbers.n]
        least = min((cell.numbers.n for cell in cells), default=0)
        quantity = _accuracy(least, f"of the clean {self.unit}s", self.report.measure, lambda cell: cell.numbers)
        return self._sentences("", self._clauses(cells, quantity), f", on {self._count(cells)}")

    def slopes(self) -> list[str]:
        """Return sentences on the slopes over all corruptions; none without a reference."""
        slopes = [each for each in self.report.slopes if each.group is None and each.severity is None]
        return self._over_corruptions(slopes, _slope(self.report.reference or ""))

    def means(self) -> list[str]:
        """Return sentences on the mean accuracies over all corruptions."""
        means = [each for each in self.report.corruption_means if each.group is None and each.severity is None]
        return self._over_corruptions(
            means, _accuracy(min((each.n for each in means), default=0), "on average", self.report.measure)
        )

    def _over_corruptions(self, found: Sequence[Any], quantity: _Quantity) -> list[str]:
        if not found:
            return []
        lead = f"Over {_range([each.corruptions for each in found])} corruptions, "
        count = f"{_range([each.n for each in found])} {self.unit}s"
        return self._sentences(lead, self._clauses(found, quantity), f", on {count}")

    # --- one number of every model ----------------------------------------------------------------------------------

    def _clauses(self, found: Sequence[Any], quantity: _Quantity) -> list[_Clause]:
        """Return a clause for every model with a number, and for every label of runs with complete ones."""
        clauses = []
        for label, models in self.report.columns.items():
            is_of_runs = label not in self.report.models
            records = [each for each in found if each.model in models]
            if is_of_runs:
                records = [each for each in records if getattr(each, "complete", True)]
            mean, deviation = spread([quantity.number(each) for each in records])
            if mean is None:
                continue
            words = quantity.clause(printable(label), mean)
            interval = quantity.interval(records[0])
            if is_of_runs:
                shown = f"± {quantity.bound(deviation)} over " if deviation is not None else ""
                words += f" ({shown}{len(records)} run{'s' * (len(records) > 1)})"
            elif interval is not None:
                low, high = map(quantity.bound, interval)
                words += f" (95 % interval {low} to {high}{quantity.verdict(interval)})"
            clauses.append(_Clause(mean, words, is_of_runs and deviation is not None))
        return clauses

    def _sentences(self, lead: str, clauses: Sequence[_Clause], end: str) -> list[str]:
        """Return one sentence on all models, or on the extremes if there are many."""
        if not clauses:
            return []
        named = clauses
        if len(clauses) > FEW:
            named = [sorted(clauses, key=lambda each: each.number)[at] for at in (0, -1)]
            lead += f"the lowest and the highest of {len(clauses)} models: "
        spread_of = OVER_RUNS if any(each.has_spread for each in named) else ""
        return [f"{lead}{'; '.join(each.words for each in named)}{end}{spread_of}."]

    # --- pairs of models --------------------------------------------------------------------------------------------

    def _pairs(self, name: str) -> Iterator[_Pair]:
        """Yield the outcomes of every model beside those of the base; none for runs, which have a spread instead."""
        cells = {each.cell.model.label: each for each in self.results.cells if each.cell.short_name == name}
        base = cells.get(self.base)
        for label, own in cells.items():
            if base is None or label == self.base or label in self.report.run_of:
                continue
            both = [self.results.clean(label), self.results.clean(self.base), own, base]
            clean, base_clean, attacked, base_attacked = self.results.paired(both)
            if own.cell.count == "robust":
                attacked, base_attacked = attacked & clean, base_attacked & base_clean
            if clean.any() and base_clean.any():
                yield _Pair(label, (clean, base_clean), (attacked, base_attacked))

    def _compared(self, pair: _Pair, name: str) -> str:
        """Return a sentence on two drops and their difference."""
        own, other = pair.drops
        low, high = pair.interval() if own >= other else [-bound for bound in reversed(pair.interval())]
        both = f"{printable(pair.label)} {_loses(own)} of its {self.report.measure} under {printable(name)}, "
        both += f"{printable(self.base)} "
        both += _loses(other) if min(own, other) < 0 else f"{statistics.whole_percent(other)} %"
        return (
            f"{both}; the difference of the drops is {_points(abs(own - other))} points, 95 % interval {_points(low)} "
            f"to {_points(high)}, paired on {self._number(pair.n)}{f': {NO_DIFFERENCE}' if low <= 0 else ''}."
        )

    def _counted(self, pairs: Sequence[_Pair]) -> str:
        """Count the models that lose more and less than the base, by intervals that hold for all of them together."""
        intervals = [pair.interval(1 - (1 - LEVEL) / len(pairs)) for pair in pairs]
        more, less = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
        return (
            f"Compared with {printable(self.base)} on the same {self.unit}s, the drop is larger for {more} of "
            f"{len(pairs)} models and smaller for {less}; for {len(pairs) - more - less} {NO_DIFFERENCE} (95 % "
            "intervals that hold for all of these differences together)."
        )

    def _count(self, cells: Sequence[CellNumbers]) -> str:
        """Return the number of examples that these cells have, such as "12 to 20 images"."""
        counts = [cell.numbers.n for cell in cells if cell.numbers.n] or [0]
        return f"{_range(counts)} {self.unit}{'s' * (max(counts) != 1)}"

    def _number(self, n: int) -> str:
        return f"{n}{f' of {self.report.n}' if n < self.report.n else ''} {self.unit}{'s' * (self.report.n != 1)}"


def _loses(drop: float) -> str:
    percent = statistics.whole_percent(drop)
    return f"loses {percent} %" if percent >= 0 else f"gains {-percent} %"


def _listed(labels: Sequence[str]) -> str:
    *first, last = [printable(label) for label in labels[:FEW]] + [f"{len(labels) - FEW} more"] * (len(labels) > FEW)
    return f"{', '.join(first)} and {last}" if first else last


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _percent(fraction: float, digits: int = 0) -> str:
    return f"{round(100 * fraction, digits) + 0.0:.{digits}f}"  # without the sign of -0.0


def _points(difference: float) -> str:
    return _percent(difference, 1)


_DISTANCE = _Quantity(
    number=lambda cell: cell.distances.median,
    interval=lambda cell: cell.distances.interval,
    clause=lambda label, median: f"half of the predictions of {label} are wrong within a distance of {median:.4g}",
    bound=lambda bound: f"{bound:.4g}",
)


def _drop(measure: str) -> _Quantity:
    """Return the relative drop of a cell. measure: the word for the share that is right."""
    return _Quantity(
        number=lambda cell: cell.numbers.relative_drop,
        interval=lambda cell: cell.numbers.relative_drop_interval,
        clause=lambda label, drop: f"{label} {_loses(drop)} of its {measure}",
        bound=_percent,
    )


def _accuracy(n: int, words: str, measure: str, numbers: Callable[[Any], Any] = lambda record: record) -> _Quantity:
    """Return the accuracy of a record, or of its `numbers`.

    n: the number of examples, on which the digits depend.
    words: the end of its clause.
    measure: the word for the share that is right.
    """
    digits, verb = accuracy_digits(n), "finds again" if measure == "retrieval" else "is right on"
    return _Quantity(
        number=lambda record: numbers(record).accuracy,
        interval=lambda record: numbers(record).interval,
        clause=lambda label, accuracy: f"{label} {verb} {_percent(accuracy, digits)} % {words}",
        bound=lambda bound: _percent(bound, digits),
    )


def _slope(reference: str) -> _Quantity:
    base = printable(reference)
    return _Quantity(
        number=lambda record: record.slope,
        interval=lambda record: record.interval,
        clause=lambda label, slope: f"the relative drops of {label} are {slope:.3f} times those of {base}",
        bound=lambda bound: f"{bound:.2f}",
        verdict=lambda interval: f": {NO_DIFFERENCE}" if interval.low <= 1 <= interval.high else "",
    )
