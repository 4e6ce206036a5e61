"""Workers on nodes that come and go: nothing is lost or computed otherwise, whatever becomes of the nodes."""

import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from robharness import UserError, api, plan
from robharness.engine import listeners
from robharness.engine.executors import WorkerConfig
from robharness.engine.executors.registered import find_executor
from robharness.findings import sentences
from robharness.plugins.discovery import discover
from robharness.store import Store
from robharness_ray import executor

PATIENT = str(Path(__file__).parent / "patient.py")
COLUMNS = ("label", "prediction", "correct", "margin", "logit_range", "confidence", "p_true", "size", "attacked")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
HEAD = {
    **NODE, "num_cpus": 0, "include_dashboard": False,
    "_system_config": {"health_check_period_ms": 500, "health_check_timeout_ms": 2000,
                       "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose head has no cores, so that workers are on the nodes that a test adds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            patch.delenv(name)
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        found = Cluster(initialize_head=True, head_node_args=HEAD)
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def nodes(cluster):
    """Add nodes to the cluster; they are removed after the test."""
    added = []

    def add(count=1, **resources):
        added.extend(cluster.add_node(**(NODE | resources)) for _ in range(count))
        return added[-count:]

    yield add
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


@pytest.fixture(autouse=True)
def _word(monkeypatch):
    """A variable of this process, which the cluster's processes lack unless the executor hands it over."""
    monkeypatch.setenv("ROBHARNESS_TEST_WORD", "seen")


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def suite(log):
    attacks = [{"attack": "patient/signs", "eps": ["1/255", "4/255", "8/255"], "seconds": 0.1, "log": str(log)}]
    models = [{"model": "patient/linear", "label": "Net"}]
    return {"robharness": 1, "name": "patient", "data": {"name": "patient/squares", "split": "test"},
            "models": models, "attacks": attacks}  # fmt: skip


OPTIONS = {"plugins": [PATIENT], "threads": 1, "batch_size": 4}


def outcomes(found):
    assert found.is_complete
    return {result.cell.short_name: [result.columns[name].tobytes() for name in COLUMNS] for result in found.cells}


def undisturbed(suite, tmp_path):
    """Outcomes of one process, which waits for nobody and leaves no trace."""
    [attack] = suite["attacks"]
    alone = {**suite, "attacks": [{"attack": attack["attack"], "eps": attack["eps"]}]}
    return outcomes(api.run(alone, store=tmp_path / "undisturbed", **OPTIONS))


def workers_of(log):
    """Ids of the processes that called the attack."""
    return {int(path.name.split()[0]) for path in log.iterdir()}


class Meddler(listeners.Silent):
    """Does something after cells are stored.

    steps: functions that are called one after the other, each until it returns true.
    """

    def __init__(self, *steps):
        self.steps = list(steps)

    def cell_done(self, cell, span, failure):
        assert failure is None
        if self.steps and self.steps[0]():
            del self.steps[0]


def test_nodes_that_come_and_go_change_no_outcome_and_lose_none(suite, log, nodes, cluster, tmp_path):
    """A second node joins the only one, both are killed while they compute, and the worker of a third one finishes."""
    expected = undisturbed(suite, tmp_path)
    both = nodes()

    def join():
        both.extend(nodes())
        return True

    def kill():
        if len(workers_of(log)) < 2:
            return False
        for node in both:
            cluster.remove_node(node, allow_graceful=False)
        return bool(nodes())

    suite["attacks"][0]["together"] = 2
    meddler = Meddler(join, kill)
    found = api.run(suite, store=tmp_path / "store", executor="ray", workers=2, listener=meddler, **OPTIONS)
    assert meddler.steps == []
    assert outcomes(found) == expected
    assert len(workers_of(log)) == 3
    lost = [each for each in sentences(found.run_findings, "warning") if "died" in each]
    assert lost == ["Net: a worker died (its node left the cluster); its units were given to another one"]
    store = Store(tmp_path / "store")
    assert store.notes == [] and not list((tmp_path / "store").rglob("*.tmp"))
    assert sum(record["computed"] for record in store.runs()) <= sum(result.n for result in found.cells)


def test_an_actor_that_is_killed_is_replaced(suite, log, nodes, tmp_path):
    nodes()

    def kill():
        [worker] = workers_of(log)
        os.kill(worker, signal.SIGKILL)
        return True

    suite["attacks"][0]["eps"] = ["1/255"]
    found = api.run(
        suite, store=tmp_path / "store", executor="ray/ray", workers=1, listener=Meddler(lambda: True, kill), **OPTIONS
    )
    assert outcomes(found) == undisturbed(suite, tmp_path)
    assert len(workers_of(log)) == 2
    [lost] = [each for each in sentences(found.run_findings, "warning") if "died" in each]
    assert lost.startswith("Net: a worker died (its process ended")


def test_a_worker_without_a_place_takes_no_unit_and_is_not_waited_for(suite, log, nodes, tmp_path):
    nodes()
    found = api.run(suite, store=tmp_path / "store", executor="ray", workers=3, **OPTIONS)
    assert outcomes(found) == undisturbed(suite, tmp_path)
    assert len(workers_of(log)) == 1


def test_ctrl_c_ends_the_run_and_its_actors_and_the_same_command_resumes(suite, log, nodes, tmp_path):
    """The command line, with a plugin by a relative path; one worker has no place."""
    nodes()
    (tmp_path / "patient.py").write_text(Path(PATIENT).read_text())
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    words = ["run", "suite.yaml", "-p", "./patient.py", "--executor", "ray", "--workers", "2", "--batch-size", "4"]
    command = [sys.executable, "-m", "robharness", *words, "--threads", "1", "--store", "store"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    deadline = time.monotonic() + 120
    while not workers_of(log) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [worker] = workers_of(log)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "stopping after the current cells" in stderr and "To go on: robharness run suite.yaml" in stderr
    assert "Traceback" not in stderr
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = subprocess.run(command, **pipes, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.lower().split()).isdisjoint({"raylet", "gcs", "ray"}), "Ray itself is quiet"
    found = api.load(tmp_path / "suite.yaml", store=tmp_path / "store", plugins=[str(tmp_path / "patient.py")])
    assert outcomes(found) == undisturbed(suite, tmp_path)


def test_more_workers_than_gpus_share_them(suite, nodes, tmp_path, monkeypatch):
    nodes(num_cpus=5, num_gpus=2)
    executor = find_executor("ray", discover([PATIENT]))
    planned, store = plan(suite, plugins=[PATIENT]), Store(tmp_path / "store")

    def free_after(config):
        worker = executor.spawn(planned, store, config)
        try:
            worker.load("Net")
            deadline = time.monotonic() + 60
            while (free := ray.available_resources().get("GPU", 0)) == 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return free
        finally:
            worker.close()
            while ray.available_resources().get("GPU", 0) != 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    gpu = {"device": "cuda", "threads": 1}
    assert free_after(WorkerConfig(workers=5, **gpu)) == pytest.approx(2 - 1 / 3, abs=1e-3)
    assert free_after(WorkerConfig(workers=2, **gpu)) == 1
    monkeypatch.setenv("ROBHARNESS_RAY_GPUS", "0.25")
    assert free_after(WorkerConfig(workers=2, **gpu)) == 1.75
    monkeypatch.setenv("ROBHARNESS_RAY_GPUS", "much")
    with pytest.raises(UserError, match=r"\$ROBHARNESS_RAY_GPUS is 'much', not a share of a GPU"):
        executor.spawn(planned, store, WorkerConfig(**gpu))
    with pytest.raises(UserError, match="Ray chooses the GPU of a worker, so 'cuda:1' has no meaning"):
        executor.spawn(planned, store, WorkerConfig(device="cuda:1"))


def test_devices_of_other_machines_are_not_looked_for_here(suite, log, nodes, tmp_path):
    """This machine may have no GPU, although the cluster has; the worker tells what it finds."""
    nodes(num_gpus=1)
    found = api.run(suite, store=tmp_path / "store", executor="ray", device="cuda", **OPTIONS)
    failures = [each["error"] for record in Store(tmp_path / "store").runs() for each in record["failures"]]
    assert found.is_complete or (failures and all(re.search("CUDA|NVIDIA", each) for each in failures)), failures


ONLY_HERE = """
class Actor:
    def __init__(self, path, start):
        pass

    def place(self):
        pass

    def execute(self, *command):
        yield
"""


def test_a_node_that_lacks_a_package_is_one_sentence(suite, nodes, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").write_text(ONLY_HERE)
    monkeypatch.syspath_prepend(tmp_path / "here")  # as if the package were installed on this machine alone
    actor = importlib.import_module("only_here").Actor
    groups = {"work": 1, "control": 1}
    monkeypatch.setattr(executor, "_ACTOR", ray.remote(concurrency_groups=groups)(actor))
    nodes()
    sentence = r"cannot start a worker \(ModuleNotFoundError: No module named 'only_here'\).* Try: pip install"
    with pytest.raises(UserError, match=sentence):
        api.run(suite, store=tmp_path / "s", executor="ray", workers=1, **OPTIONS)


def test_a_cluster_that_is_not_there_is_one_sentence(suite, tmp_path):
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-m", "robharness", "run", "suite.yaml", "-p", PATIENT, "--executor", "ray"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert "there is no Ray cluster at 127.0.0.1:1 (Connection refused). Try: unset RAY_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr
