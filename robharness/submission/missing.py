"""The missing work of a plan, by positions of the examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from robharness.planning.cells import Cell, Plan, matches
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Covered:
    """Positions that a job computes, or will compute.

    only: the glob of its cells; None for all.
    """

    span: Span
    only: str | None


class MissingWork:
    """The spans that each cell of a plan misses. Work is counted in passes of one example, as attacks declare them.

    Cells that wait for a training miss all positions.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._n, store = plan.n, store.listed()
        self._spans = [
            (cell, store.missing(cell.key, plan.n) if cell.key else uncovered([], (0, plan.n)))
            for cell in (*plan.cells, *plan.pending_cells)
        ]
        self._selected: dict[str | None, list[tuple[Cell, list[Span]]]] = {None: self._spans}

    def without(self, by: Sequence[Covered]) -> MissingWork:
        """Return what is missing and is computed by no job."""
        found = copy(self)
        spans_of = {only: [each.span for each in by if each.only == only] for only in {each.only for each in by}}
        found._spans = []
        for cell, missing in self._spans:
            covered = [
                span for only, spans in spans_of.items() if only is None or matches(cell, only) for span in spans
            ]
            found._spans.append((cell, [part for span in missing for part in uncovered(covered, span)]))
        found._selected = {None: found._spans}
        return found

    def outcomes(self, span: Span, only: str | None = None) -> int:
        """Return the number of outcomes, cells times examples, that are missing in a span.

        only: a glob of cells; None for all.
        """
        return sum(_length(spans, span) for _, spans in self._of(only))

    def all_outcomes(self, span: Span, only: str | None = None) -> int:
        """Return the number of outcomes of a span, stored or not."""
        return max(0, min(span[1], self._n) - span[0]) * len(self._of(only))

    @property
    def complete_cells(self) -> int:
        """The number of cells that miss nothing."""
        return sum(not spans for _, spans in self._spans)

    def work(self, span: Span, only: str | None = None) -> float:
        """Return the missing work in a span."""
        return sum(self.by_model(span, only).values())

    def by_model(self, span: Span, only: str | None = None) -> dict[str, float]:
        """Return the missing work in a span by the full name of the model; models without any are left out."""
        found: dict[str, float] = {}
        for cell, spans in self._of(only):
            if n := _length(spans, span):
                name = cell.model.entry.name
                found[name] = found.get(name, 0.0) + n * passes(cell)
        return found

    def _of(self, only: str | None) -> list[tuple[Cell, list[Span]]]:
        """Return the cells that a glob selects, with what they miss."""
        if only not in self._selected:
            self._selected[only] = [each for each in self._spans if only is not None and matches(each[0], only)]
        return self._selected[only]


def passes(cell: Cell) -> int:
    """Return the passes of one example that a cell makes, with the one that judges it; a gradient is two."""
    return 1 + cell.cost.forwards + 2 * cell.cost.gradients


def seconds_of(work: Mapping[str, float], speeds: Mapping[str, float]) -> float | None:
    """Return the seconds that one worker needs; None if the speed of a model is not known.

    work: passes by full name of the model.
    speeds: seconds per pass by the same names.
    """
    if any(name not in speeds for name in work):
        return None
    return float(sum(count * speeds[name] for name, count in work.items()))


def _length(spans: Iterable[Span], within: Span) -> int:
    return sum(max(0, min(stop, within[1]) - max(start, within[0])) for start, stop in spans)
