"""Processes of workers start while the run is planned, get what the plan has found out, and are never left over."""

import dataclasses
import os
import pickle
import signal
import time
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from robharness import api, discover
from robharness import suite as suites
from robharness.engine.events import ModelLoaded, WorkerFailed
from robharness.engine.executors import StartMessage, WorkerConfig, WorkerService
from robharness.engine.executors.processes import prepared_processes, processes_of_run, take_process
from robharness.planning import planner
from robharness.planning.files import add_known_digests, known_digests
from robharness.store import Store

PLUGIN = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robharness import CorruptionSpec, DatasetSpec, File, InputSpec, ModelSpec, hookimpl

LOG = Path(__file__).with_name("log")


def children():
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(path)
    return found


{at_import}


class Images:
    ids = [f"image-{{i}}" for i in range(20)]
    labels = [i % 2 for i in range(20)]

    def read(self, index):
        with LOG.open("a") as file:
            file.write(f"read {{os.getpid()}}\\n")
        return np.full((8, 8, 1), 10 * index, np.uint8)


def build(params, weights):
    import torch

    {in_build}
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    net.load_state_dict({{"1.weight": torch.ones(2, 64).cumsum(1), "1.bias": torch.zeros(2)}})
    return net


class Dim:
    def perturb(self, model, batch, severity, rng):
        return batch.x // 2


@hookimpl
def robharness_datasets():
    yield DatasetSpec(name="images", summary="Images", labels="two", splits=("test",), open=lambda *_: Images())


@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="A network", labels="two", build=build, input=InputSpec(shape=(1, 8, 8)),
                    weights=File(path="net.pt"))


@hookimpl
def robharness_corruptions():
    yield CorruptionSpec(name="dim", summary="Half as bright", group="light", severities=(1,),
                         build=lambda params: Dim(), randomness="none")
"""


@pytest.fixture
def plugin(tmp_path):
    """Write a plugin `odd` whose data set notes each read in `log`, with code at its import and in its model."""

    def write(at_import="", in_build=""):
        path = tmp_path / "odd.py"
        path.write_text(PLUGIN.format(at_import=dedent(at_import), in_build=in_build))
        (tmp_path / "net.pt").write_bytes(b"any")
        return str(path)

    return write


SUITE = {
    "robharness": 1,
    "name": "ready",
    "data": {"name": "odd/images", "split": "test"},
    "models": [{"model": "odd/net", "label": "Net"}],
}


def processes_with(variable):
    """Ids of the processes that live and had this variable, "NAME=value", from their start."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


# --- before there is a plan ------------------------------------------------------------------------------------------


