"""One cell of results by the words of a person, and its numbers as floats that show their interval and n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from robharness.errors import UserError, did_you_mean, nearest_word
from robharness.findings import named_examples
from robharness.planning.outline import CellOutline
from robharness.report.build import cell_numbers
from robharness.report.records import CellNumbers
from robharness.specs.budget import Budget
from robharness.statistics import Interval
from robharness.store.spans import common_positions
from robharness.text import printable, quoted_commands

if TYPE_CHECKING:
    from robharness.store.results import CellResult, Results


class Measured(float):
    """A measured fraction with its 95 % interval and the number of examples, which its text shows.

    It compares and computes as a float; the results of arithmetic are plain floats.
    interval: None if there is none.
    n: the number of examples.
    """

    __slots__ = ("interval", "n")
    interval: Interval | None
    n: int

    def __new__(cls, value: float, interval: Interval | None, n: int) -> Measured:
        self = super().__new__(cls, value)
        self.interval, self.n = interval, n
        return self

    def __repr__(self) -> str:
        """Return text such as "0.38 (95 % interval 0.3156 to 0.4489, n = 200)"."""
        between = f"95 % interval {self.interval[0]:.4g} to {self.interval[1]:.4g}, " if self.interval else ""
        return f"{float(self):.6g} ({between}n = {self.n})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Measured, (float(self), self.interval, self.n))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CellMeasurements:
    """The numbers of one cell, as `Results.cell` returns them. Accuracies and drops are fractions.

    name: of the cell: label, data and perturbation.
    key: the hash of its identity.
    n: the number of stored examples.
    complete: whether all its examples are stored.
    """

    name: str
    key: str
    n: int
    complete: bool
    _cell: CellNumbers
    _n_paired: int  # examples with outcomes in the clean cell as well
    _clean_lacks: UserError | None  # why numbers that need the clean cell are refused

    def __repr__(self) -> str:
        numbers = self._cell.numbers
        shown = ("accuracy", numbers.accuracy) if numbers.accuracy is not None else ("robust", numbers.robust_accuracy)
        number = f"{shown[0]} {shown[1]:.6g}, " if shown[1] is not None else ""
        return f"<{printable(self.name)}: {number}n = {self.n}>"

    @property
    def accuracy(self) -> Measured:
        """The accuracy over all examples, each of them perturbed.

        Raises UserError if only examples that are right clean were perturbed.
        """
        numbers = self._cell.numbers
        if numbers.accuracy is None:
            raise UserError(
                f"{self.name}: not all examples were attacked, so there is no accuracy over all of them. "
                f"Try: .robust_accuracy"
            )
        return Measured(numbers.accuracy, numbers.interval, numbers.n)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of `accuracy`."""
        return self.accuracy.interval

    @property
    def robust_accuracy(self) -> Measured:
        """The share of examples that are right both clean and perturbed.

        Raises UserError for a clean cell, and if outcomes of the clean cell are missing.
        """
        return self._paired("robust accuracy", self._cell.numbers.robust_accuracy, self._cell.numbers.robust_interval)

    @property
    def relative_drop(self) -> Measured:
        """The share of the clean accuracy that the perturbation takes away.

        Raises UserError for a clean cell, if outcomes of the clean cell are missing, and if no clean example is right.
        """
        numbers = self._cell.numbers
        return self._paired("relative drop", numbers.relative_drop, numbers.relative_drop_interval)

    def _paired(self, number: str, value: float | None, interval: Interval | None) -> Measured:
        if self._clean_lacks is not None:
            raise self._clean_lacks
        if value is None:
            reason = "of a clean cell" if self._cell.kind == "clean" else "without clean examples that are right"
            raise UserError(f"{self.name}: there is no {number} {reason}. Try: .accuracy")
        return Measured(value, interval, self._n_paired)


def measure(
    results: Results,
    perturbation: object,
    *,
    eps: str | float | Fraction | None = None,
    norm: str | None = None,
    severity: int | None = None,
    model: str | None = None,
    partial: bool = False,
) -> CellMeasurements:
    """Return the numbers of the one cell that fits; see `robharness.report.results.Results.cell`."""
    __tracebackhide__ = True  # pytest shows the line of the test
    result = _find(results, perturbation, eps=eps, norm=norm, severity=severity, model=model)
    if not result.n or not (result.is_complete or partial):
        raise _incomplete(results, result)
    clean = results.clean(result.cell.model.label)
    return CellMeasurements(
        name=result.cell.name,
        key=result.cell.key,
        n=result.n,
        complete=result.is_complete,
        _cell=cell_numbers(results, result),
        _n_paired=len(common_positions([clean.positions, result.positions])),
        _clean_lacks=None if clean.is_complete or (partial and clean.n) else _incomplete(results, clean),
    )


def _incomplete(results: Results, result: CellResult) -> UserError:
    reason = f"; {quoted_commands(printable(result.failures[0], 500))}" if result.failures else ""
    stored = f"{result.n} of {result.n_expected} examples have outcomes{reason}"
    partial = ", or cell(..., partial=True) for those" if result.n else ""
    return UserError(f"{result.cell.name} is incomplete: {stored}. Try: {results.outline.command('run')}{partial}")


