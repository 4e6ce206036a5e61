"""The outcomes that a run still has to compute, and the units of work that are cut from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from robharness.engine.units import Unit, UnitPlanner, UnitSize
from robharness.planning.cells import BLOCK, Cell, Plan
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store


class WorkQueue:
    """The outcomes that a run still has to compute, by model.

    cells: those that miss any outcome when the run begins, by label and key.
    missing_spans: by key, spans that are missing and that no unit has.
    unit_sizes: by label, the size of the model's units; of models that were loaded once.
    retries: units whose worker died.
    failed: keys of cells that are not computed again in this run.
    given_up: by key, spans over which workers died.
    """

    def __init__(self, plan: Plan, store: Store, plan_unit: UnitPlanner) -> None:
        self.plan_unit = plan_unit
        start, stop = plan.span
        listed = store.listed()
        self.missing_spans = {cell.key: listed.missing(cell.key, stop, start) for cell in plan.cells}
        self.block_keys = {cell.key for cell in plan.cells if cell.perturbation and cell.perturbation.needs_blocks}
        self.cells: dict[str, dict[str, Cell]] = {model.label: {} for model in plan.models}
        for cell in plan.cells:
            if self.missing_spans[cell.key]:
                self.cells[cell.model.label][cell.key] = cell
        self.unit_sizes: dict[str, UnitSize] = {}
        self.retries: list[Unit] = []
        self.failed: set[str] = set()
        self.given_up: dict[str, list[Span]] = {}

    def open_keys(self, label: str) -> list[str]:
        """Return the keys of a model's cells that miss spans which no unit has."""
        return [key for key in self.cells[label] if self.missing_spans[key] and key not in self.failed]

    def has_work(self, label: str) -> bool:
        """Return whether a model has outcomes or units that no worker has."""
        retried = [key for unit in self.retries if unit.label == label for key in unit.keys if key not in self.failed]
        return bool(self.open_keys(label) or retried)

    def next_unit(self, label: str, workers: int) -> Unit | None:
        """Reserve the next unit of a model and return it, or None if there is none.

        workers: the number that share the work.
        """
        for unit in self.retries:
            if unit.label == label:
                self.retries.remove(unit)
                return self.without_failed(unit) or self.next_unit(label, workers)
        keys = self.open_keys(label)
        most = max((sum(stop - start for start, stop in self.missing_spans[key]) for key in keys), default=0)
        size = self.unit_sizes[label].examples(most, workers)
        planned = self.plan_unit(keys, self.missing_spans, size, BLOCK if self.block_keys & set(keys) else 1)
        if planned is None:
            return None
        span, due = planned
        for key in due:
            self.missing_spans[key] = [rest for gap in self.missing_spans[key] for rest in uncovered([span], gap)]
        return Unit(label=label, span=span, keys=tuple(due))

    def without_failed(self, unit: Unit | None) -> Unit | None:
        """Return a unit without the cells that have failed meanwhile; None if none is left."""
        keys = tuple(key for key in unit.keys if key not in self.failed) if unit else ()
        return replace(unit, keys=keys) if unit and keys else None

    def taken_spans(self, label: str, assigned: Iterable[Unit]) -> dict[str, list[Span]]:
        """Return the spans of a model's cells that units of any label have, or that are given up, by key.

        assigned: the units that workers have.
        """
        found = {key: list(self.given_up.get(key, ())) for key in self.cells[label]}
        for unit in (*assigned, *self.retries):
            for key in found.keys() & unit.keys:
                found[key].append(unit.span)
        return found

    def withdraw_retries(self, label: str) -> list[Unit]:
        """Remove the units of a model that wait for another worker, and return them."""
        withdrawn = [unit for unit in self.retries if unit.label == label]
        self.retries = [unit for unit in self.retries if unit.label != label]
        return withdrawn
