"""Simulation of a run: the engine's own scheduler with workers whose time passes on a clock of its own.

Nothing is computed and nothing is written. The time of the main process is the real one that the scheduler takes, or a
constant, so that a simulation shows from which number of workers on the main process is too slow.

    python tests/support/simulated.py --models 50 --workers 64 --request 0.001
    python tests/support/simulated.py --models 50 --shard 32/64

print the figures of docs/explanation/scale.md.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import runpy
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robharness import api
from robharness.engine.events import CellFinished, Event, ModelLoaded, UnitFinished
from robharness.engine.executors.base import WorkerConfig
from robharness.engine.listeners import Silent
from robharness.engine.run import run_plan
from robharness.engine.units import Unit
from robharness.planning.cells import Cell, Plan
from robharness.store import Store
from robharness.store.parts import Counts, Part
from robharness.store.spans import Span


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Durations of the work of one worker, in seconds.

    load: building and probing a model, each time that a worker takes up a model.
    start: starting a worker.
    forward, backward: a pass of one example; a gradient is one of both.
    unit: reading and other work per unit.
    cell: writing a part and other work per cell of a unit.
    event: the main process's work per event; measured during the simulation if None.
    request: the main process's wait per listing of the store.
    batch_size: examples per pass.
    input_values: values of one example.
    """

    load: float = 0.0
    start: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    unit: float = 0.0
    cell: float = 0.0
    event: float | None = None
    request: float = 0.0
    batch_size: int = 64
    input_values: int = 3 * 224 * 224

    def seconds(self, cell: Cell, *, is_first: bool) -> float:
        """Return the seconds per example of a cell.

        is_first: whether its attack's gradients at the clean point are not computed yet.
        """
        gradients = cell.cost.gradients + is_first * cell.cost.shared_gradients
        return self.forward * (1 + cell.cost.forwards + gradients) + self.backward * gradients


@dataclass(kw_only=True)
class Simulation:
    """The result of a simulated run.

    seconds: from its begin to its end.
    busy: seconds in which a worker computed units, summed over the workers.
    loading: seconds in which a worker started or loaded a model, likewise.
    main: seconds in which the main process was busy.
    workers, units, loads: their numbers.
    parts: the number of files of outcomes that workers wrote.
    requests: the number of listings by the main process.
    """

    seconds: float
    busy: float
    loading: float
    main: float
    workers: int
    units: int
    loads: int
    parts: int
    requests: int

    @property
    def efficiency(self) -> float:
        """The share of the workers' time in which they computed units."""
        return self.busy / (self.workers * self.seconds)


class CoverageStore(Store):
    """A store that knows which positions of each cell are stored, and holds nothing else."""

    def __init__(self) -> None:
        super().__init__("simulated")
        self._stored: dict[str, list[Span]] = {}
        self.calls: Counter[str] = Counter()

    def add(self, key: str, span: Span) -> None:
        """Note that the outcomes of a span are stored. Adjacent spans become one, so that simulations stay fast."""
        self.calls["part"] += 1
        spans = self._stored.setdefault(key, [])
        at = bisect.bisect(spans, span)
        if at < len(spans) and spans[at][0] == span[1]:
            span = span[0], spans.pop(at)[1]
        if at and spans[at - 1][1] == span[0]:
            at -= 1
            span = spans.pop(at)[0], span[1]
        spans.insert(at, span)

    def parts(self, key: str) -> list[Part]:
        self.calls["listing"] += 1
        return [Part(*span, checksum="0" * 8) for span in self._stored.get(key, [])]

    def verify(self, key: str, n: int, check: Any = None) -> Counts:
        return Counts(sum(part.stop - part.start for part in self.parts(key)), 0, None)

    def provenance(self, key: str) -> list[dict[str, Any]]:
        return []

    def describe(self, cell: Cell) -> None:
        self.calls["description"] += 1

    def join(self, key: str, stop: int, start: int = 0) -> None:
        self.calls["join"] += 1

    def write_json(self, path: Any, facts: Mapping[str, Any]) -> None:
        self.calls["record"] += 1


