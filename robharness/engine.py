"""Turn a plan into units of about a minute, and do what is missing: running again is resuming."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from robharness.cells import Cell, Plan, PlannedModel
from robharness.errors import StoreError, Violation
from robharness.store import Failure, Span, Store

if TYPE_CHECKING:
    from robharness.worker import Loaded

UNIT_SECONDS = 60.0
MAX_SPAN_BYTES = 512 * 2**20
"""Of float32 inputs that a unit holds at once."""


class Listener(Protocol):
    """What is told of a run's progress."""

    def started(self, work: int, cells: int) -> None:
        """work: cells times examples that are missing, in so many cells."""

    def cell_done(self, cell: Cell, span: Span, failure: Failure | None) -> None: ...

    def say(self, message: str) -> None: ...

    def finished(self) -> None: ...


@dataclass
class Summary:
    """What a run did. computed: cells times examples; interrupted: by Ctrl-C."""

    computed: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0
    passes: dict[str, dict[str, int]] = field(default_factory=dict)


def run(
    plan: Plan,
    store: Store,
    listener: Listener,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    stop_at_failure: bool = False,
) -> Summary:
    """Compute the cells of the plan that the store misses; failures are recorded, and the rest goes on.

    device: "cpu", "cuda", "cuda:1" and so on. batch_size: examples per pass. Raises StoreError where nothing can be
    written. The first Ctrl-C ends the run after the cell in hand.
    """
    begun = time.perf_counter()
    gaps = {cell.key: store.missing(cell.key, plan.n) for cell in plan.cells}
    work = sum(stop - start for spans in gaps.values() for start, stop in spans)
    listener.started(work, sum(1 for spans in gaps.values() if spans))
    summary = Summary()
    with _interruptible(listener) as interrupted:
        state = _Run(plan, store, listener, gaps, interrupted, device, batch_size, stop_at_failure, summary)
        try:
            for model in plan.models:
                cells = {cell.key: cell for cell in plan.cells if cell.model is model and gaps[cell.key]}
                if cells and state.goes_on:
                    state.measure(model, list(cells.values()))
            for cell in plan.cells:
                store.join(cell.key, plan.n)
        finally:
            listener.finished()
    summary.interrupted = interrupted.is_set()
    summary.seconds = time.perf_counter() - begun
    if work:
        store.write_run({"suite": str(plan.suite.path), "device": device, "examples": plan.n, **asdict(summary)})
    return summary