def test_workers_start_while_the_main_process_plans(plugin, tmp_path, run_process):
    """The plugin's import, with which planning begins, waits until both processes of the workers are there."""
    path = plugin(
        """
        if not LOG.exists():  # in the main process, which is the first one
            deadline = time.monotonic() + 60
            while len(children()) < 2:
                assert time.monotonic() < deadline, "no worker has started"
                time.sleep(0.02)
            LOG.touch()
        """
    )
    (tmp_path / "ready.yaml").write_text(yaml.safe_dump(SUITE))
    words = ["run", "ready.yaml", "-p", path, "--data-root", tmp_path, "--workers", "2", "--batch-size", "5"]
    done = run_process(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 examples" in done.stderr


@pytest.mark.parametrize("how", ["a bad suite", "complete results", "a mistyped device"])
def test_workers_that_have_nothing_to_do_end_in_silence(plugin, tmp_path, run_process, how):
    path = plugin()
    (tmp_path / "ready.yaml").write_text(yaml.safe_dump(SUITE | ({"nonsense": 1} if how == "a bad suite" else {})))
    words = ["run", "ready.yaml", "-p", path, "--data-root", tmp_path, "--display", "plain"]
    if how == "complete results":
        assert run_process(*words, cwd=tmp_path).returncode == 0
    device = "nowhere" if how == "a mistyped device" else "cpu"
    mark = f"READY_MARK={os.getpid()} {how}"
    alone = run_process(*words, "--device", device, cwd=tmp_path)
    done = run_process(*words, "--device", f"cpu,{device}", cwd=tmp_path, environment=dict([mark.split("=")]))
    assert done.returncode == alone.returncode == (0 if how == "complete results" else 2)
    assert (done.stdout, done.stderr) == (alone.stdout, alone.stderr)
    assert processes_with(mark) == []


def test_a_process_is_kept_for_the_next_model(plugin, tmp_path, run_process):
    path = plugin(in_build="LOG.with_name('builds').open('a').write(f'{os.getpid()}\\n')")
    models = [{"model": "odd/net", "label": f"Net {name}", "weights": f"{name}.pt"} for name in "abc"]
    for name in "abc":
        (tmp_path / f"{name}.pt").write_text(name)
    (tmp_path / "ready.yaml").write_text(yaml.safe_dump(SUITE | {"models": models}))
    done = run_process("run", "ready.yaml", "-p", path, "--data-root", tmp_path, "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    builders = (tmp_path / "builds").read_text().split()
    assert len(builders) == 3 and len(set(builders)) == 1


def test_a_worker_has_the_environment_that_plugins_made(plugin, tmp_path, run_process):
    """Libraries read some variables when they are loaded, so a process that started before is not used."""
    check = "assert b'READY_FLAG=1' in Path('/proc/self/environ').read_bytes().split(bytes(1))"
    path = plugin("os.environ['READY_FLAG'] = '1'", check)
    (tmp_path / "ready.yaml").write_text(yaml.safe_dump(SUITE))
    done = run_process("run", "ready.yaml", "-p", path, "--data-root", tmp_path, "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_process_that_died_or_was_prepared_in_another_folder_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("READY_MARK", f"{os.getpid()} prepared")
    mark = f"READY_MARK={os.environ['READY_MARK']}"
    with prepared_processes(1):
        [prepared] = processes_with(mark)
        monkeypatch.chdir(tmp_path)
        process = take_process()
        assert process.pid != prepared and processes_with(mark) == [process.pid]
        process.kill()
    with prepared_processes(1):
        [prepared] = processes_with(mark)
        os.kill(prepared, signal.SIGKILL)
        while processes_with(mark):  # a process that has ended has no environment
            time.sleep(0.02)
        process = take_process()
        assert process.is_current
        process.kill()
    with prepared_processes(1):
        [prepared] = processes_with(mark)
        process = take_process()
        assert process.pid == prepared
        process.kill()


@pytest.mark.parametrize(
    ("workers", "device", "executor", "count"),
    [
        (None, "cpu", None, 0), (1, "cpu", None, 1), (None, "cpu,cpu", None, 2), (None, "cpu", "subprocess", 1),
        (2, "cpu", "in-process", 0), (2, "cpu", "mine/cluster", 0), (-3, "cpu", None, 0), ("2", "cpu", None, 0),
        (1000, "cpu", None, os.cpu_count()), (None, None, None, 0),
    ],
)  # fmt: skip
def test_the_number_of_processes_is_that_of_the_run(workers, device, executor, count):
    assert processes_of_run(workers, device, executor) == min(count, os.cpu_count())


# --- what the plan has found out -------------------------------------------------------------------------------------


@pytest.fixture
def start(plugin, tmp_path):
    """Plan the suite, and give the message for a worker as it arrives there."""

    def make(**changes):
        plan = api.plan(SUITE | changes, plugins=[plugin()], data=tmp_path, store=tmp_path / "store")
        message = StartMessage.of(plan, Store(tmp_path / "store"), WorkerConfig(threads=1, batch_size=5))
        return plan, pickle.loads(pickle.dumps(message))

    folder, path = os.getcwd(), list(os.sys.path)
    yield make
    os.chdir(folder)
    os.sys.path[:] = path


def test_credentials_of_object_stores_reach_a_worker_and_no_message(start, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "GOOGLE_SERVICE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, f"hush of {name}")
    _, message = start()
    assert message.environment["GOOGLE_SERVICE_ACCOUNT_KEY"] == "hush of GOOGLE_SERVICE_ACCOUNT_KEY"
    assert message.environment["AWS_SECRET_ACCESS_KEY"] and "hush" not in repr(message)


def test_a_worker_takes_over_the_digests_of_files(start, tmp_path):
    """A false digest is one of a file that the worker does not read; after a change of the file, it reads it."""
    weights, before = tmp_path / "net.pt", known_digests()
    _, message = start()
    state = next(state for state in message.digests if state[0] == weights)
    false = dataclasses.replace(message, digests={state: "0" * 64})
    try:
        [event] = WorkerService(false).load("Net")
        assert isinstance(event, WorkerFailed) and "the suite, a plugin or the weights changed" in event.error
        os.utime(weights)
        assert isinstance(list(WorkerService(false).load("Net"))[-1], ModelLoaded)
        weights.write_bytes(b"others")
        [event] = WorkerService(message).load("Net")
        assert isinstance(event, WorkerFailed) and "the weights changed" in event.error and not event.is_bug
    finally:
        add_known_digests(before)


def test_a_worker_reads_no_images_for_their_sizes(start, tmp_path):
    plan, message = start(canvas="auto", corruptions=[{"corruption": "odd/dim", "severity": [1]}])
    log = tmp_path / "log"
    reads = len(log.read_text().splitlines())
    assert reads == len(plan.data.dataset.ids), "once, for the canvas and the findings"
    registry = discover(message.request.options)
    loaded = suites.load(message.request.suite, registry)
    again = planner.plan(loaded, message.request.data_root, None, message.store, message.sizes)
    assert {cell.key for cell in again.cells} == {cell.key for cell in plan.cells}
    assert len(log.read_text().splitlines()) == reads


def test_errors_of_a_worker_are_events(start, tmp_path, monkeypatch):
    _, message = start()
    gone = dataclasses.replace(message, request=dataclasses.replace(message.request, working_directory=tmp_path / "no"))
    [event] = WorkerService(gone).load("Net")
    assert isinstance(event, WorkerFailed) and not event.is_bug
    assert "is not on the machine of a worker" in event.error and "Try: " in event.error
    [event] = WorkerService(message).load("no such model")
    assert isinstance(event, WorkerFailed) and event.is_bug and "KeyError" in event.error


def test_a_worker_gets_the_variables_that_change_arithmetic(start, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("HOSTNAME", "here")
    _, message = start()
    assert message.environment["MKL_CBWR"] == "COMPATIBLE"
    assert "HOSTNAME" not in message.environment
    monkeypatch.delenv("MKL_CBWR")
    assert isinstance(list(WorkerService(message).load("Net"))[-1], ModelLoaded)
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"