@dataclass(eq=False)
class SimulatedWorker:
    """A worker whose commands end at a time that its costs determine."""

    executor: SimulatedExecutor
    cells: Mapping[tuple[str, str], Cell]
    is_started: bool = False

    def load(self, label: str) -> None:
        costs, executor = self.executor.costs, self.executor
        seconds = costs.load + (0.0 if self.is_started else costs.start)
        self.is_started = True
        executor.loads += 1
        executor.loading += seconds
        loaded = ModelLoaded(
            state=label, batch_size=costs.batch_size, input_values=costs.input_values, provenance={"model_state": label}
        )
        executor.schedule(self, executor.now + seconds, [loaded])

    def compute(self, unit: Unit, prefetch: Unit | None) -> None:
        costs, executor = self.executor.costs, self.executor
        seen, seconds, examples = set[str](), costs.unit, unit.span[1] - unit.span[0]
        events: list[Event] = []
        for key in unit.keys:
            cell = self.cells[unit.label, key]
            group = (
                f"{cell.perturbation.entry.name} {cell.perturbation.params}" if cell.perturbation is not None else ""
            )
            spent = costs.cell + examples * costs.seconds(cell, is_first=group not in seen)
            seen.add(group)
            seconds += spent
            executor.store.add(key, unit.span)
            events.append(CellFinished(key=key, span=unit.span, failure=None, right=0, seconds=spent))
        events.append(UnitFinished(seconds=seconds, waited=0.0, passes={}))
        executor.units += 1
        executor.busy += seconds
        executor.schedule(self, executor.now + seconds, events)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class SimulatedExecutor:
    """Starts simulated workers, and moves the clock on from event to event.

    now: seconds since the begin of the run, as the main process sees them.
    """

    costs: Costs
    store: CoverageStore
    now: float = 0.0
    busy: float = 0.0
    loading: float = 0.0
    main: float = 0.0
    units: int = 0
    loads: int = 0
    name: str = "simulated"
    can_respawn: bool = False
    needs_request: bool = False
    _due: list[tuple[float, int, SimulatedWorker, list[Event]]] = field(default_factory=list)
    _cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    _order: int = 0
    _since: tuple[float, int] | None = None

    def spawn(self, plan: Plan, store: Store, config: WorkerConfig) -> SimulatedWorker:
        self._cells = self._cells or {(cell.model.label, cell.key): cell for cell in plan.cells}
        return SimulatedWorker(self, self._cells)

    def schedule(self, worker: SimulatedWorker, moment: float, events: list[Event]) -> None:
        """Let events of a worker happen at a time."""
        self._order += 1
        heapq.heappush(self._due, (moment, self._order, worker, events))

    def wait(self, workers: Sequence[SimulatedWorker]) -> Iterator[tuple[SimulatedWorker, Event]]:
        """Yield the events of the worker that ends its command first, after the main process's own time."""
        if self._since is not None:
            begun, listings = self._since
            spent = time.perf_counter() - begun if self.costs.event is None else self.costs.event
            spent += self.costs.request * (self.store.calls["listing"] - listings)
            self.main += spent
            self.now += spent
        moment, _, worker, events = heapq.heappop(self._due)
        self.now = max(self.now, moment)
        self._since = time.perf_counter(), self.store.calls["listing"]
        for event in events:
            yield worker, event


def simulate(plan: Plan, workers: int, costs: Costs) -> Simulation:
    """Run a plan on simulated workers, nothing of it stored before."""
    store = CoverageStore()
    executor = SimulatedExecutor(costs, store)
    summary = run_plan(plan, store, Silent(), executor=executor, workers=workers, threads=1)
    start, stop = plan.span
    assert summary.computed == len(plan.cells) * (stop - start) and not summary.failures
    return Simulation(
        seconds=executor.now, busy=executor.busy, loading=executor.loading, main=executor.main, workers=workers,
        units=executor.units, loads=executor.loads, parts=store.calls["part"], requests=store.calls["listing"],
    )  # fmt: skip


def main() -> None:
    """Print a simulated run of 100 cells a model on 50,000 examples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shard", default="1/1")
    defaults = Costs(start=10.0, load=20.0, forward=0.001, backward=0.002, unit=1.0, cell=0.012, request=0.001)
    for name in ("start", "load", "forward", "backward", "unit", "cell", "request"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    given = vars(parser.parse_args())
    models, workers, (index, count) = given.pop("models"), given.pop("workers"), given.pop("shard").split("/")
    plugin = Path(__file__).parents[1] / "sleeping.py"
    suite = runpy.run_path(str(plugin))["large_suite"](models)
    plan = api.plan(suite, plugins=[str(plugin)]).shard(int(index), int(count))
    found = simulate(plan, workers, replace(defaults, **given))
    print(f"{len(plan.cells)} cells of {plan.span[1] - plan.span[0]} examples, {workers} workers: "
          f"{found.seconds / 3600:.2f} h, {found.efficiency:.1%} of the workers' time in units")  # fmt: skip
    print(f"{found.units} units, {found.parts} parts, {found.requests} listings, {found.loads} loads of models")
    print(f"main process: busy for {found.main:.0f} s, {found.main / found.seconds:.2%} of the time")


if __name__ == "__main__":
    main()
