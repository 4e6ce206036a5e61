"""Models that a suite trains: recipes, artefacts, kills, two at once, failures, seeds; real gradients throughout."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import robharness
from robharness import ModelSpec, api, cli, discover, statistics
from robharness.engine import listeners
from robharness.errors import SuiteError, UserError
from robharness.planning import artefacts, identity, planner
from robharness.planning.weights import file_digest
from robharness.report import build
from robharness.report.renderers import markdown, terminal
from robharness.report.renderers.json import as_data
from robharness.store import Store
from robharness.store.merge import merge
from robharness.suite import load
from robharness.training import train

HERE = Path(__file__).parent
LEARNER, TOYS = str(HERE / "learner.py"), str(HERE / "toys.py")
PLUGINS = [LEARNER, TOYS]
SCRIPT = "from robharness.cli import main; main()"
NET = {"model": "learner/net", "label": "Net"}
SIGN = {"attack": "toys/sign", "eps": ["1/16", "1/8"]}


def suite(*models, **changes):
    base = {
        "robharness": 1,
        "name": "learning",
        "data": {"name": "learner/shades", "split": "test"},
        "models": list(models) or [NET],
        "attacks": [SIGN],
    }
    return base | changes


def plan(source, store, **options):
    return api.plan(source, store=store, plugins=PLUGINS, **options)


def artefact(source, store, index=0):
    """The artefact of a model of the suite, there or not."""
    planned = plan(source, store)
    return planned.trained_models[index].artefact


def sha_of(store):
    """{hash: sha256 of the weights} of all that is whole."""
    return {row["name"]: artefacts.sha256_of(Path(store) / "artefacts" / row["name"])
            for row in artefacts.listing(Path(store)) if not row["state"]}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The store of a run of the plain suite that nothing disturbed, and its results."""
    root = tmp_path_factory.mktemp("quiet") / "store"
    return root, api.run(suite(), store=root, plugins=PLUGINS)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What every epoch wrote: (process, seed, epoch)."""
    path = tmp_path / "log"
    monkeypatch.setenv("LEARNER_LOG", str(path))
    return lambda: [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """Type a command in the folder of the test, in this process."""

    def go(*words, plugins=PLUGINS):
        monkeypatch.chdir(tmp_path)
        words = [*map(str, words), *(word for plugin in plugins for word in ("-p", plugin))]
        monkeypatch.setattr(sys, "argv", ["robharness", *words])
        code = cli._main(sys.argv[1:])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=int(code), stdout=out, stderr=err)

    return go


@pytest.fixture
def start(tmp_path):
    """Begin a command in a session of its own, as a terminal does."""
    started = []

    def go(verb, source, *words, **environment):
        path = tmp_path / "learning.yaml"
        path.write_text(yaml.safe_dump(source))
        command = [sys.executable, "-c", SCRIPT, verb, str(path), "-p", LEARNER, "-p", TOYS]
        command += ["--store", str(tmp_path / "store"), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in environment.items()}}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(what, seconds=90):
    """What `what()` says, as soon as it says anything."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)
    return found


# --- what is made, and what it is called ------------------------------------------------------------------------------


def test_a_run_trains_and_then_computes_and_the_next_does_neither(quiet, log):
    root, results = quiet
    assert results.is_complete
    made = artefact(suite(), root)
    assert {path.name for path in made.folder.iterdir()} == {
        "weights.safetensors", "recipe.json", "provenance.json", "statistics.jsonl"}  # fmt: skip
    assert [path.name for path in made.folder.parent.iterdir()] == [made.hash]  # no lock, nothing unfinished
    sha256 = file_digest(made.folder / "weights.safetensors")
    assert {result.cell.identity["model"]["weights"] for result in results.cells} == {sha256}
    assert results.clean("Net").accuracy > 0.9  # it has learnt something: chance is a third
    provenance = json.loads((made.folder / "provenance.json").read_text())
    part = results.cells[0].provenance[0]
    assert provenance["sha256"] == sha256
    assert provenance["versions"].items() >= part["versions"].items()
    assert (provenance["device"], provenance["threads"]) == (part["device"], part["threads"])
    assert provenance["plugin"] == LEARNER and provenance["seconds"] > 0 and provenance["processes"] == 1
    assert set(provenance) >= {"machine", "time", "source", "stands_on", "resumed", "label"}
    again = api.run(suite(), store=root, plugins=PLUGINS)
    assert log() == []
    assert [result.cell.key for result in again.cells] == [result.cell.key for result in results.cells]


def test_the_recipe_is_what_was_said_and_the_folder_is_called_by_its_hash(quiet):
    made = artefact(suite(), quiet[0])
    recipe = json.loads((made.folder / "recipe.json").read_text())
    assert recipe == {
        "model": "learner/net",
        "seed": 0,
        "revision": 1,
        "source": file_digest(HERE / "learner.py"),
        "data": {
            "train": {
                "name": "learner/shades",
                "split": "train",
                "source": file_digest(HERE / "learner.py"),
                "fingerprint": planner.plan_data(
                    load(suite(data={"name": "learner/shades", "split": "train"}), discover(PLUGINS)), Path()
                ).identity["fingerprint"],
            }
        },
    }
    assert made.hash == identity.key_of(recipe) and re.fullmatch("[0-9a-f]{24}", made.hash)


SAME = [{"label": "Other"}, {"epochs": 6}, {"note": "x"}, {"reference": True}, {"seed": 0}]
OTHERS = [{"epochs": 5}, {"rate": 0.25}, {"split": "test"}, {"seed": 1}]