@dataclass
class _Run:
    """A run in hand. gaps: key -> spans that are still missing."""

    plan: Plan
    store: Store
    listener: Listener
    gaps: dict[str, list[Span]]
    interrupted: threading.Event
    device: str
    batch_size: int | None
    stop_at_failure: bool
    summary: Summary

    @property
    def goes_on(self) -> bool:
        return not self.interrupted.is_set() and not (self.stop_at_failure and self.summary.failures)

    def measure(self, model: PlannedModel, cells: list[Cell]) -> None:
        """Do the model's cells, unit by unit. A cell that failed is left alone for the rest of the run."""
        from robharness import worker

        failed: set[str] = set()
        span: Span = (0, self.plan.n)

        def done(cell: Cell, failure: Failure | None) -> bool:
            if failure is None:
                self.summary.computed += span[1] - span[0]
            else:
                self.summary.failures.append(failure)
                failed.add(cell.key)
            self.listener.cell_done(cell, span, failure)
            return self.goes_on

        try:
            loaded = worker.load(self.plan, model, device=self.device, rows=self.batch_size)
            self.check_state(model, cells, loaded.state)
        except Violation as error:
            for cell in cells:
                failure = worker.failure_of(cell, span, error)
                self.store.write_failure(cell.key, failure)
                done(cell, failure)
            return
        self.summary.warnings += [*_inexact(model, loaded.provenance), *self.changes(loaded)]
        size = UnitSize(rows=loaded.classifier.rows, values=prod(model.entry.spec.input.shape))
        while self.goes_on:
            unit = next_unit([cell for cell in cells if cell.key not in failed], self.gaps, size.examples)
            if unit is None:
                break
            span, due = unit
            begun = time.perf_counter()
            worker.run_unit(loaded, due, span, self.store, done)
            size.took(span[1] - span[0], time.perf_counter() - begun)
            for cell in due:
                before, self.gaps[cell.key] = self.gaps[cell.key], self.store.missing(cell.key, self.plan.n)
                if self.gaps[cell.key] == before and cell.key not in failed and self.goes_on:
                    raise StoreError(
                        f"{self.store} took a part of '{cell.name}' and does not have it. See: df {self.store}"
                    )
        self.summary.passes[model.label] = dict(loaded.classifier.passes)

    def cells_of(self, model: PlannedModel) -> list[Cell]:
        """Every cell of the model in the suite, those that are not asked for as well."""
        return [cell for cell in (*self.plan.cells, *self.plan.others) if cell.model is model]

    def check_state(self, model: PlannedModel, due: Sequence[Cell], state: str) -> None:
        """Refuse to put outcomes beside those of another network under the same name."""
        for cell in self.cells_of(model):
            recorded = self.store.description(cell.key)
            if recorded is not None and recorded.get("model_state") != state and self.store.spans(cell.key):
                raise Violation(
                    "it builds another network than the one whose outcomes are stored, from the same weights and "
                    f"options; raise its `revision`, or type: robharness run SUITE --fresh '{cell.model.label}'",
                    by="model",
                )
        for cell in due:
            if not self.store.spans(cell.key):
                self.store.forget_description(cell.key)
            self.store.describe(cell, model_state=state)

    def changes(self, loaded: Loaded) -> list[str]:
        """What is different now from how the parts that are there were made."""
        from robharness.worker import provenance_of

        label, changes = loaded.model.label, dict[str, None]()
        for cell in self.cells_of(loaded.model):
            before = _flat(self.store.provenance(cell.key) or {})
            for name, now in _flat(provenance_of(loaded, cell)).items():
                if name in before and before[name] != now:
                    text = f"{label}: {name} was {before[name]} when some of it was computed, now it is {now}"
                    changes[f"{text}; to compute all of it again: --fresh '{label}'"] = None
        return list(changes)


def _inexact(model: PlannedModel, provenance: dict[str, Any]) -> list[str]:
    broken = [name for name, exact in provenance["exact"].items() if exact is False]
    broken = [name for name in broken if name != "grad_mode" or provenance["exact"]["gradients"] is not None]
    what = {"rows": "logits depend on the neighbours in a pass", "gradients": "gradients depend on the neighbours in a "
            "pass", "grad_mode": "logits differ where gradients are recorded"}  # fmt: skip
    return [f"{model.label}: on this device the last bits of its {what[name]}" for name in broken]


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in facts.items():
        flat.update(
            {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat


def next_unit(cells: Sequence[Cell], gaps: dict[str, list[Span]], size: int) -> tuple[Span, list[Cell]] | None:
    """The first span of at most `size` examples that some cells miss, and those cells; None when all is there."""
    firsts = [gaps[cell.key][0] for cell in cells if gaps[cell.key]]
    if not firsts:
        return None
    start = min(first[0] for first in firsts)
    due = [cell for cell in cells if gaps[cell.key] and gaps[cell.key][0][0] == start]
    ends = [gaps[cell.key][0][1] for cell in due]
    later = [first[0] for first in firsts if first[0] > start]
    return (start, min([start + size, *ends, *later])), due


class UnitSize:
    """How many examples make a unit of about a minute; whole passes, and never more than memory can hold."""

    def __init__(self, rows: int, values: int) -> None:
        self._rows = rows
        self._most = max(rows, MAX_SPAN_BYTES // (4 * values) // rows * rows)
        self.examples = min(4 * rows, self._most)

    def took(self, examples: int, seconds: float) -> None:
        """Learn from a unit; at most eight times the size at once, since the first is cold."""
        wanted = examples * UNIT_SECONDS / max(seconds, 1e-9)
        wanted = min(wanted, 8 * self.examples)
        self.examples = min(max(self._rows, int(wanted) // self._rows * self._rows), self._most)


@contextmanager
def _interruptible(listener: Listener) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, the second one interrupts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        listener.say("stopping after the cell in hand; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
