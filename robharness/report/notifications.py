"""The facts that plugins are notified of: the beginning of a run, and the cells that become complete during it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from robharness.errors import UserError
from robharness.findings import Finding, finding
from robharness.planning.cells import Cell, Plan
from robharness.plugins.observers import CELL_FINISHED, RunStarted, notify
from robharness.plugins.registry import PluginOrigin, Registry
from robharness.report.build import cell_numbers
from robharness.report.summary import CellSummary, summarise
from robharness.store import results
from robharness.store.store import Store


def run_started(plan: Plan, store: Store, options: Mapping[str, str | int | None]) -> RunStarted:
    """Return the facts of a run that begins.

    plan: with the selected cells.
    options: name -> option of the run; None for options that are not given.
    """
    suite = plan.suite
    cells, pending = ([cell for cell in some if cell.is_own] for some in (plan.cells, plan.pending_cells))
    listed = store.listed()
    facts: dict[str, str | int] = {
        "data": plan.data.name if plan.data else suite.data.name,
        "n": plan.n,
        "count": suite.count,
        "seed": suite.seed,
        "precision": suite.precision.judge,
        "compat": suite.compat,
        **({"set": " ".join(suite.settings)} if suite.settings else {}),
    }
    return RunStarted(
        suite=suite.name,
        title=suite.title or suite.name,
        models=tuple(model.label for model in suite.models),
        cells=tuple(cell.name for cell in (*cells, *pending)),
        missing=sum(bool(listed.missing(cell.key, plan.n)) for cell in cells) + len(pending),
        n=plan.n,
        command=plan.command("run"),
        store=str(store),
        parameters=facts | {name: value for name, value in options.items() if value is not None},
    )


class CellNotifications:
    """A function that shows cells that became complete to the hooks `robharness_cell_finished` of plugins.

    A perturbed cell waits for the clean cell of its model, since its relative drop needs both.

    plan: of the whole suite.
    """

    def __init__(self, plan: Plan, store: Store, registry: Registry) -> None:
        self.plan, self.registry = plan, registry
        self._store = Store(store.given)  # its own, since reading adds findings to a store
        self._waiting: dict[str, list[Cell]] = {}
        self._known: set[str] = set()
        self._failed: set[PluginOrigin] = set()
        clean = (
            {cell.key for cell in plan.cells if cell.kind == "clean"} if registry.observers[CELL_FINISHED] else set()
        )
        self._complete_before = {key for key in clean if not self._store.missing(key, plan.n)}

    def __call__(self, cell: Cell) -> list[Finding]:
        """Show the cell, if it is complete, to the plugins whose hook has not failed; return a finding per failure.

        Cells of other labels that have the same key are complete as well.
        """
        is_observed = bool(self.registry.observers[CELL_FINISHED])
        if not is_observed or cell.key in self._known or self._store.missing(cell.key, self.plan.n):
            return []
        self._known.add(cell.key)
        findings = []
        for each in (each for each in self.plan.cells if each.key == cell.key and each.is_own):
            label = each.model.label
            self._waiting.setdefault(label, []).append(each)
            clean = self._clean(label)
            if each.kind == "clean" or clean.key in self._known | self._complete_before:
                findings += self._show(label)
            elif not self._store.missing(clean.key, self.plan.n):  # stored, but its own turn comes later
                findings += self(clean)
        return findings

    def finish(self) -> list[Finding]:
        """Show the cells that still wait, since their clean cell is not complete; return a finding for each failure."""
        return [found for label in list(self._waiting) for found in self._show(label)]

    def _clean(self, label: str) -> Cell:
        return next(cell for cell in self.plan.cells if cell.model.label == label and cell.kind == "clean")

    def _show(self, label: str) -> list[Finding]:
        """Show the cells of a model that wait, the clean one first."""
        findings = []
        for cell in sorted(self._waiting.pop(label, ()), key=lambda cell: cell.kind != "clean"):
            try:
                numbers = self._numbers(cell)
            except UserError as error:  # the run goes on, and says more if the store cannot be read
                findings.append(finding("observer-failed", f"its numbers cannot be read: {error}", subject=cell.name))
                continue
            failed = notify(self.registry, CELL_FINISHED, partial(_arguments, numbers), without=self._failed)
            self._failed |= set(failed)
            findings += [replace(found, hint="it is not called again in this run") for found in failed.values()]
        return findings

    def _numbers(self, cell: Cell) -> CellSummary:
        cells = (self._clean(cell.model.label), *([cell] if cell.kind != "clean" else []))
        found = results.load(replace(self.plan, cells=cells), self._store)
        return summarise(cell_numbers(found, found.cells[-1]))


def _arguments(numbers: CellSummary) -> dict[str, CellSummary]:
    return {"cell": replace(numbers)}
