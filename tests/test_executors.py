"""Executors: whichever starts the workers, and whether it loses some, the outcomes are the same, bit for bit."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
import yaml

from robharness import api, discover
from robharness.engine import listeners
from robharness.engine.events import CellFinished, CellStarted, ModelLoaded, UnitFinished, WorkerDied, WorkerWaits
from robharness.engine.executors.base import ATTRIBUTES
from robharness.engine.executors.inprocess import InProcessExecutor
from robharness.engine.executors.registered import find_executor
from robharness.engine.executors.subprocess import SubprocessExecutor
from robharness.engine.run import run_plan
from robharness.errors import PluginNotFound, StoreError, UserError
from robharness.findings import sentences
from robharness.store import Store, results

COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size", "attacked")


class LossyExecutor:
    """Another executor, which loses every third worker in the middle of its first unit.

    kind: the event in whose place the worker is lost.
    """

    name, can_respawn, is_local = "lossy", True, True

    def __init__(self, inner, every=3, kind=CellStarted):
        self.inner, self.every, self.kind = inner, every, kind
        self.needs_request = inner.needs_request
        self.spawned, self.doomed, self.lost = [], [], []

    def spawn(self, plan, store, config):
        worker = self.inner.spawn(plan, store, config)
        self.spawned.append(worker)
        if len(self.spawned) % self.every == 0:
            self.doomed.append(worker)
        return worker

    def wait(self, workers):
        for worker, event in self.inner.wait(workers):
            if worker in self.doomed and isinstance(event, self.kind):
                self.doomed.remove(worker)
                self.lost.append(worker)
                yield worker, WorkerDied(how="lost")
            else:
                yield worker, event


EXECUTORS = {
    "in-process": InProcessExecutor,
    "subprocess": SubprocessExecutor,
    "lossy in-process": lambda: LossyExecutor(InProcessExecutor()),
    "lossy subprocess": lambda: LossyExecutor(SubprocessExecutor(), every=2, kind=CellFinished),
}
every_executor = pytest.mark.parametrize("make", EXECUTORS.values(), ids=EXECUTORS)


@pytest.fixture
def compute(toys, tmp_path):
    """Compute a suite on three workers of an executor, or two that start as processes: plan, store, summary."""

    def call(source, executor, store="store", *, listener=None, workers=None, **options):
        plan, kept = api.plan(source, plugins=[toys]), Store(tmp_path / store)
        workers = workers or (2 if executor.needs_request else 3)
        options = {"workers": workers, "threads": 1, "batch_size": 4} | options
        return plan, kept, run_plan(plan, kept, listener or listeners.Silent(), executor=executor, **options)

    return call


def outcomes(found):
    return {
        (result.cell.model.label, result.cell.short_name): [result.columns[name].tobytes() for name in COLUMNS]
        for result in found.cells
        if result.is_complete
    }


@every_executor
def test_outcomes_are_those_of_one_process(suite, run, compute, make):
    source, executor, threads = suite(), make(), torch.get_num_threads()
    whole = outcomes(run(source, "whole", batch_size=4, threads=1))
    plan, store, summary = compute(source, executor)
    found = results.load(plan, store)
    assert outcomes(found) == whole
    assert summary.finished and not summary.failures
    assert {(entry["rows"], entry["threads"]) for result in found.cells for entry in result.provenance} == {(4, 1)}
    assert torch.get_num_threads() == threads, "workers leave this process as it was"
    if isinstance(executor, LossyExecutor):
        assert (len(executor.lost), len(executor.spawned)) == (1, executor.every + 1)
        assert "Net: a worker died (lost); its units were given to another one" in sentences(
            summary.findings, "warning"
        )
    again = compute(source, executor)[2]
    assert again.computed == 0


@every_executor
def test_a_failing_cell_is_recorded_and_the_others_are_computed(suite, compute, make):
    models = [{"model": "toys/net", "label": "Net"}, {"model": "toys/net", "label": "None", "what": "unbuildable"}]
    attacks = [{"attack": "toys/rogue", "how": "raises", "eps": "1/8"}, {"attack": "toys/sign", "eps": "1/8"}]
    plan, store, summary = compute(suite(models=models, attacks=attacks), make())
    found = results.load(plan, store)
    assert set(outcomes(found)) == {("Net", "clean"), ("Net", "sign(linf, 1/8)")}
    causes = {failure.traceback.splitlines()[-1] for failure in summary.failures}
    assert causes == {"ValueError: no such layer", "KeyError: 'delta'"}


@every_executor
def test_ctrl_c_ends_the_run_after_the_current_cells(suite, run, compute, make):
    class Interrupter(listeners.Silent):
        interrupted = False

        def cell_done(self, cell, span, failure):
            if not self.interrupted:
                self.interrupted = True
                os.kill(os.getpid(), signal.SIGINT)

    source, before = suite(), signal.getsignal(signal.SIGINT)
    plan, store, summary = compute(source, make(), listener=Interrupter())
    assert summary.interrupted
    assert signal.getsignal(signal.SIGINT) is before
    spans = [span for cell in plan.cells for span in store.spans(cell.key)]
    assert 0 < len(spans) <= 7, "each worker ends after its current cell"
    compute(source, InProcessExecutor(), workers=1)
    assert outcomes(results.load(plan, store)) == outcomes(run(source, "whole", batch_size=4))


@every_executor
def test_a_live_network_is_computed_where_workers_need_no_request(suite, toys, tmp_path, make):
    spec = api.plan(suite(), plugins=[toys]).models[0].entry.spec
    mine = spec.build(SimpleNamespace(what="exact", megabytes=0), None)
    plan, store = api.plan(suite(), plugins=[toys], models={"mine": mine}), Store(tmp_path / "store")
    executor = make()
    if executor.needs_request:
        with pytest.raises(UserError, match=f"the workers of '{executor.name}' are other processes"):
            run_plan(plan, store, listeners.Silent(), executor=executor)
        assert not (tmp_path / "store").exists()
    else:
        run_plan(plan, store, listeners.Silent(), executor=executor)
        assert results.load(plan, store).is_complete


def test_a_live_network_needs_a_label_of_its_own(suite, toys):
    spec = api.plan(suite(), plugins=[toys]).models[0].entry.spec
    mine = spec.build(SimpleNamespace(what="exact", megabytes=0), None)
    with pytest.raises(UserError, match="the suite already has a model with the label 'Net'"):
        api.plan(suite(), plugins=[toys], models={"Net": mine})


@pytest.mark.parametrize("kind", [CellStarted, CellFinished])
def test_a_lost_worker_without_replacement_leaves_its_work_to_the_others(suite, run, compute, kind):
    executor = LossyExecutor(InProcessExecutor(), kind=kind)
    executor.can_respawn = False
    plan, store, summary = compute(suite(), executor)
    assert len(executor.spawned) == 3
    assert any(
        warning.startswith("the run goes on with 2 workers: ") for warning in sentences(summary.findings, "warning")
    )
    assert outcomes(results.load(plan, store)) == outcomes(run(suite(), "whole", batch_size=4))


def test_when_no_worker_is_left_the_run_ends_and_the_next_one_resumes(suite, run, compute):
    executor = LossyExecutor(InProcessExecutor(), every=1, kind=CellFinished)
    executor.can_respawn = False
    with pytest.raises(
        UserError,
        match=r"no worker is left: the executor 'lossy' does not replace .*Try: robharness\.run with it again",
    ):
        compute(suite(), executor)
    plan, store, summary = compute(suite(), InProcessExecutor())
    assert 0 < summary.computed < 40 * len(plan.cells), "what lost workers had stored is kept"
    assert outcomes(results.load(plan, store)) == outcomes(run(suite(), "whole", batch_size=4))


class ForgettingExecutor(InProcessExecutor):
    """Another run with --fresh: forgets a cell just before its unit ends, some times."""

    def __init__(self, times):
        self.times = times

    def spawn(self, plan, store, config):
        self.store, self.cell = store, plan.cells[0]
        return super().spawn(plan, store, config)

    def wait(self, workers):
        for worker, event in super().wait(workers):
            if isinstance(event, UnitFinished) and self.times:
                self.times -= 1
                self.store.forget(self.cell.key)
            yield worker, event


def test_outcomes_that_disappear_three_times_are_computed_again(suite, run, compute):
    plan, store, summary = compute(suite(), ForgettingExecutor(3), workers=1, batch_size=40)
    assert [each.code for each in summary.findings].count("outcomes-disappeared") == 1, "a finding is shown once"
    assert outcomes(results.load(plan, store)) == outcomes(run(suite(), "whole", batch_size=40))


def test_a_store_that_loses_all_that_is_written_ends_the_run(suite, compute):
    with pytest.raises(StoreError, match=r"loses parts of 'Net .* after they are written. Try: ls -la "):
        compute(suite(), ForgettingExecutor(4), workers=1, batch_size=40)


def test_an_executor_that_always_loses_workers_fails_cells_and_ends(suite, compute):
    executor = LossyExecutor(InProcessExecutor(), every=1)
    plan, _, summary = compute(suite(attacks=None), executor, workers=1, batch_size=40)
    assert [failure.error for failure in summary.failures] == [
        "toys/net: 2 workers died over its examples 0 to 39: lost"
    ]
    assert len(executor.lost) == 2 * len(plan.cells)


def test_a_unit_that_kills_its_workers_leaves_the_other_units_of_its_cell(suite, compute):
    _, _, summary = compute(suite(attacks=None), LossyExecutor(InProcessExecutor(), every=1), workers=1, batch_size=20)
    assert [failure.error for failure in summary.failures] == [
        "toys/net: 2 workers died over its examples 0 to 19: lost",
        "toys/net: 2 workers died over its examples 20 to 39: lost",
    ]


def test_a_model_that_one_worker_cannot_load_is_left_to_the_others(suite, run, compute):
    class Unlucky(LossyExecutor):
        def spawn(self, plan, store, config):
            self.every = 1 if len(self.spawned) in (1, 2) else 100  # the second worker and its successor
            return super().spawn(plan, store, config)

    executor = Unlucky(InProcessExecutor(), kind=ModelLoaded)
    plan, store, summary = compute(suite(), executor, workers=2)
    assert (len(executor.lost), summary.failures) == (2, [])
    assert "worker-cannot-load" in [each.code for each in summary.findings]
    assert outcomes(results.load(plan, store)) == outcomes(run(suite(), "whole", batch_size=4))


class PendingExecutor(InProcessExecutor):
    """Its second worker waits for a place in vain, and loads its model as long as it lives."""

    def __init__(self):
        self.workers, self.closed = [], []

    def spawn(self, plan, store, config):
        self.workers.append(super().spawn(plan, store, config))
        return self.workers[-1]

    def wait(self, workers):
        pending = self.workers[1]
        yield from super().wait([worker for worker in workers if worker is not pending])
        if pending in workers:
            yield pending, WorkerWaits(why="no machine is free")


@pytest.mark.parametrize("models", [1, 2])
def test_a_worker_that_never_loads_takes_no_unit_and_is_not_waited_for(suite, run, compute, models):
    source = suite(models=[{"model": "toys/net", "label": f"Net {number}"} for number in range(models)])
    plan, store, summary = compute(source, PendingExecutor(), workers=2)
    assert outcomes(results.load(plan, store)) == outcomes(run(source, "whole", batch_size=4))
    assert [each.code for each in summary.findings] == ["worker-waits"]


def test_ctrl_c_does_not_wait_for_a_worker_that_never_loads(suite, compute):
    class Interrupter(listeners.Silent):
        def cell_done(self, cell, span, failure):
            os.kill(os.getpid(), signal.SIGINT)

    _, _, summary = compute(suite(), PendingExecutor(), workers=2, listener=Interrupter())
    assert summary.interrupted


def test_units_and_models_are_not_blamed_for_machines_that_are_lost(suite, run, compute):
    """Six machines are lost, every one in the middle of a unit or of loading; two deaths would fail the cells."""

    class Lossy(LossyExecutor):
        def spawn(self, plan, store, config):
            self.every = 1 if len(self.spawned) < 6 else 100
            self.kind = CellStarted if len(self.spawned) < 3 else ModelLoaded
            return super().spawn(plan, store, config)

        def wait(self, workers):
            for worker, event in super().wait(workers):
                yield worker, replace(event, with_machine=True) if isinstance(event, WorkerDied) else event

    executor = Lossy(InProcessExecutor())
    plan, store, summary = compute(suite(), executor, workers=1, batch_size=40)
    assert len(executor.lost) == 6 and summary.failures == []
    assert outcomes(results.load(plan, store)) == outcomes(run(suite(), "whole", batch_size=40))


# --- by name ---------------------------------------------------------------------------------------------------------

PLUGIN = """
from robharness import hookimpl