@pytest.mark.parametrize("change", [*SAME, *OTHERS], ids=str)
def test_what_makes_another_recipe(change, store):
    same = artefact(suite(NET | change), store).hash == artefact(suite(), store).hash
    assert same is (change in SAME)


def test_the_suites_seed_is_that_of_its_trainings(store):
    assert artefact(suite(seed=3), store).hash == artefact(suite(NET | {"seed": 3}), store).hash
    assert artefact(suite(NET | {"seed": 0}, seed=3), store).hash == artefact(suite(), store).hash


def test_the_source_of_a_loose_file_and_the_data_are_part_of_the_recipe(store, tmp_path):
    def with_source(text):
        changed = tmp_path / "learner.py"
        changed.write_text(text)
        return api.plan(suite(attacks=[]), store=store, plugins=[str(changed)]).trained_models[0].artefact

    before = (HERE / "learner.py").read_text()
    plain = with_source(before)
    assert plain.hash == with_source(before).hash == artefact(suite(), store).hash
    assert with_source(before + "\n# changed\n").hash != plain.hash
    relabelled = with_source(before.replace("index % CLASSES for", "(index + 1) % CLASSES for"))
    fingerprints = [each.recipe["data"]["train"]["fingerprint"] for each in (plain, relabelled)]
    assert fingerprints[0] != fingerprints[1]


def test_the_same_recipe_makes_the_same_weights_and_another_seed_others(quiet, store):
    trained = robharness.train(suite(NET, NET | {"label": "Other", "seed": 1}), store=store, plugins=PLUGINS)
    assert [each.label for each in trained] == ["Net", "Other"]
    assert trained[0].sha256 == next(iter(sha_of(quiet[0]).values())) != trained[1].sha256
    assert all(each.seconds > 0 and not each.error for each in trained)
    found = robharness.train(suite(), store=store, plugins=PLUGINS)
    assert [(each.seconds, each.sha256) for each in found] == [(None, trained[0].sha256)]


def test_two_labels_of_one_recipe_are_trained_once(store, log):
    both = suite(NET, NET | {"label": "Again", "preprocessing": {"channel_order": "bgr"}})
    trained = robharness.train(both, store=store, plugins=PLUGINS)
    assert trained[0].sha256 == trained[1].sha256
    assert len(log()) == 6


def test_a_file_given_by_the_suite_goes_before_training(quiet, store, tmp_path, log):
    file = tmp_path / "weights.safetensors"
    shutil.copy(artefact(suite(), quiet[0]).folder / "weights.safetensors", file)
    results = api.run(suite(NET | {"weights": str(file)}), store=store, plugins=PLUGINS)
    assert log() == [] and not (store / "artefacts").exists()
    assert [r.cell.key for r in results.cells] == [
        r.cell.key for r in quiet[1].cells
    ]  # the same weights, the same cells


def test_what_a_trainer_leaves_changed_in_this_process_is_put_back(store):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    [made] = robharness.train(suite(NET | {"what": "leaves a mess"}), store=store, plugins=PLUGINS)
    assert made.sha256
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled() and torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_live_spec_may_be_trained(store):
    spec = discover([LEARNER]).models["learner/net"].spec
    taught = robharness.Train(data=lambda params: {"train": robharness.DataRef(name="learner/shades", split="train")},
                              train=lambda job: spec.weights.train(_with_params(job, spec.params())))  # fmt: skip
    mine = ModelSpec(name="mine", summary="s", input=spec.input, labels="shades", build=spec.build, weights=taught)
    results = api.run(suite(), store=store, plugins=PLUGINS, models={"Mine": mine})
    assert results.is_complete
    assert np.array_equal(results.clean("Mine").columns["margin"], results.clean("Net").columns["margin"])


def _with_params(job, params):
    return robharness.TrainingJob(**{**vars(job), "params": params})


# --- kills, interruptions, several at once ----------------------------------------------------------------------------


def test_killed_in_the_middle_it_goes_on_to_the_same_weights(quiet, start, store, log):
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
    assert sha_of(store) == sha_of(quiet[0])
    assert not made.unfinished.exists() and not made.lock.exists()
    assert json.loads((made.folder / "provenance.json").read_text())["resumed"] is True
    assert re.fullmatch(rf"Net: {made.hash} \S+/{made.hash} sha256 [0-9a-f]{{12}} [0-9.]+ s\n", out)


def test_two_processes_train_one_artefact_once_and_a_dead_holder_is_followed(quiet, start, store, log):
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
    assert sha_of(store) == sha_of(quiet[0])
    assert json.loads(out)[0]["seconds"] > 0


@pytest.mark.slow
def test_who_waits_finds_what_the_other_has_made(start, store, log):
    holder = start("train", suite(), LEARNER_PAUSE=3)
    wait_for(log)
    other = start("run", suite(), "--json")
    assert wait_for(lambda: next((line for line in iter(other.stderr.readline, "") if "trains it" in line), ""))
    assert holder.wait(90) == 0
    out, err = other.communicate(timeout=90)
    assert other.returncode == 0, err
    assert json.loads(out)["complete"] is True
    assert {process for process, _, _ in log()} == {holder.pid}


