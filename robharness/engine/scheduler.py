"""Schedule missing cells on workers in units of about one minute. Running again resumes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robharness.engine.events import (
    BatchSizeReduced,
    CellFinished,
    CellStarted,
    Event,
    ModelLoaded,
    ModelLoadFailed,
    UnitFinished,
    WorkerDied,
    WorkerFailed,
)
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.executors.inprocess import InProcessWorker
from robharness.engine.executors.subprocess import SubprocessWorker, events
from robharness.engine.listeners import RunListener
from robharness.engine.provenance import differences, inexact_passes
from robharness.engine.summary import Speed, Summary
from robharness.engine.units import Unit, UnitSize, next_unit
from robharness.errors import ContractViolation, StoreError, UserError
from robharness.planning.cells import BLOCK, Cell, Plan
from robharness.store.failures import Failure
from robharness.store.spans import Span, uncovered
from robharness.store.store import Store

DEATHS = 2
"""Processes that may die over one thing before it counts as failed."""
LOSSES = 3
"""How often parts of a cell may vanish, by another run's `--fresh`, before the store is to blame."""


@dataclass
class WorkerState:
    """A hand and what it has: the label that it loads or has loaded, units, and the cell in hand.

    deaths: while it loaded a model, by label; cannot: labels that it cannot load, although others can.
    """

    setup: WorkerConfig
    hand: InProcessWorker | SubprocessWorker
    label: str | None = None
    is_loaded: bool = False
    is_busy: bool = False
    unit: Unit | None = None
    ahead: Unit | None = None
    key: str | None = None
    deaths: Counter[str] = field(default_factory=Counter)
    cannot: set[str] = field(default_factory=set)


