"""Trainings that are killed or interrupted, and several processes that train at once."""

import errno
import json
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import robharness
from robharness import api, discover
from robharness.engine import listeners
from robharness.errors import UserError
from robharness.planning import artefacts, planner
from robharness.session import Session
from robharness.store import FileSystem, Store
from robharness.suite import load
from robharness.training import train
from toy_training import LEARNER, NET, PLUGINS, TOYS, artefact, sha_of, suite, wait_for

# --- kills, interruptions, several at once ----------------------------------------------------------------------------


def test_a_killed_training_resumes_to_the_same_weights(undisturbed, start, store, log):
    first = start("train", suite(), LEARNER_PAUSE=0.2)
    wait_for(lambda: len(log()) >= 3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    made = artefact(suite(), store)
    assert made.unfinished.is_dir() and not made.folder.exists()
    assert [row["state"] for row in artefacts.listing(store)] == ["unfinished"]
    before = len(log())
    second = start("train", suite())
    out, err = second.communicate(timeout=90)
    assert second.returncode == 0, err
    assert f"Net: goes on after epoch {before}" in err and "goes on in" in err
    assert [epoch for _, _, epoch in log()] == [1, 2, 3, 4, 5, 6]
    assert sha_of(store) == sha_of(undisturbed[0])
    assert not made.unfinished.exists() and not made.lock.exists()
    assert json.loads((made.folder / "provenance.json").read_text())["resumed"] is True
    assert re.fullmatch(rf"Net: {made.hash} \S+/{made.hash} sha256 [0-9a-f]{{12}} [0-9.]+ s\n", out)


def test_two_processes_train_one_artefact_once_and_replace_a_killed_holder(undisturbed, start, store, log):
    holder = start("train", suite(), LEARNER_PAUSE=20)
    wait_for(log)
    other = start("train", suite(), "--json")
    line = wait_for(lambda: next((line for line in iter(other.stderr.readline, "") if "trains it" in line), ""))
    assert f"process {holder.pid} on " in line
    time.sleep(0.5)
    assert other.poll() is None and {process for process, _, _ in log()} == {holder.pid}
    holder.send_signal(signal.SIGKILL)
    out, err = other.communicate(timeout=90)
    assert other.returncode == 0, err
    assert set(Counter(epoch for _, _, epoch in log()).values()) == {1}
    assert {process for process, _, _ in log()} == {holder.pid, other.pid}
    assert sha_of(store) == sha_of(undisturbed[0])
    assert json.loads(out)[0]["seconds"] > 0


@pytest.mark.slow
def test_a_waiting_process_uses_the_artefact_of_the_other(start, store, log):
    holder = start("train", suite(), LEARNER_PAUSE=3)
    wait_for(log)
    other = start("run", suite(), "--json")
    assert wait_for(lambda: next((line for line in iter(other.stderr.readline, "") if "trains it" in line), ""))
    assert holder.wait(90) == 0
    out, err = other.communicate(timeout=90)
    assert other.returncode == 0, err
    assert json.loads(out)["complete"] is True
    assert {process for process, _, _ in log()} == {holder.pid}


class WithoutLocks(FileSystem):
    def lock(self, descriptor):
        raise OSError(errno.ENOLCK, "no locks available")


def test_a_file_system_without_locks_is_reported(store):
    kept = Store(store, WithoutLocks())
    session = Session.open(suite(), store=store, plugins=PLUGINS)
    session.store = kept
    session.compute()
    assert session.results().is_complete
    other = api.plan(suite(NET | {"seed": 1}), store=store, plugins=PLUGINS)
    train.train_models(other, kept, listeners.Silent())
    assert kept.notes == [f"the file system of {store} has no locks: train with one process at a time"]


def test_a_training_killed_before_its_last_rename_is_not_repeated(undisturbed, store, log):
    made = artefact(suite(), undisturbed[0])
    resumed = artefact(suite(), store)
    shutil.copytree(made.folder, resumed.unfinished)
    [found] = robharness.train(suite(), store=store, plugins=PLUGINS)
    assert found.sha256 == artefacts.sha256_of(made.folder) and log() == []
    assert resumed.folder.is_dir() and not resumed.unfinished.exists()


@pytest.mark.slow
def test_ctrl_c_exits_with_code_130_and_prints_the_resume_command(undisturbed, start, store, log):
    first = start("run", suite(), LEARNER_PAUSE=0.3)
    wait_for(lambda: len(log()) >= 2)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=90)
    assert first.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("robharness: interrupted while Net was trained; its unfinished files are kept. To go on: ")
    assert last.endswith(f"--store {store}") and "Traceback" not in err
    second = start("run", suite(), "--json")
    out, err = second.communicate(timeout=90)
    assert second.returncode == 0, err
    assert json.loads(out)["complete"] is True
    assert [epoch for _, _, epoch in log()] == [1, 2, 3, 4, 5, 6]
    assert sha_of(store) == sha_of(undisturbed[0])


def torchrun(run_process, tmp_path, source, *words):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(source))
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "robharness"]
    words = ["train", path, "-p", LEARNER, "-p", TOYS, "--store", tmp_path / "store", *words]
    return run_process(*words, program=program, timeout=180)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_one_artefact_together(undisturbed, run_process, tmp_path, store, log):
    done = torchrun(run_process, tmp_path, suite())
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("Net: ")]) == 1
    assert done.stderr.count("its training begins") == 1
    processes = Counter(process for process, _, _ in log())
    assert sorted(processes.values()) == [6, 6]
    made = artefact(suite(), store)
    assert json.loads((made.folder / "provenance.json").read_text())["processes"] == 2
    assert [row["processes"] for row in artefacts.listing(store)] == [2]
    assert [path.name for path in made.folder.parent.iterdir()] == [made.hash]
    alone = load_file(artefact(suite(), undisturbed[0]).folder / "weights.safetensors")
    for name, value in load_file(made.folder / "weights.safetensors").items():
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_failure_under_torchrun_ends_all_of_its_processes(run_process, tmp_path, store):
    done = torchrun(run_process, tmp_path, suite(NET | {"what": "raises"}, NET | {"label": "Fine"}))
    assert done.returncode != 0
    assert "Net: failed: learner/net: ZeroDivisionError: a loss of nothing" in done.stdout
    assert sha_of(store) == {}


def test_processes_that_follow_wait_for_the_first_of_their_own_job(store, monkeypatch, log):
    """A lock of another job is not theirs; what is there already is found."""
    robharness.train(suite(), store=store, plugins=PLUGINS)
    made = artefact(suite(), store)
    planned = planner.plan(load(suite(), discover(PLUGINS)), Path(), None, store / "none")
    waits = planned.untrained[0]
    assert waits.artefact.hash == made.hash
    shutil.copytree(made.folder, waits.artefact.folder)
    waits.artefact.lock.write_text(json.dumps({"process": 1, "machine": "x", "job": "other"}))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = len(log())
    [found] = train.train_models(planned, Store(store / "none"), listeners.Silent())
    assert found.sha256 == artefacts.sha256_of(made.folder) and found.seconds is None and len(log()) == before
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="are numbers, as torchrun sets them"):
        train.train_models(planned, Store(store / "none"), listeners.Silent())