def test_a_file_system_without_locks_is_noted(store, monkeypatch):
    def refused(file, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    results = api.run(suite(), store=store, plugins=PLUGINS)
    assert results.is_complete
    kept = Store(store)
    other = api.plan(suite(NET | {"seed": 1}), store=store, plugins=PLUGINS)
    train.train_models(other, kept, listeners.Silent())
    assert kept.notes == [f"the file system of {store} has no locks: train with one process at a time"]


def test_killed_just_before_the_last_step_nothing_is_trained_again(quiet, store, log):
    made = artefact(suite(), quiet[0])
    there = artefact(suite(), store)
    shutil.copytree(made.folder, there.unfinished)
    [found] = robharness.train(suite(), store=store, plugins=PLUGINS)
    assert found.sha256 == artefacts.sha256_of(made.folder) and log() == []
    assert there.folder.is_dir() and not there.unfinished.exists()


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(quiet, start, store, log):
    first = start("run", suite(), LEARNER_PAUSE=0.3)
    wait_for(lambda: len(log()) >= 2)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=90)
    assert first.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("robharness: interrupted while Net was trained; what its trainer left is kept. To go on: ")
    assert last.endswith(f"--store {store}") and "Traceback" not in err
    second = start("run", suite(), "--json")
    out, err = second.communicate(timeout=90)
    assert second.returncode == 0, err
    assert json.loads(out)["complete"] is True
    assert [epoch for _, _, epoch in log()] == [1, 2, 3, 4, 5, 6]
    assert sha_of(store) == sha_of(quiet[0])


def torchrun(tmp_path, source, *words):
    script = tmp_path / "command.py"
    script.write_text(SCRIPT)
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(source))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command += ["train", str(path), "-p", LEARNER, "-p", TOYS, "--store", str(tmp_path / "store"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_one_artefact_together(quiet, tmp_path, store, log):
    done = torchrun(tmp_path, suite())
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("Net: ")]) == 1
    assert done.stderr.count("its training begins") == 1
    processes = Counter(process for process, _, _ in log())
    assert sorted(processes.values()) == [6, 6]
    made = artefact(suite(), store)
    assert json.loads((made.folder / "provenance.json").read_text())["processes"] == 2
    assert [path.name for path in made.folder.parent.iterdir()] == [made.hash]
    alone = load_file(artefact(suite(), quiet[0]).folder / "weights.safetensors")
    for name, value in load_file(made.folder / "weights.safetensors").items():
        torch.testing.assert_close(value, alone[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_failure_under_torchrun_ends_all_of_its_processes(tmp_path, store):
    done = torchrun(tmp_path, suite(NET | {"what": "raises"}, NET | {"label": "Fine"}))
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


# --- what goes wrong --------------------------------------------------------------------------------------------------

WRONG = {
    "raises": "ZeroDivisionError: a loss of nothing",
    "says why": "the loss is not a number in epoch 1. Try: rate: 0.1",
    "exits": "SystemExit: 3",
    "leaves nothing": "its trainer came to an end and wrote no weights.safetensors",
    "leaves text": "what its trainer wrote as weights.safetensors is no safetensors file",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_failed_training_is_recorded_and_blamed_and_the_others_run(what, store):
    source = suite(NET | {"label": "Wrong", "what": what}, NET)
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.labels == ["Net"] and results.clean("Net").is_complete and not results.is_complete
    assert [cell.model.label for cell in results.plan.pending_cells] == ["Wrong"] * 3
    wrong = artefact(source, store)
    said = f"learner/net: {WRONG[what]} ({LEARNER})"
    assert wrong.failure == said and not wrong.folder.exists() and not wrong.lock.exists()
    assert "Traceback" in json.loads(wrong.failed.read_text())["traceback"] or what.startswith("leaves")
    report = build(results)
    assert report.problems == (f"Wrong could not be trained: {said}",)
    assert not report.complete
    assert [row["state"] for row in artefacts.listing(store)] == ["", "failed"]


def test_what_other_code_has_trained_is_warned_of(store, tmp_path, monkeypatch):
    """Of an installed plugin the recipe has the revision alone, and the source is how it was made."""
    package = tmp_path / "taught"
    (package / "robharness_taught-1.0.dist-info").mkdir(parents=True)
    (package / "robharness_taught-1.0.dist-info" / "METADATA").write_text("Name: robharness-taught\nVersion: 1.0\n")
    (package / "robharness_taught-1.0.dist-info" / "entry_points.txt").write_text("[robharness]\ntaught = taught_1\n")
    module = package / "taught_1.py"
    module.write_text((HERE / "learner.py").read_text().replace("learner/shades", "taught/shades"))
    monkeypatch.syspath_prepend(str(package))
    source = suite({"model": "taught/net", "label": "Net"}, data={"name": "taught/shades", "split": "test"})

    def warnings():
        found = api.plan(source, store=store, plugins=[TOYS])
        return found.trained_models[0].artefact.hash, train.stale_trainings(found)

    robharness.train(source, store=store, plugins=[TOYS])
    hash, none = warnings()
    module.write_text(module.read_text() + "\n# changed\n")
    assert none == []
    same, [warning] = warnings()
    assert same == hash
    assert re.fullmatch(r"robharness-taught 1.0: its source was \w{12} when Net was trained, now it is \w{12}; "
                        r"to train again, remove what this shows: robharness list artefacts", warning)  # fmt: skip
    api.run(source, store=store, plugins=[TOYS])
    assert warning in Store(store).runs()[-1]["warnings"]


def test_what_failed_is_tried_again_and_its_record_goes_when_it_is_made(store, monkeypatch, tmp_path):
    broken = tmp_path / "learner.py"
    broken.write_text(
        (HERE / "learner.py").read_text().replace('job.params.what == "raises"', '"BROKEN" in os.environ')
    )
    monkeypatch.setenv("BROKEN", "1")
    [first] = robharness.train(suite(attacks=[]), store=store, plugins=[str(broken)])
    assert "ZeroDivisionError" in first.error and first.artefact.failed.exists() and not first.sha256
    monkeypatch.delenv("BROKEN")
    [second] = robharness.train(suite(attacks=[]), store=store, plugins=[str(broken)])
    assert second.artefact.hash == first.artefact.hash
    assert second.sha256 and not second.error and not first.artefact.failed.exists()


def test_the_exit_codes_of_failures(shell, tmp_path, log):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite(NET | {"label": "Wrong", "what": "raises"}, NET)))
    stopped = shell("train", path, "-x")
    assert stopped.returncode == 3 and log() == []
    assert stopped.stdout == f"Wrong: failed: learner/net: {WRONG['raises']} ({LEARNER})\n"
    assert shell("run", path, "-x").returncode == 3 and log() == []
    ran = shell("run", path, "--json")
    assert ran.returncode == 3 and len(log()) == 6
    assert {cell["model"]: cell["complete"] for cell in json.loads(ran.stdout)["cells"]} == {"Net": True}
    assert "failed: the training of Wrong: learner/net: ZeroDivisionError" in ran.stderr
    assert "3 cells are incomplete; to try them again: robharness run" in ran.stderr
    assert shell("run", path, "--only", "Net").returncode == 0
    assert shell("train", path, "--only", "Net").returncode == 0
    assert shell("train", path).returncode == 3


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"0" * 100), "has the sha256 "),
        (lambda folder: (folder / "weights.safetensors").unlink(), "its weights.safetensors is not there"),
        (lambda folder: (folder / "provenance.json").write_text("{"), "its provenance.json cannot be read"),
    ],
)
def test_a_damaged_artefact_is_an_error_that_names_it(harm, said, quiet, store, shell, tmp_path):
    shutil.copytree(quiet[0], store)
    folder = artefact(suite(), store).folder
    harm(folder)
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite()))
    for verb in ("run", "train", "plan", "report"):
        done = shell(verb, path, "--store", store)
        assert done.returncode == 2
        assert done.stderr.startswith(f"robharness: the artefact {folder} is damaged: ") and said in done.stderr
        assert done.stderr.endswith(f"To train it again: rm -r {folder}, and then robharness train SUITE\n")
    shutil.rmtree(folder)
    assert shell("run", path, "--store", store).returncode == 0