class Scheduler:
    """A run in hand.

    gaps: key -> spans that are missing and that nobody has. retries: units whose process died. failed: keys of cells
    that are left alone for the rest of the run. given_up: spans over which processes died, by key. lost: how often what
    was stored of a cell vanished.
    """

    def __init__(
        self, plan: Plan, store: Store, listener: RunListener, summary: Summary, stop_at_failure: bool
    ) -> None:
        self.plan, self.store, self.listener, self.summary = plan, store, listener, summary
        self.stop_at_failure = stop_at_failure
        self.interrupted = threading.Event()
        start, stop = plan.span
        self.gaps = {cell.key: store.missing(cell.key, stop, start) for cell in plan.cells}
        self.blocks = {cell.key for cell in plan.cells if cell.perturbation and cell.perturbation.needs_blocks}
        self.cells: dict[str, dict[str, Cell]] = {model.label: {} for model in plan.models}
        for cell in plan.cells:
            if self.gaps[cell.key]:
                self.cells[cell.model.label][cell.key] = cell
        self.sizes: dict[str, UnitSize] = {}
        self.states: dict[str, str] = {}
        self.slots: list[WorkerState] = []
        self.retries: list[Unit] = []
        self.failed: set[str] = set()
        self.given_up: dict[str, list[Span]] = {}
        self.lost: Counter[str] = Counter()

    def warn(self, warning: str) -> None:
        """Say it now, and in the report."""
        if warning not in self.summary.warnings:
            self.summary.warnings.append(warning)
            self.listener.message(f"warning: {warning}")

    @property
    def goes_on(self) -> bool:
        return not self.interrupted.is_set() and not (self.stop_at_failure and self.summary.failures)

    def go(
        self, kind: type[InProcessWorker] | type[SubprocessWorker], setups: Sequence[WorkerConfig], write_record: Any
    ) -> None:
        """Give units to hands until nothing is missing, or this run does not go on."""
        try:
            for setup in setups:
                self.slots.append(WorkerState(setup, kind(self.plan, self.store, setup)))
            while True:
                for slot in self.slots:
                    if not self.goes_on:
                        slot.hand.stop()
                    elif not slot.is_busy:
                        self.give(slot)
                busy = {slot.hand: slot for slot in self.slots if slot.is_busy}
                if not busy:
                    return
                for hand, event in events(list(busy)):
                    self.take(busy[hand], event)
                    if isinstance(event, UnitFinished):
                        write_record()
        finally:
            for slot in self.slots:
                slot.hand.close()

    # --- what to do --------------------------------------------------------------------------------------------

    def open_keys(self, label: str) -> list[str]:
        return [key for key in self.cells[label] if self.gaps[key] and key not in self.failed]

    def has_work(self, label: str) -> bool:
        waiting = [key for unit in self.retries if unit.label == label for key in unit.keys if key not in self.failed]
        return bool(self.open_keys(label) or waiting)

    def give(self, slot: WorkerState) -> None:
        """A unit of the slot's model, or else the model that the fewest hands have; nothing if nothing is left."""
        labels = [label for label in self.cells if self.has_work(label) and label not in slot.cannot]
        slot.ahead = self.without_failed(slot.ahead)
        if slot.ahead is None and slot.label not in labels:
            if labels:
                hands = Counter(other.label for other in self.slots)
                slot.label, slot.is_loaded, slot.is_busy = min(labels, key=lambda label: hands[label]), False, True
                slot.hand.load(slot.label)
            return
        assert slot.label is not None
        slot.unit = slot.ahead or self.cut(slot.label)
        slot.ahead = self.cut(slot.label)
        if slot.unit is not None:
            slot.is_busy = True
            slot.hand.do(slot.unit, slot.ahead)

    def cut(self, label: str) -> Unit | None:
        """The next unit of a model, which nobody else gets; None if there is none."""
        for unit in self.retries:
            if unit.label == label:
                self.retries.remove(unit)
                return self.without_failed(unit) or self.cut(label)
        keys = self.open_keys(label)
        most = max((sum(stop - start for start, stop in self.gaps[key]) for key in keys), default=0)
        size = self.sizes[label].examples(most, len(self.slots))
        found = next_unit(keys, self.gaps, size, BLOCK if self.blocks & set(keys) else 1)
        if found is None:
            return None
        span, due = found
        for key in due:
            self.gaps[key] = [rest for gap in self.gaps[key] for rest in uncovered([span], gap)]
        return Unit(label=label, span=span, keys=tuple(due))

    def without_failed(self, unit: Unit | None) -> Unit | None:
        keys = tuple(key for key in unit.keys if key not in self.failed) if unit else ()
        return replace(unit, keys=keys) if unit and keys else None

    # --- what came of it ---------------------------------------------------------------------------------------

    def take(self, slot: WorkerState, event: Event) -> None:
        """Learn of an event of the slot's hand."""
        label = slot.label
        assert label is not None
        if isinstance(event, ModelLoaded):
            slot.is_busy = False
            self.ready(slot, label, event)
        elif isinstance(event, ModelLoadFailed):
            slot.is_busy, slot.label = False, None
            has_it = any(other.label == label and other.is_loaded for other in self.slots)
            self.cannot_load(slot, label, has_it, ContractViolation(event.error, by=event.by), event.traceback)
        elif isinstance(event, CellStarted):
            slot.key = event.key
        elif isinstance(event, CellFinished):
            slot.key = None
            self.done(self.cells[label][event.key], event.span, event.failure)
        elif isinstance(event, BatchSizeReduced):
            self.warn(
                f"{label}: memory was too small for {event.before} examples per pass; it goes on with {event.rows}"
            )
            if slot.is_loaded:
                self.sizes[label].shrink(event.rows)
                self.summary.speed[label].rows = event.rows
        elif isinstance(event, UnitFinished):
            self.finished(slot, label, event)
        elif isinstance(event, WorkerDied):
            self.died(slot, label, event.how)
        elif isinstance(event, WorkerFailed):
            if not event.is_bug:
                raise UserError(event.error)
            if slot.unit is None:
                raise _worker_error(event.error)
            self.died(slot, label, event.error.strip().splitlines()[-1])  # as after an error that breaks a whole GPU

    def ready(self, slot: WorkerState, label: str, event: ModelLoaded) -> None:
        slot.is_loaded = True
        try:
            self.check_state(label, event.state)
        except ContractViolation as error:
            slot.label = None
            self.fail_all(label, error)
            return
        if label not in self.sizes:
            self.sizes[label] = UnitSize(rows=event.rows, values=event.values)
            self.summary.speed[label] = Speed(model=self.model_name(label), rows=event.rows)
            for warning in (*map(str, inexact_passes(label, event.provenance)), *self.changes(label, event.provenance)):
                self.warn(warning)

    def done(self, cell: Cell, span: Span, failure: Failure | None) -> None:
        if failure is None:
            self.summary.computed += span[1] - span[0]
        else:
            self.summary.failures.append(failure)
            self.failed.add(cell.key)
        self.listener.cell_done(cell, span, failure)

    def finished(self, slot: WorkerState, label: str, event: UnitFinished) -> None:
        unit, slot.unit, slot.is_busy = slot.unit, None, False
        assert unit is not None
        self.sizes[label].took(unit.span[1] - unit.span[0], event.seconds)
        speed = self.summary.speed[label]
        speed.forward += event.passes.get("forward", 0)
        speed.backward += event.passes.get("backward", 0)
        speed.seconds += event.seconds
        speed.waited += event.waited
        for key in unit.keys:
            missing = self.store.missing(key, unit.span[1], unit.span[0])
            if missing and key not in self.failed and self.goes_on:
                name = self.cells[label][key].name
                self.lost[key] += 1
                if self.lost[key] > LOSSES:
                    raise StoreError(
                        f"{self.store} takes parts of '{name}' and does not keep them. See: df {self.store}"
                    )
                self.warn(f"what was stored of '{name}' is gone; was it forgotten by another run? It is computed again")
            self.gaps[key] = self.still_open(key)  # another run may have been here meanwhile

    def still_open(self, key: str) -> list[Span]:
        """What is missing of a cell and nobody has in hand."""
        in_hand = [unit for slot in self.slots for unit in (slot.unit, slot.ahead) if unit] + self.retries
        start, stop = self.plan.span
        taken = [*(unit.span for unit in in_hand if key in unit.keys), *self.given_up.get(key, ())]
        return uncovered([*self.store.spans(key), *taken], (start, stop))

    def died(self, slot: WorkerState, label: str, how: str) -> None:
        """Go on without what the process had: another one gets it, and after two deaths it counts as failed."""
        slot.hand.close()
        unit, ahead, key = slot.unit, slot.ahead, slot.key
        slot.unit = slot.ahead = slot.key = None
        self.warn(f"{label}: a worker process died ({how}); what it had in hand was given to another one")
        if unit is None:
            slot.deaths[label] += 1
            if slot.deaths[label] >= DEATHS:
                error = ContractViolation(f"{DEATHS} worker processes died while they loaded it: {how}", by="model")
                may_have_it = any(other.label == label for other in self.slots if other is not slot)
                self.cannot_load(slot, label, may_have_it, error)
        if ahead is not None:
            self.retries.append(ahead)
        if unit is not None:
            deaths = unit.deaths + 1
            keys = tuple(key for key in unit.keys if self.store.missing(key, unit.span[1], unit.span[0]))
            if deaths >= DEATHS:
                blamed = [key] if key in keys else list(keys)
                for each in blamed:
                    self.fail(self.cells[label][str(each)], unit.span, ContractViolation(
                        f"{DEATHS} worker processes died over its examples {unit.span[0]} to {unit.span[1] - 1}: {how}"
                    ))  # fmt: skip
                    self.failed.discard(str(each))  # its other examples may be harmless
                    self.given_up.setdefault(str(each), []).append(unit.span)
                keys, deaths = tuple([each for each in keys if each not in blamed]), 0
            if keys:
                self.retries.append(replace(unit, keys=keys, deaths=deaths))
        slot.label, slot.is_busy = None, False
        if self.goes_on:
            try:
                slot.hand = SubprocessWorker(self.plan, self.store, slot.setup)
            except UserError as error:
                self.slots.remove(slot)
                if not self.slots:
                    raise
                self.warn(f"{error}; the run goes on with {len(self.slots)}")

    def fail(self, cell: Cell, span: Span, error: ContractViolation, details: str = "") -> None:
        failure = Failure.of(cell, span, error)
        failure = replace(failure, traceback=details) if details else failure
        self.store.write_failure(cell.key, failure)
        self.done(cell, span, failure)

    def cannot_load(
        self, slot: WorkerState, label: str, elsewhere: bool, error: ContractViolation, details: str = ""
    ) -> None:
        """The model fails, unless it is loaded elsewhere: then this hand does something else."""
        if elsewhere:
            slot.cannot.add(label)
            self.warn(f"{label}: one of the workers cannot load it: {error}")
        else:
            self.fail_all(label, error, details)

    def fail_all(self, label: str, error: ContractViolation, details: str = "") -> None:
        """Nothing more of the model can be computed."""
        for unit in [unit for unit in self.retries if unit.label == label]:
            self.retries.remove(unit)
            for key in unit.keys:
                self.fail(self.cells[label][key], unit.span, error, details)
        for key in self.open_keys(label):
            self.fail(self.cells[label][key], self.plan.span, error, details)

    # --- how it was made ---------------------------------------------------------------------------------------

    def model_name(self, label: str) -> str:
        return next(model.entry.name for model in self.plan.models if model.label == label)

    def cells_of(self, label: str) -> list[Cell]:
        """Every cell of the model in the suite, those that are not asked for as well."""
        return [cell for cell in (*self.plan.cells, *self.plan.unselected_cells) if cell.model.label == label]

    def check_state(self, label: str, state: str) -> None:
        """Refuse to put outcomes beside those of another network under the same name."""
        recorded = {way.get("model_state") for cell in self.cells_of(label) for way in self.store.provenance(cell.key)}
        if not {*recorded, self.states.setdefault(label, state)} <= {state}:
            raise ContractViolation(
                "it builds another network than the one whose outcomes are stored, from the same weights and "
                f"options; raise its `revision`, or type: robharness run SUITE --fresh '{label}'",
                by="model",
            )
        for cell in self.cells[label].values():
            self.store.describe(cell)

    def changes(self, label: str, provenance: dict[str, Any]) -> list[str]:
        """What is different now from how the parts that are there were made."""
        found = dict[str, None]()
        for cell in self.cells_of(label):
            for way in self.store.provenance(cell.key):
                for name, before, now in differences(way, provenance):
                    text = f"{label}: {name} was {before} when some of it was computed, now it is {now}"
                    found[f"{text}; to compute all of it again: --fresh '{label}'"] = None
        return list(found)


def _worker_error(details: str) -> RuntimeError:
    """A bug that showed in another process, with its traceback as a note."""
    error = RuntimeError(f"in a worker process: {details.strip().splitlines()[-1]}")
    error.add_note(details)
    return error