class Counting:
    name, can_respawn, needs_request = "counting", False, False

    def __init__(self):
        from robharness.engine.executors.inprocess import InProcessExecutor
        self.inner = InProcessExecutor()

    def spawn(self, plan, store, config):
        print(f"worker on {config.device}")
        return self.inner.spawn(plan, store, config)

    def wait(self, workers):
        return self.inner.wait(workers)

def broken():
    raise OSError("no cluster")

def closed():
    from robharness import UserError
    raise UserError("the cluster is closed. Try: tomorrow")

@hookimpl
def robharness_executors():
    yield "counting", Counting
    yield "broken", broken
    yield "half", lambda: None
    yield "closed", closed
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(dedent(PLUGIN))
    return str(path)


def test_the_executors_satisfy_the_protocol(plugin):
    registry = discover([plugin])
    mine = [name for name in registry.executors if name.startswith("mine/")]
    assert mine == ["mine/counting", "mine/broken", "mine/half", "mine/closed"]
    for name in ("in-process", "subprocess", "mine/counting"):
        assert all(hasattr(find_executor(name, registry), attribute) for attribute in ATTRIBUTES)


def test_a_plugin_may_provide_an_executor(suite, run, toys, plugin, tmp_path, capsys):
    found = api.run(suite(), store=tmp_path / "mine", plugins=[toys, plugin], executor="mine/counting", workers=2)
    assert capsys.readouterr().out == "worker on cpu\n" * 2
    assert outcomes(found) == outcomes(run(suite(), "whole"))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("mine/countin", PluginNotFound, r"no executor 'mine/countin'; did you mean 'mine/counting'\?"),
        ("cluster", PluginNotFound, r"no executor 'cluster'; there are in-process, subprocess, mine/counting, mine/br"),
        ("mine/broken", UserError, r"the executor 'mine/broken' of .*mine.py cannot be used: OSError: no cluster"),
        ("mine/closed", UserError, r"^the cluster is closed. Try: tomorrow$"),
        ("mine/half", UserError, r"'mine/half' of .* cannot be used: NoneType lacks name, can_respawn, needs_request"),
    ],
)
def test_an_executor_that_cannot_be_used_is_an_error_before_anything_is_computed(
    suite, toys, plugin, tmp_path, name, error, words
):
    with pytest.raises(error, match=words):
        api.run(suite(), store=tmp_path / "store", plugins=[toys, plugin], executor=name)
    assert not (tmp_path / "store").exists()