def test_data_that_are_not_there_are_named_once(store):
    planned = plan(suite(NET | {"split": "lost", "seeds": 3}), store)
    assert [str(error) for error in planned.missing] == [
        "the lost shades: not found at data/shades. To get it: make shades"]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('name="learner/shades", split', 'name="learner/shdaes", split', "no data set 'learner/shdaes'; did you mean"),
        ("split=params.split", "split='trian'", "is trained on the split 'trian' of learner/shades, which has train"),
        ("split=params.split", "split=1 / 0", "learner/net ({plugin}): ZeroDivisionError: division by zero"),
        ('DataRef(name="learner', 'dict(name="learner', "its data 'train' are no DataRef"),
    ],
)  # fmt: skip
def test_a_suite_says_where_a_trainers_data_cannot_be(was, now, said, tmp_path):
    plugin = tmp_path / "learner.py"
    plugin.write_text((HERE / "learner.py").read_text().replace(was, now))
    with pytest.raises(SuiteError) as caught:
        api.plan(suite(attacks=[]), plugins=[str(plugin)])
    [error] = caught.value.errors
    assert re.match(r"<mapping>:\d+:\d+: models\.0\.model: ", error)
    assert said.format(plugin=plugin) in error


# --- before it is trained ---------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(tmp_path, store):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite(NET, NET | {"label": "Other", "seed": 1})))
    return path


def test_a_plan_shows_what_waits_and_trains_nothing(shell, untrained, log):
    shown = shell("plan", untrained)
    assert shown.returncode == 0
    waiting = "6 of these cells wait for the training of Net, Other. To train only: robharness train learning.yaml"
    assert waiting in shown.stdout
    assert shown.stdout.count("untrained") == 6
    facts = json.loads(shell("plan", untrained, "--json", "--why").stdout)
    assert facts["untrained"] == ["Net", "Other"]
    assert [(cell["waits"], cell["key"], cell["done"], cell["why"]) for cell in facts["cells"]] == [
        (True, None, 0, "the cell waits for the training of its model")] * 6  # fmt: skip
    assert log() == []
    shell("train", untrained, "--only", "Net")
    facts = json.loads(shell("plan", untrained, "--json").stdout)
    assert [cell["waits"] for cell in facts["cells"]] == [False] * 3 + [True] * 3
    assert "3 of these cells wait" in shell("plan", untrained).stdout


def test_a_report_says_what_is_missing_and_how_to_make_it(shell, untrained, log):
    shown = shell("report", untrained)
    assert shown.returncode == 3 and log() == []
    text = "not trained yet: Net, Other; 6 cells wait for that. To train: robharness train learning.yaml"
    assert text in shown.stdout
    shell("run", untrained, "--only", "Net")
    shown = shell("report", untrained)
    assert shown.returncode == 3
    assert "not trained yet: Other; 3 cells wait for that" in shown.stdout


