"""The simulation behind docs/explanation/scale.md, held against a real run of eight workers."""

import dataclasses
import runpy
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

from robharness import api
from robharness.engine import listeners
from robharness.engine.events import CellFinished, ModelLoaded, UnitFinished
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.engine.run import run_plan
from robharness.store import Store
from simulated import Costs, simulate

SLEEPING = str(Path(__file__).parent / "sleeping.py")
sleeping = runpy.run_path(SLEEPING)
WORKERS, BATCH, NAP = 8, 20, 0.006


class Recorder(SubprocessExecutor):
    """The executor of subprocesses, with the time of each command and of each event.

    loads, units: seconds from a command to its last event.
    examples: of each unit.
    begun, ended: times of the first command and of the last event.
    """

    def __init__(self):
        self.loads, self.units, self.examples = [], [], []
        self.events, self.spawned, self._since = Counter(), 0, {}
        self.begun = self.ended = 0.0

    def spawn(self, plan, store, config):
        self.spawned += 1
        worker, recorder = super().spawn(plan, store, config), self

        class Watched(type(worker)):
            def load(self, label):
                recorder._since[self] = time.perf_counter()
                recorder.begun = recorder.begun or recorder._since[self]
                super().load(label)

            def compute(self, unit, prefetch):
                recorder._since[self] = time.perf_counter()
                recorder.examples.append(unit.span[1] - unit.span[0])
                super().compute(unit, prefetch)

        worker.__class__ = Watched
        return worker

    def wait(self, workers):
        for worker, event in super().wait(workers):
            self.events[type(event)] += 1
            self.ended = time.perf_counter()
            seconds = self.ended - self._since[worker]
            if isinstance(event, ModelLoaded):
                self.loads.append(seconds)
            if isinstance(event, UnitFinished):
                self.units.append(seconds)
            yield worker, event


@pytest.fixture
def plan():
    naps = [{"attack": "sleeping/nap", "steps": steps, "seconds": NAP, "eps": ["1/8", "1/4"]} for steps in (1, 2)]
    models = [{"model": "sleeping/net", "label": f"Model {at}", "number": at} for at in range(2)]
    source = {"robharness": 1, "name": "naps", "data": {"name": "sleeping/few", "split": "all"}, "models": models,
              "attacks": naps}  # fmt: skip
    return api.plan(source, plugins=[SLEEPING])


def test_a_run_of_eight_workers_is_as_simulated(plan, tmp_path):
    """The costs are measured in the run itself; the simulation has to find its duration, its units and its parts."""
    recorder, store = Recorder(), Store(tmp_path)
    options = {"workers": WORKERS, "threads": 1, "batch_size": BATCH}
    summary = run_plan(plan, store, listeners.Silent(), executor=recorder, **options)
    assert not summary.failures and recorder.spawned == WORKERS
    sleep = NAP * sum(cell.cost.gradients for cell in plan.cells) / len(plan.models)  # per example
    over = [seconds - sleep * examples for seconds, examples in zip(recorder.units, recorder.examples, strict=True)]
    costs = Costs(load=statistics.mean(recorder.loads), backward=NAP, unit=max(statistics.mean(over), 0.0),
                  batch_size=BATCH, input_values=192, event=0.0)  # fmt: skip
    simulation = simulate(plan, WORKERS, costs)
    assert simulation.loads == len(recorder.loads) == WORKERS
    assert abs(simulation.units - len(recorder.units)) <= len(recorder.units) / 10
    assert abs(simulation.parts - recorder.events[CellFinished]) <= recorder.events[CellFinished] / 10
    ratio = simulation.seconds / (recorder.ended - recorder.begun)  # both with the real run's own costs
    assert 0.8 < ratio < 1.25, f"{simulation} of {recorder.ended - recorder.begun:.1f} s"


def test_the_time_that_a_simulation_gives_has_a_closed_form(plan):
    """One worker: its start, two loads, and each pass once. Two workers: one model each, in half of the time."""
    costs = Costs(start=7.0, load=3.0, forward=0.5, backward=0.25, batch_size=96, input_values=192, event=0.0)
    forwards, gradients = len(plan.cells) + sum(cell.cost.gradients for cell in plan.cells), 2 * 2 * (1 + 2)
    passes = plan.n * (0.5 * forwards + 0.25 * gradients)
    one, two = (simulate(plan, workers, costs) for workers in (1, 2))
    assert (one.seconds, one.busy, one.loading, one.loads) == (7.0 + 2 * 3.0 + passes, passes, 13.0, 2)
    assert one.efficiency == passes / one.seconds
    assert (two.seconds, two.busy, two.loading, two.loads) == (7.0 + 3.0 + passes / 2, passes, 20.0, 2)
    assert one.parts == one.units * 5 and two.parts == two.units * 5


def test_gradients_at_the_clean_point_count_once(tmp_path):
    """Nine budgets of one step: a gradient and nine judging passes beside the clean one."""
    source = sleeping["large_suite"](1, "few") | {"corruptions": None, "canvas": None}
    source["attacks"] = source["attacks"][:1]
    plan = api.plan({key: value for key, value in source.items() if value is not None}, plugins=[SLEEPING])
    costs = Costs(forward=1.0, backward=2.0, batch_size=plan.n, input_values=192, event=0.0)
    assert simulate(plan, 1, costs).busy == plan.n * (10 + 1 + 2)


def test_a_slow_main_process_keeps_workers_waiting(plan):
    """Eight workers whose units take a second wait for a main process that takes half a second for each."""
    costs = Costs(backward=1 / 6 / 96, unit=0.5, batch_size=96, input_values=192, event=0.0)
    quick = simulate(plan, WORKERS, costs)
    slow = simulate(plan, WORKERS, dataclasses.replace(costs, event=0.5))
    listed = simulate(plan, WORKERS, dataclasses.replace(costs, request=0.05))
    assert slow.seconds >= 0.5 * slow.units > quick.seconds
    assert slow.main == 0.5 * (slow.units + slow.loads - 1), "the last event has no other after it"
    assert listed.main == pytest.approx(0.05 * 5 * (listed.units - 1)), "one listing of each of the unit's cells"


def test_the_large_suite_has_a_hundred_cells_a_model():
    plan = api.plan(sleeping["large_suite"](2), plugins=[SLEEPING])
    assert (len(plan.cells), plan.n) == (200, 50_000)
