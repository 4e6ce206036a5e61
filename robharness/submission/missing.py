"""The missing work of a plan, by positions of the examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    plan: cells that wait for a training miss all positions.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self._spans = [
            (cell, store.missing(cell.key, plan.n) if cell.key else [(0, plan.n)])
            for cell in (*plan.cells, *plan.pending_cells)
            if plan.n
        ]

    def outcomes(self, span: Span, only: str | None = None) -> int:
        """Return the number of outcomes, cells times examples, that are missing in a span."""
        return sum(_length(spans, span) for cell, spans in self._spans if only is None or matches(cell, only))

    def all_outcomes(self, span: Span, only: str | None = None) -> int:
        """Return the number of outcomes of a span, stored or not."""
        length = max(0, min(span[1], self.plan.n) - span[0])
        return length * sum(only is None or matches(cell, only) for cell, _ in self._spans)

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
        for cell, spans in self._spans:
            if (only is None or matches(cell, only)) and (n := _length(spans, span)):
                name = cell.model.entry.name
                found[name] = found.get(name, 0.0) + n * passes(cell)
        return found

    def is_covered(self, span: Span, by: Sequence[Covered]) -> bool:
        """Return whether jobs compute all that is missing in a span."""
        return all(not _length(uncovered_in(missing, _spans_of(cell, by)), span) for cell, missing in self._spans)


def passes(cell: Cell) -> int:
    """Return the passes of one example that a cell makes, with the one that judges it; a gradient is two."""
    return 1 + cell.cost.forwards + 2 * cell.cost.gradients


def uncovered_in(spans: Iterable[Span], by: Sequence[Span]) -> list[Span]:
    """Return the parts of spans that no other span covers."""
    return [part for span in spans for part in uncovered(by, span)]


def seconds_of(work: Mapping[str, float], speeds: Mapping[str, float]) -> float | None:
    """Return the seconds that one worker needs; None if the speed of a model is not known.

    work: passes by full name of the model.
    speeds: seconds per pass by the same names.
    """
    if any(name not in speeds for name in work):
        return None
    return float(sum(count * speeds[name] for name, count in work.items()))


def _spans_of(cell: Cell, by: Sequence[Covered]) -> list[Span]:
    return [each.span for each in by if each.only is None or matches(cell, each.only)]


def _length(spans: Iterable[Span], within: Span) -> int:
    return sum(max(0, min(stop, within[1]) - max(start, within[0])) for start, stop in spans)