def test_what_cannot_train_says_who_does(shell, untrained, log):
    said = "robharness: Net, Other are not trained yet. Type first: robharness train learning.yaml\n"
    for words in (["run", untrained, "--shard", "1/2"], ["export-adversarial", untrained, "-o", "out"]):
        done = shell(*words)
        assert (done.returncode, done.stderr) == (2, said)
    done = shell("verify", "learner/net", "--data", "learner/shades/test")
    assert done.returncode == 2
    assert "learner/net with these options and seed 0 is not trained in .robharness" in done.stderr
    assert log() == []
    with pytest.raises(UserError, match="not trained yet"):
        api.run(untrained, plugins=PLUGINS, shard=(1, 2), store=untrained.parent / ".robharness")


def test_once_trained_every_verb_takes_it(shell, untrained, tmp_path):
    assert shell("train", untrained).returncode == 0
    halves = [shell("run", untrained, "--shard", f"{index}/2").returncode for index in (1, 2)]
    assert halves == [0, 0]
    assert shell("report", untrained).returncode == 0
    exported = shell("export-adversarial", untrained, "-o", "out", "--only", "Net")
    assert exported.returncode == 0
    assert exported.stdout.count("0 of 48 stored predictions differ") == 2
    verified = shell("verify", "learner/net", "seed=1", "--data", "learner/shades/test", "--json")
    assert verified.returncode == 0
    accuracies = {way["name"]: way["accuracy"] for way in json.loads(verified.stdout)["ways"]}
    results = api.load(untrained, store=tmp_path / ".robharness", plugins=PLUGINS)
    assert accuracies == {"as declared": results.clean("Other").accuracy}


@pytest.mark.slow
def test_worker_processes_find_what_was_trained(store, quiet):
    results = api.run(suite(), store=store, plugins=PLUGINS, workers=1)
    assert results.is_complete
    assert np.array_equal(results.clean("Net").columns["margin"], quiet[1].clean("Net").columns["margin"])