# --- the cell that is meant ----------------------------------------------------------------------------------------


def _find(results: Results, perturbation: object, **filters: Any) -> CellResult:
    """Return the one cell that fits. Raises UserError if none or several do, with those that are near."""
    __tracebackhide__ = True
    if not isinstance(perturbation, str):
        what = f"a value of the type {printable(type(perturbation).__name__)}"
        raise UserError(f'a cell is named by a text, not by {what}. Try: cell("clean")')
    wanted = _conditions(**filters)
    pending = [cell for cell in results.outline.pending_cells if cell.is_own]
    every = [*(result.cell for result in results.cells), *pending]
    named = _named(every, perturbation)
    found = [cell for cell in named if all(fits(cell) for fits, _ in wanted)]
    words = " ".join([f"'{printable(perturbation)}'", *(words for _, words in wanted)])
    if not found:
        raise UserError(_nothing_found(results, every, named, perturbation, words, filters["model"]))
    if len(found) > 1:
        raise UserError(
            f"{words} names {len(found)} cells: {named_examples([_short(cell) for cell in found])}. "
            f"Try: {_call(found[0])}"
        )
    match = next((result for result in results.cells if result.cell is found[0]), None)
    if match is None:
        raise UserError(
            f"{_short(found[0])} has no outcomes, since its model is not trained. Try: {results.outline.command('run')}"
        )
    return match


def _named(cells: Sequence[CellOutline], name: str) -> list[CellOutline]:
    """Return the cells that a name means: a perturbation's exact name, else its title, else the name of its spec."""
    readings = [_readings(cell) for cell in cells]
    found = ([cell for cell, names in zip(cells, readings, strict=True) if names[i] == name] for i in range(5))
    return next((some for some in found if some), [])


def _readings(cell: CellOutline) -> tuple[str, str, str, str, str]:
    """Return the names of a cell: exact, without budget or severity, of its spec in full and without its plugin."""
    p = cell.perturbation
    if p is None:
        return ("clean",) * 5
    return p.name, p.title, p.spec, p.spec.partition("/")[2], p.plain_name


def _conditions(
    eps: str | float | Fraction | None, norm: str | None, severity: int | None, model: str | None
) -> list[tuple[Callable[[CellOutline], bool], str]]:
    """Return a function and words for each filter that is given. Raises UserError for an eps that is no number."""
    found: list[tuple[Callable[[CellOutline], bool], str]] = []
    if eps is not None:
        try:
            budget = Budget(eps)
        except ValueError as error:
            raise UserError(f'eps: {error}. Try: eps="1/255"') from None

        def has_budget(cell: CellOutline) -> bool:  # as floats, so that 1/255 in Python is "1/255"
            own = cell.perturbation.eps if cell.perturbation else None
            return own is not None and float(own) == float(budget)

        found.append((has_budget, f"with eps {budget}"))
    for name, value in (("norm", norm), ("severity", severity)):
        if value is not None:
            found.append((partial(_has, name, value), f"with {name} {printable(value)}"))
    if model is not None:
        found.append((lambda cell: cell.model.label == model, f"of '{printable(model)}'"))
    return found


def _has(name: str, value: object, cell: CellOutline) -> bool:
    return bool(getattr(cell.perturbation, name, None) == value)


def _nothing_found(
    results: Results,
    every: Sequence[CellOutline],
    named: Sequence[CellOutline],
    perturbation: str,
    words: str,
    model: str | None,
) -> str:
    """Return the sentence on words that no cell fits."""
    labels = list(dict.fromkeys(cell.model.label for cell in every))
    if model is not None and model not in labels:
        nearest = did_you_mean(str(model), labels)
        there = f"there are {named_examples(labels)}" if labels else "these results have none"
        return f"no model '{printable(model)}'{_joined(nearest, there)} Try: results.labels"
    near = named or every
    shown = list(dict.fromkeys(_short(cell) if len(labels) > 1 and named else cell.what for cell in near))
    by_name = {name: cell for cell in reversed(every) for name in _readings(cell)}
    nearest = "" if named else did_you_mean(perturbation, by_name)
    first = by_name[nearest_word(perturbation, by_name) or perturbation] if nearest else next(iter(near), None)
    there = f"there are {named_examples(shown)}" if shown else "these results have no cells"
    call = results.outline.command("run") if first is None else _call(first)
    return f"no cell {words}{_joined(nearest, there)} Try: {call}"


def _joined(nearest: str, there: str) -> str:
    """Return `; did you mean 'x'? There are x, y.`, or `; there are x, y.` if no word is near."""
    return f"{nearest} {there[:1].upper()}{there[1:]}." if nearest else f"; {there}."


def _short(cell: CellOutline) -> str:
    """Return the label and the perturbation."""
    return f"{cell.model.label} · {cell.what}"


def _call(cell: CellOutline) -> str:
    """Return the call that gives exactly this cell."""
    return f'cell("{printable(cell.what)}", model="{printable(cell.model.label)}")'