def test_the_last_part_of_a_name_is_enough_if_one_executor_has_it(plugin, tmp_path):
    assert find_executor("counting", discover([plugin])).name == "counting"
    other = tmp_path / "other.py"
    other.write_text(Path(plugin).read_text())
    with pytest.raises(PluginNotFound, match=r"several executors are called 'counting': mine/counting, other/counting"):
        find_executor("counting", discover([plugin, str(other)]))


FAR = """
from dataclasses import replace
from robharness import hookimpl
from robharness.engine.executors import InProcessExecutor

class Far(InProcessExecutor):
    is_local = False

    def spawn(self, plan, store, config):
        print(f"worker {config}")
        return super().spawn(plan, store, replace(config, device="cpu", threads=1))

@hookimpl
def robharness_executors():
    yield "far", Far
"""


def test_devices_and_cores_of_another_machine_are_not_those_of_this_one(suite, toys, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path = tmp_path / "far.py"
    path.write_text(FAR)
    options = {"store": tmp_path / "store", "plugins": [toys, str(path)], "device": "cuda:7,cuda:8"}
    with pytest.raises(UserError, match="cuda:7"):
        api.run(suite(), executor="in-process", **options)
    assert api.run(suite(), executor="far", **options).is_complete
    printed = "worker WorkerConfig(device='cuda:{}', batch_size=None, threads=None, workers=2)\n"
    assert capsys.readouterr().out == printed.format(7) + printed.format(8)


def test_a_mistyped_executor_deletes_no_stored_outcomes(suite, run, toys, tmp_path):
    run(suite())
    path, store = tmp_path / "toys.yaml", tmp_path / "store"
    path.write_text(yaml.safe_dump(suite()))
    before = sorted(store.glob("cells/*/*/*"))
    script = "import sys; from robharness.cli import main; sys.exit(main())"
    words = ["run", path, "-p", toys, "--store", store, "--fresh", "*", "--executor", "subproces"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no executor 'subproces'; did you mean 'subprocess'?" in done.stderr
    assert sorted(store.glob("cells/*/*/*")) == before


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("yield 'name'", "TypeError: robharness_executors yielded str, not a name and a function"),
        ("yield 'name', None", "TypeError: robharness_executors yielded tuple, not a name and a function"),
        ("yield 'name', int; yield 'name', int", "ValueError: the name 'wrong/name' is declared twice"),
    ],
)
def test_an_object_that_is_no_executor_is_a_problem_of_the_plugin(tmp_path, body, error):
    path = Path(tmp_path / "wrong.py")
    path.write_text(f"from robharness import hookimpl\n@hookimpl\ndef robharness_executors():\n    {body}\n")
    with pytest.raises(UserError, match=error):
        discover([str(path)])


def test_results_in_memory_are_of_one_process(suite, toys):
    with pytest.raises(UserError, match="results in memory://one/prefix exist in this process alone"):
        api.run(suite(), store="memory://one/prefix", plugins=[toys], workers=2)
    assert api.run(suite(), store="memory://one/prefix", plugins=[toys]).is_complete