def test_only_what_the_cells_need_is_trained(shell, tmp_path, log):
    path = tmp_path / "learning.yaml"
    models = [NET, *(NET | {"label": f"S{seed}", "seed": seed} for seed in (1, 2))]
    attack = {"attack": "toys/sign", "eps": "1/8", "source": "S1"}
    path.write_text(yaml.safe_dump(suite(*models, attacks=[attack, SIGN | {"eps": "1/16"}])))
    done = shell("run", path, "--only", "Net")  # one of its cells is crafted on S1
    assert done.returncode == 0
    assert {seed for _, seed, _ in log()} == {0, 1}
    with pytest.raises(UserError, match="no cell matches 'None'"):
        api.plan(path, plugins=PLUGINS).only("None")


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three runs of one model, and one of another."""
    root = tmp_path_factory.mktemp("seeds") / "store"
    source = suite(NET | {"seeds": 3, "reference": True}, NET | {"label": "Short", "epochs": 4}, seed=5,
                   corruptions=[{"corruption": "toys/speckle", "severity": [1, 2, 3]}], canvas=8,
                   expected={"source": "a table", "Net": {"clean": 90.0, "toys/wrong": 0.125}},
                   metrics=["toys/wrong"])  # fmt: skip
    return source, root, api.run(source, store=root, plugins=PLUGINS)


def test_seeds_make_so_many_models(seeds):
    _, root, results = seeds
    assert results.labels == ["Net seed 5", "Net seed 6", "Net seed 7", "Short"]
    assert [row["seed"] for row in sorted(artefacts.listing(root), key=lambda row: row["label"])] == [5, 6, 7, 5]
    assert results.suite.reference == "Net seed 5"
    assert len({result.cell.key for result in results.cells}) == len(results.cells)
    alone = plan(suite(NET | {"seed": 6}), root)
    assert not alone.waiting  # the same recipe, asked for alone


def test_the_report_gives_mean_and_sample_deviation_over_runs(seeds):
    _, _, results = seeds
    facts = as_data(build(results))
    labels = results.labels[:3]
    assert {numbers["model"] for numbers in facts["runs"]} == {"Net"}
    assert [numbers["perturbation"] for numbers in facts["runs"]] == [
        result.cell.short_name for result in results.cells[: len(facts["runs"])]]  # fmt: skip
    for numbers in facts["runs"]:
        runs = [next(r for r in results.cells if (r.cell.model.label, r.cell.short_name)
                     == (label, numbers["perturbation"])) for label in labels]  # fmt: skip
        accuracies = [run.correct.mean() for run in runs]
        assert (numbers["runs"], numbers["asked"]) == (3, 3)
        assert numbers["accuracy"] == pytest.approx(sum(accuracies) / 3)
        deviation = (sum((a - sum(accuracies) / 3) ** 2 for a in accuracies) / 2) ** 0.5
        assert numbers["accuracy_deviation"] == pytest.approx(deviation)
        if numbers["perturbation"] != "clean":
            drops = [1 - run.correct.mean() / results.clean(label).correct.mean()
                     for label, run in zip(labels, runs, strict=True)]  # fmt: skip
            assert numbers["relative_drop"] == pytest.approx(np.mean(drops))
            assert numbers["relative_drop_deviation"] == pytest.approx(np.std(drops, ddof=1))
    assert max(numbers["accuracy_deviation"] for numbers in facts["runs"]) > 0.01
    assert [cell["expected"] for cell in facts["cells"] if cell["perturbation"] == "clean"] == [0.9, 0.9, 0.9, None]
    assert facts["expected_metrics"] == {"toys/wrong": dict.fromkeys(labels, 0.125)}
    assert {slope["model"] for slope in facts["slopes"]} == {"Net seed 6", "Net seed 7", "Short"}
    assert {slope["reference"] for slope in facts["slopes"]} == {"Net seed 5"}


def test_the_tables_have_a_column_for_all_runs(seeds):
    _, _, results = seeds
    report = build(results)
    text = markdown.render(report)
    numbers = next(each for each in report.runs if each.perturbation == "sign(linf, 1/8)")
    shown = (f"{100 * numbers.accuracy:.1f} ± {100 * numbers.accuracy_deviation:.1f} "
             f"↓{100 * numbers.relative_drop:.0f}% ± {100 * numbers.relative_drop_deviation:.0f}")  # fmt: skip
    assert f"| sign(linf, 1/8) | {shown}<br><sub>3 runs</sub> | " in text
    assert "| clean | " in text and "<sub>published 90.00</sub>" in text
    heads = [line for line in text.splitlines() if line.startswith("|  |")]
    assert (
        heads == ["|  | Net | Short |"] * len(heads) and len(heads) == 5
    )  # attacks, corruptions, slopes, errors, metric
    assert "±: sample standard deviation over runs, which differ in their seed" in text
    slopes = text.partition("## Slopes")[2].partition("##")[0]
    assert "<sub>2 of 3 runs</sub>" in slopes
    wrong = [1 - results.clean(label).accuracy for label in results.labels[:3]]
    value = f"{np.mean(wrong):.4g} ± {np.std(wrong, ddof=1):.4g}"
    assert f"| toys/wrong | {value}<br><sub>published 0.125</sub><br><sub>3 runs</sub> |" in text


def test_runs_that_are_not_complete_are_left_out_and_counted(seeds, store):
    source, root, _ = seeds
    shutil.copytree(root, store)
    kept = Store(store)
    planned = plan(source, store)
    gone = next(cell for cell in planned.cells if cell.name.startswith("Net seed 6") and "1/8" in cell.short_name)
    kept.forget(gone.key)
    shutil.rmtree(next(m.artefact.folder for m in planned.trained_models if m.label == "Net seed 7"))
    report = build(robharness.load(source, store=store, plugins=PLUGINS))
    numbers = {each.perturbation: each for each in report.runs}
    assert (numbers["clean"].runs, numbers["clean"].asked) == (2, 3)
    assert numbers[gone.short_name].runs == 1 and numbers[gone.short_name].accuracy_deviation is None
    assert "2 of 3 runs" in markdown.render(report)
    assert "not trained yet: Net seed 7" in " ".join(report.warnings)


def test_one_seed_has_no_deviation_and_the_terminal_shows_all(seeds, capsys):
    from rich.console import Console

    source, root, _ = seeds
    alone = {**source, "models": [NET | {"seeds": 1}], "expected": None, "corruptions": []}
    report = build(robharness.load({k: v for k, v in alone.items() if v is not None}, store=root, plugins=PLUGINS))
    assert [each.accuracy_deviation for each in report.runs] == [None] * 3
    terminal.show(report, Console(width=120))
    shown = capsys.readouterr().out
    assert "1 run" in shown and "± " not in shown.partition("accuracy in")[0]


@pytest.mark.parametrize("seeds", [3, None])
def test_a_gap_is_closed_by_the_means_of_runs_or_by_single_models(store, seeds):
    several = {} if seeds is None else {"seeds": seeds}
    models = [{"model": "learner/net", "label": label, "epochs": epochs} | several
              for label, epochs in (("Some", 3), ("None", 1), ("All", 12))]  # fmt: skip
    source = suite(*models, attacks=[SIGN], gap=["None", "All"], canvas=8,
                   corruptions=[{"corruption": "toys/speckle", "severity": 3}])  # fmt: skip
    results = api.run(source, store=store, plugins=PLUGINS)
    report = build(results)
    facts, text = as_data(report), markdown.render(report)
    assert facts["gap"] == ("None", "All")
    assert [(gap["model"], gap["perturbation"]) for gap in facts["gaps_closed"]] == [
        ("Some", "sign(linf, 1/16)"), ("Some", "sign(linf, 1/8)"), ("Some", "speckle(3)")]  # fmt: skip
    for gap in facts["gaps_closed"]:
        right, clean = (
            {
                label: [r.correct for r in results.cells
                        if (r.cell.model.ref.run_of or r.cell.model.label, r.cell.short_name) == (label, name)]
                for label in ("None", "Some", "All")
            } for name in (gap["perturbation"], "clean")
        )  # fmt: skip
        none, some, every = (np.mean(right[label]) for label in ("None", "Some", "All"))
        assert gap["closed"] == pytest.approx((some - none) / (every - none)) and gap["runs"] == (seeds or 1)
        drops = {
            label: np.mean([
                1 - left.mean() / before.mean() for left, before in zip(right[label], clean[label], strict=True)
            ])
            for label in right
        }  # fmt: skip
        none, some, every = (int(100 * drops[label] + 0.5) for label in ("None", "Some", "All"))
        assert gap["printed"] == (None if none == every else pytest.approx((none - some) / (none - every)))
        wanted = [right[label] if seeds else right[label][0] for label in ("Some", "None", "All")]
        if seeds:
            wanted = [[run.mean() for run in runs] for runs in wanted]
        assert gap["interval"] == statistics.gap_closed_interval(*wanted, paired=seeds is None)
        is_known = np.isfinite(gap["interval"].low)
        interval = "no gap?" if not is_known else "[{:.0f}, {:.0f}]".format(*(100 * b for b in gap["interval"]))
        shown = f"| {gap['perturbation']} | {100 * gap['closed']:.0f}<br><sub>{interval}</sub> |"
        assert shown in text.partition("## Gap closed")[2]
    assert "fraction of the accuracy gap from None to All that is closed" in text
    kept = Store(store)
    gone = next(cell for cell in results.plan.cells if cell.model.label.startswith("All") and "1/8" in cell.short_name)
    kept.forget(gone.key)
    report = build(robharness.load(source, store=store, plugins=PLUGINS))
    last = [gap for gap in report.gaps_closed if gap.perturbation == "sign(linf, 1/8)"]
    assert [(gap.runs, gap.asked, len(gap.interval)) for gap in last] == ([(2, 3, 2)] if seeds else [])
    assert ("2 of 3 runs" in markdown.render(report).partition("## Gap closed")[2]) == bool(seeds)


def test_no_column_is_of_runs_and_of_a_single_model():
    with pytest.raises(SuiteError, match="the label 'Net' is taken by the model in line"):
        api.plan(suite(NET | {"seeds": 2}, NET | {"epochs": 3}), plugins=PLUGINS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model": "toys/net", "seeds": 2}, "toys/net is not trained here, so that it has no seed; leave 'seeds' out"),
        ({"model": "toys/net", "seed": 2}, "toys/net is not trained here, so that it has no seed; leave 'seed' out"),
        (NET | {"weights": "x.pt", "seed": 2}, "learner/net is not trained here, so that it has no seed; leave 'seed'"),
        (NET | {"seeds": 0}, "Input should be greater than or equal to 1"),
        (NET | {"seed": -1}, "Input should be greater than or equal to 0"),
        (NET | {"seeds": 2.5}, "got 2.5"),
    ],
)
def test_a_seed_that_makes_no_sense_is_refused(model, said):
    with pytest.raises(SuiteError) as caught:
        api.plan(suite(model, data={"name": "toys/pixels", "split": "test"}, attacks=[]), plugins=PLUGINS)
    assert said in str(caught.value)


def test_a_plugins_own_option_called_seed_stays_its_own():
    models = [{"model": "teams/net", "label": str(seed), "seed": seed} for seed in (0, 1)]
    source = suite(*models, data={"name": "toys/pixels", "split": "test"}, attacks=[])
    planned = api.plan(source, plugins=[*PLUGINS, str(HERE / "teams.py")])
    assert [model.ref.params.seed for model in planned.models] == [0, 1]


# --- lists and merges -------------------------------------------------------------------------------------------------


def test_the_list_of_artefacts(seeds, shell, tmp_path):
    _, root, _ = seeds
    rows = json.loads(shell("list", "artefacts", "--store", root, "--json", plugins=[]).stdout)
    assert [row["when"] for row in rows] == sorted(row["when"] for row in rows)
    rows.sort(key=lambda row: row["label"])
    assert [row["label"] for row in rows] == ["Net seed 5", "Net seed 6", "Net seed 7", "Short"]
    assert rows[0]["metrics"]["epoch"] == 6 and rows[3]["metrics"]["epoch"] == 4
    assert all(row["size"] > 3000 and row["when"].startswith("20") and row["state"] == "" for row in rows)
    picked = json.loads(shell("list", "artefacts", "Net*", "--store", root, "--json", plugins=[]).stdout)
    assert len(picked) == 3
    by_hash = shell("list", "artefacts", f"{rows[3]['name'][:8]}*", "--store", root, plugins=[])
    assert "Short" in by_hash.stdout and "epoch 4, loss " in by_hash.stdout and "kB" in by_hash.stdout
    none = shell("list", "artefacts", "none", "--store", root, plugins=[])
    assert none.returncode == 2 and none.stderr.endswith(f"Try: robharness list artefacts --store {root}\n")
    empty = shell("list", "artefacts", "--store", tmp_path / "empty", plugins=[])
    assert (empty.returncode, empty.stdout) == (0, "") and "robharness train SUITE" in empty.stderr


def test_the_list_loads_no_library(seeds):
    code = (
        "import sys; from robharness.cli import _main; "
        f"_main(['list', 'artefacts', '--store', {str(seeds[1])!r}]); "
        "print([name for name in ('torch', 'torchvision', 'numpy', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "Short" in done.stdout


def test_artefacts_are_merged_with_checks(quiet, store, tmp_path, shell):
    ours, theirs = Store(tmp_path / "ours"), Store(store)
    shutil.copytree(quiet[0], store)
    shutil.rmtree(store / "cells")  # of a machine that trained and computed nothing
    merged = merge(ours, theirs)
    assert (merged.artefacts, merged.copied, merged.problems) == (1, 0, [])
    assert sha_of(ours.root) == sha_of(store)
    made = artefact(suite(), store)
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == {
        path.name: path.read_bytes() for path in artefact(suite(), ours.root).folder.iterdir()}  # fmt: skip
    assert [path.name for path in (ours.root / "artefacts").iterdir()] == [made.hash]
    assert not plan(suite(), ours.root).waiting
    assert merge(ours, theirs).artefacts == 0
    (made.folder.parent / "0123.training").mkdir()
    assert merge(ours, theirs).problems == []

    other = artefact(suite(), ours.root).folder
    facts = json.loads((other / "provenance.json").read_text())
    weights = (other / "weights.safetensors").read_bytes()
    (other / "weights.safetensors").write_bytes(weights[:-1] + b"x")
    (other / "provenance.json").write_text(json.dumps(facts | {"sha256": file_digest(other / "weights.safetensors")}))
    [problem] = merge(ours, theirs).problems
    assert f"{other} has other weights of the same recipe, and stays" in problem
    done = shell("merge", ours.root, store, plugins=[])
    assert done.returncode == 3 and "other weights of the same recipe" in done.stderr

    (made.folder / "weights.safetensors").write_bytes(b"torn")
    [problem] = merge(Store(tmp_path / "third"), theirs).problems
    assert "has the sha256 " in problem and str(made.folder) in problem
    (made.folder / "weights.safetensors").write_bytes(weights)
    made.folder.rename(made.folder.with_name("renamed"))
    [problem] = merge(Store(tmp_path / "fourth"), theirs).problems
    assert "recipe.json does not belong to its name" in problem
    assert not (tmp_path / "fourth" / "artefacts").exists()


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "rich", "none"])
def test_progress_is_shown_in_every_way(shell, tmp_path, style):
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite()))
    done = shell("train", path, "--display", style)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    if style == "none":
        assert done.stderr == ""
    else:
        assert "Net: its training begins in .robharness/artefacts/" in done.stderr
    if style == "plain":
        assert re.search(
            r"Net: epoch 1 of 6, loss [\d.]+ \([\d.]+ at first, at least 0\), \d+ images/s, \d+ s left", done.stderr
        )


def test_a_listener_hears_of_every_epoch_and_then_of_cells(store):
    heard = []

    class Ear(listeners.Silent):
        def trained(self, label, progress):
            heard.append((label, progress.epoch))

        def cell_done(self, cell, span, failure):
            heard.append(cell.short_name)

    api.run(suite(), store=store, plugins=PLUGINS, listener=Ear())
    assert heard[:6] == [("Net", epoch) for epoch in range(1, 7)]
    assert Counter(heard[6:]).keys() == {"clean", "sign(linf, 1/16)", "sign(linf, 1/8)"}


def test_a_suite_without_trained_models_has_nothing_to_train(shell, tmp_path):
    path = tmp_path / "learning.yaml"
    models = [{"model": "toys/net", "label": "Net"}]
    path.write_text(yaml.safe_dump(suite(*models, data={"name": "toys/pixels", "split": "test"})))
    done = shell("train", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "has no model that is trained" in done.stderr


# --- one training that others start from ----------------------------------------------------------------------


BASED = """
import runpy
from dataclasses import dataclass, replace
from robharness import DataRef, InputSpec, ModelSpec, Train, hookimpl

