"""The progress of a run: its counts are those of the store, whatever executors report, also after a resumption."""

from dataclasses import replace

import pytest

from robharness import api
from robharness.engine import listeners
from robharness.engine.events import CellFinished, WorkerDied
from robharness.engine.executors.inprocess import InProcessExecutor
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.engine.run import run_plan
from robharness.store import Store, results


class Follower(listeners.Silent):
    """A listener that keeps the progress, its counts at the begin, and the finished units."""

    def __init__(self):
        self.units, self.findings = [], []

    def follow(self, progress):
        self.progress, self.begin = progress, counts(progress)

    def unit_done(self, unit, seconds):
        self.units.append(unit)

    def found(self, finding):
        self.findings.append(finding)


class Changed(InProcessExecutor):
    """An executor that changes the first event on a finished cell, or all of them.

    change: a function of an event; it returns another event.
    """

    can_respawn = True

    def __init__(self, change, *, every=True):
        self.change, self.every, self.count = change, every, 0

    def wait(self, workers):
        for worker, event in super().wait(workers):
            if isinstance(event, CellFinished):
                self.count += 1
                if self.every or self.count == 1:
                    event = self.change(event)
            yield worker, event


EXECUTORS = {
    "in-process": InProcessExecutor,
    "subprocess": SubprocessExecutor,
    "without counts": lambda: Changed(lambda event: CellFinished(key=event.key, span=event.span, failure=None)),
    "crash": lambda: Changed(lambda event: WorkerDied(how="lost"), every=False),
}


def counts(progress):
    return {key: (cell.n, cell.right, cell.missing) for key, cell in progress.cells.items()}


def stored(plan, store):
    found = results.load(plan, store)
    return {
        (each.cell.model.label, each.cell.short_name): (each.n, int(each.correct.sum()), 40 - each.n)
        for each in found.cells
    }


@pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)
def test_counts_are_those_of_the_store_from_the_begin_to_the_end(suite, toys, tmp_path, make):
    source = suite(models=[{"model": "toys/net", "label": "Net"}, {"model": "toys/net", "label": "Twin"}])
    store, follower = Store(tmp_path / "store"), Follower()
    run_plan(api.plan(source, plugins=[toys], limit=9), store, listeners.Silent(), batch_size=4)
    plan = api.plan(source, plugins=[toys])
    before = stored(plan, store)
    summary = run_plan(plan, store, follower, executor=make(), workers=1, batch_size=4, threads=1)
    assert follower.begin == before and {n for n, _, _ in before.values()} == {9}
    assert counts(follower.progress) == stored(plan, store)
    assert follower.progress.work == 4 * 31 and follower.progress.fraction == 1
    assert follower.units and not summary.failures
    assert all(cell.workers == 0 for cell in follower.progress.cells.values())


def test_a_failed_cell_has_nothing_left_and_its_failure_is_shown(suite, toys, tmp_path):
    source, follower = suite(attacks=[{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}]), Follower()
    run_plan(api.plan(source, plugins=[toys]), Store(tmp_path / "store"), follower, batch_size=4)
    progress = follower.progress
    assert (progress.failures, progress.fraction, progress.computed) == (1, 1, 40)
    assert progress.last_failure.startswith(
        "Net, rogue(linf, 1/8, how=raises): toys/rogue: it raised KeyError: 'delta'"
    )


def test_a_listener_of_five_methods_gets_findings_as_messages(suite, toys, tmp_path):
    class Old:
        said, cells = [], 0

        def started(self, work, cells):
            self.work = work

        def cell_done(self, cell, span, failure):
            self.cells += 1

        def trained(self, label, progress): ...

        def message(self, message):
            self.said.append(message)

        def finished(self): ...

    plan, old, follower = api.plan(suite(), plugins=[toys], limit=4), Old(), Follower()
    executors = [Changed(lambda event: WorkerDied(how="lost"), every=False) for _ in range(2)]
    run_plan(plan, Store(tmp_path / "one"), old, executor=executors[0], batch_size=4)
    run_plan(plan, Store(tmp_path / "two"), follower, executor=executors[1], batch_size=4)
    assert old.work == 16 and old.cells == 3, "the crash lost an event"
    assert old.said == [f"{each.severity}: {each}" for each in follower.findings]
    assert old.said == ["warning: Net: a worker died (lost); its units were given to another one"]


def test_workers_report_right_predictions_and_seconds(suite, toys, tmp_path):
    plan, store = api.plan(suite(), plugins=[toys]), Store(tmp_path / "store")
    events = []
    executor = Changed(lambda event: events.append(event) or replace(event))
    run_plan(plan, store, listeners.Silent(), executor=executor, batch_size=40)
    found = {result.cell.key: int(result.correct.sum()) for result in results.load(plan, store).cells}
    assert {event.key: sum(other.right for other in events if other.key == event.key) for event in events} == found
    assert all(event.seconds > 0 for event in events)
