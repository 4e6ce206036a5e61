"""The progress of a run: right predictions by cell, speed, and the time left. Every update takes constant time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from robharness.planning.cells import Cell
from robharness.store.failures import Failure
from robharness.store.parts import Counts
from robharness.store.spans import Span

RATE_SECONDS = 60.0
"""The time after which outcomes weigh 1/e of new ones in the number of examples per second."""
MEASURED_SECONDS = 3.0
"""Seconds of computation before which no time left is estimated: the first passes are slow."""
FORGETTING = 0.5
"""The weight of earlier measurements at a new one, so that the estimate follows a change of speed."""


@dataclass(kw_only=True, eq=False)
class Pace:
    """Seconds per unit of work, by an average that forgets earlier measurements."""

    seconds: float = 0.0
    work: float = 0.0

    def add(self, seconds: float, work: float) -> None:
        self.seconds = FORGETTING * self.seconds + seconds
        self.work = FORGETTING * self.work + work

    @property
    def value(self) -> float | None:
        """Seconds per unit of work; None before the first measurement."""
        return self.seconds / self.work if self.work else None


@dataclass(kw_only=True, eq=False)
class CellProgress:
    """The progress of one cell.

    label: of its model.
    passes: per example, including the one that judges it, and its share of those of a fit.
    expected: the number of examples of the plan.
    n: the number of stored outcomes, those of earlier runs included.
    right: the number of right predictions among them.
    missing: the number of outcomes that this run still computes.
    failures: the number of spans for which the cell failed in this run.
    workers: the number of workers that compute it now.
    change: the number of the last event of this cell in this run; 0 if there is none.
    pace: seconds per example in this run.
    """

    label: str
    passes: int
    expected: int
    n: int = 0
    right: int = 0
    missing: int = 0
    failures: int = 0
    workers: int = 0
    change: int = 0

    def __post_init__(self) -> None:
        self.pace = Pace()


class RunProgress:
    """The progress of a run, which the scheduler updates and listeners read, also from other threads.

    cells: the progress of the selected cells, by label and name of the perturbation ("clean"), in the plan's order.
        Cells of one key share a progress.
    work: the number of outcomes to compute; `computed` of them are stored by now.
    failures: the number of failures, and `last_failure` the last one, with the name of its cell.
    name_of: the name of the perturbation by label of the model and key of the cell; two labels may share a key.
    workers: the number of workers.
    clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        cells: Mapping[tuple[str, str], CellProgress],
        *,
        name_of: Mapping[tuple[str, str], str] | None = None,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cells, self.name_of, self.workers, self._clock = dict(cells), dict(name_of or {}), workers, clock
        self._distinct = list(dict.fromkeys(cells.values()))
        self.work = sum(cell.missing for cell in self._distinct)
        self.computed = self.failures = self.changes = 0
        self.last_failure = ""
        self._all_passes = self._left_passes = sum(cell.missing * cell.passes for cell in self._distinct)
        self._estimate: tuple[int, float | None] = (-1, None)  # the number of changes that it belongs to
        self._begun = self._last = clock()
        self._outcomes = self._seconds = 0.0  # both decay, their ratio is the rate
        self._measured = 0.0
        self._models = {label: Pace() for label, _ in cells}
        self._passes = Pace()
        self._units = Pace()  # seconds of units over those of their cells
        self._unit_seconds = dict.fromkeys(self._models, 0.0)

    @classmethod
    def of(
        cls,
        cells: Sequence[Cell],
        n: int,
        stored: Mapping[str, Counts],
        missing: Mapping[str, Sequence[Span]],
        workers: int,
    ) -> RunProgress:
        """Make the progress at the begin of a run.

        n: the number of examples per cell.
        stored, missing: counts, and spans to compute, by key.
        """
        by_key, found = dict[str, CellProgress](), dict[tuple[str, str], CellProgress]()
        for cell in cells:
            if cell.key not in by_key:
                cost, counts = cell.cost, stored.get(cell.key, Counts(0, 0))
                fit = -(-(cost.fit_forwards + 2 * cost.fit_gradients) // max(1, n))
                by_key[cell.key] = CellProgress(
                    label=cell.model.label, passes=1 + cost.forwards + 2 * cost.gradients + fit, expected=n,
                    n=counts.n, right=counts.right, missing=sum(stop - start for start, stop in missing[cell.key]),
                )  # fmt: skip
            found[cell.model.label, cell.short_name] = by_key[cell.key]
        names = {(cell.model.label, cell.key): cell.short_name for cell in cells}
        return cls(found, name_of=names, workers=workers)

    @cached_property
    def expected(self) -> int:
        """The largest number of examples of a cell."""
        return max((cell.expected for cell in self._distinct), default=0)

    @cached_property
    def labels(self) -> list[str]:
        """The labels of the models, in the plan's order."""
        return list(self._models)

    @cached_property
    def names(self) -> list[str]:
        """The names of the perturbations, "clean" included, in the plan's order."""
        return list(dict.fromkeys(name for _, name in self.cells))

    # --- events ------------------------------------------------------------------------------------------------

    def started(self, label: str, name: str) -> None:
        """Note that a worker computes a cell."""
        self.cells[label, name].workers += 1
        self._touch(self.cells[label, name])

    def left(self, label: str, name: str) -> None:
        """Note that a worker computes a cell no more, whether or not it has finished it."""
        self.cells[label, name].workers -= 1
        self._touch(self.cells[label, name])

    def stored(self, label: str, name: str, span: Span, right: int | None, seconds: float) -> None:
        """Note that a cell is stored for a span.

        right: the number of right predictions; None if it is not known, so that `recounted` must follow.
        seconds: of computation; 0 if they are not known.
        """
        cell, n, now = self.cells[label, name], span[1] - span[0], self._clock()
        decay = math.exp((self._last - now) / RATE_SECONDS)
        self._outcomes = self._outcomes * decay + n
        self._seconds, self._last = self._seconds * decay + now - self._last, now
        self.computed += n
        self._set_missing(cell, max(0, cell.missing - n))
        if right is not None:
            cell.n, cell.right = min(cell.expected, cell.n + n), cell.right + right
        if seconds > 0:
            self._measured += seconds
            self._unit_seconds[label] += seconds
            cell.pace.add(seconds, n)
            for pace in (self._models[label], self._passes):
                pace.add(seconds, n * cell.passes)
        self._touch(cell)

    def failed(self, label: str, name: str, span: Span, failure: Failure, *, is_given_up: bool) -> None:
        """Note that a cell failed for a span.

        is_given_up: whether the cell's other missing outcomes are not computed in this run either.
        """
        cell = self.cells[label, name]
        cell.failures += 1
        self._set_missing(cell, 0 if is_given_up else max(0, cell.missing - (span[1] - span[0])))
        self.failures += 1
        self.last_failure = f"{label}, {name}: {failure}"
        self._touch(cell)

    def recounted(self, label: str, name: str, counts: Counts, missing: int) -> None:
        """Note what the store has of a cell, if events do not say it.

        missing: the number of outcomes that this run still computes.
        """
        cell = self.cells[label, name]
        cell.n, cell.right = counts.n, counts.right
        self._set_missing(cell, missing)
        self._touch(cell)

    def unit_done(self, label: str, seconds: float) -> None:
        """Note the duration of a unit, which exceeds that of its cells, e.g. by reading of examples."""
        of_cells, self._unit_seconds[label] = self._unit_seconds[label], 0.0
        if of_cells:
            self._units.add(max(seconds, of_cells), of_cells)

    def _set_missing(self, cell: CellProgress, missing: int) -> None:
        self._left_passes += (missing - cell.missing) * cell.passes
        cell.missing = missing

    def _touch(self, cell: CellProgress) -> None:
        self.changes += 1
        cell.change = self.changes

    # --- numbers -----------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds since the begin of the run."""
        return self._clock() - self._begun

    @property
    def rate(self) -> float | None:
        """Outcomes per second, of the last minute above all; None before the first one."""
        return self._outcomes / self._seconds if self._seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is computed, by the pace of each cell, or else by passes at the pace of its model.

        None before the first MEASURED_SECONDS of computation. The estimate for a model that has not run yet is the
        pace of the models that have.
        """
        changes, seconds = self._estimate
        if changes != self.changes:
            seconds = self._estimated()
            self._estimate = (self.changes, seconds)
        return None if seconds is None else max(0.0, seconds - (self._clock() - self._last))

    def _estimated(self) -> float | None:
        """Return the seconds that were left at the last event."""
        if self._measured < MEASURED_SECONDS or self._passes.value is None:
            return None
        paces = {label: pace.value or self._passes.value for label, pace in self._models.items()}
        seconds = 0.0
        for cell in self._distinct:
            if cell.missing:
                seconds += cell.missing * (cell.pace.value or cell.passes * paces[cell.label])
        return seconds * (self._units.value or 1.0) / self.workers

    @property
    def fraction(self) -> float:
        """The share of this run's passes that is not left, from 0 to 1; cells that failed have none left."""
        return 1 - self._left_passes / self._all_passes if self._left_passes else 1.0