learner = runpy.run_path({learner!r})

@dataclass(frozen=True, kw_only=True)
class Params(learner["Params"]):
    more: int | None = 2

def base(params):
    return replace(params, more=None) if params.more is not None else None

def train(job):
    from pathlib import Path
    from safetensors.torch import load_file, save_file
    with Path({log!r}).open("a") as log:
        log.write(f"{{job.params.more}} {{job.seed}} {{job.base and job.base.name}}\\n")
    if job.params.what == "raises" and job.base is None:
        raise ZeroDivisionError("the base has nothing")
    if job.base is None:
        return learner["train"](job)
    state = load_file(job.base / "weights.safetensors")
    state["3.bias"] = state["3.bias"] + job.params.more
    save_file(state, job.folder / "weights.safetensors")

@hookimpl
def robharness_models():
    yield ModelSpec(name="net", summary="Starts from another", params=Params, labels="shades",
                    input=InputSpec(shape=(1, 8, 8)), build=learner["build"], weights=Train(
                        data=lambda params: {{"train": DataRef(name="learner/shades", split="train")}},
                        train=train, base=base))
"""


@pytest.fixture
def based(tmp_path):
    """A plugin whose models start from a training that they share, and a log of what was trained."""
    log, plugin = tmp_path / "log", tmp_path / "based.py"
    plugin.write_text(BASED.format(learner=LEARNER, log=str(log)))
    return [*PLUGINS, str(plugin)], log


def test_what_others_start_from_is_trained_once(based, store):
    plugins, log = based
    models = [{"model": "based/net", "label": f"More {more}", "more": more, "epochs": 2} for more in (2, 3)]
    found = api.run(suite(*models), store=store, plugins=plugins)
    assert found.is_complete
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == ["None", "2", "3"]
    assert lines[0][2] == "None" and lines[1][2] == lines[2][2]
    rows = {row["name"]: row for row in artefacts.listing(store)}
    assert len(rows) == 3 and lines[1][2] in rows
    recipes = [artefacts.read(store / "artefacts" / name / "recipe.json") for name in rows]
    assert sorted(recipe.get("base", "") for recipe in recipes) == ["", lines[1][2], lines[1][2]]
    again = api.run(suite(*models), store=store, plugins=plugins)
    assert again.is_complete and len(log.read_text().splitlines()) == 3
    with_seed = [model | {"seed": 5} for model in models[:1]]
    api.run(suite(*with_seed), store=store, plugins=plugins)
    assert len(log.read_text().splitlines()) == 5  # another seed is another base


def test_a_base_that_fails_fails_what_starts_from_it(based, store):
    plugins, _ = based
    found = train.train_models(
        plan_with(suite({"model": "based/net", "label": "Net", "what": "raises"}), store, plugins),
        Store(store),
        Quiet(),
    )
    assert "ZeroDivisionError: the base has nothing" in found[0].error


def plan_with(source, store, plugins):
    return api.plan(source, store=store, plugins=plugins)


class Quiet:
    def trained(self, label, progress): ...

    def message(self, message): ...

    def finished(self): ...
