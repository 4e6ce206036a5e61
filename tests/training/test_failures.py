"""Trainings that fail, artefacts that are damaged, and data that are missing."""

import json
import re
import shutil

import pytest
import yaml

import robharness
from robharness import api
from robharness.engine.provenance import outdated_trainings
from robharness.errors import SuiteError, UserError
from robharness.planning import artefacts
from robharness.report import build
from robharness.store import Store
from robharness.text import attributed
from toy_training import HERE, LEARNER, NET, PLUGINS, TOYS, artefact, plan, suite

# --- what goes wrong --------------------------------------------------------------------------------------------------

WRONG = {
    "raises": "ZeroDivisionError: a loss of nothing",
    "says why": "the loss is not a number in epoch 1. Try: rate: 0.1",
    "exits": "SystemExit: 3",
    "leaves nothing": "its trainer came to an end and wrote no weights.safetensors",
    "leaves text": "the weights.safetensors that its trainer wrote is no safetensors file",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_failed_training_is_recorded_with_its_plugin_and_the_others_run(what, store):
    source = suite(NET | {"label": "Wrong", "what": what}, NET)
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.labels == ["Net"] and results.clean("Net").is_complete and not results.is_complete
    assert [cell.model.label for cell in results.plan.pending_cells] == ["Wrong"] * 3
    wrong = artefact(source, store)
    message = attributed(f"learner/net: {WRONG[what]}", LEARNER)
    assert wrong.failure == message and not wrong.folder.exists() and not wrong.lock.exists()
    assert "Traceback" in json.loads(wrong.failed.read_text())["traceback"] or what.startswith("leaves")
    report = build(results)
    assert report.problems == (f"Wrong could not be trained: {message}",)
    assert not report.complete
    assert [row["state"] for row in artefacts.listing(store)] == ["", "failed"]


def test_a_store_alone_shows_the_failed_training_and_what_waits_for_it(store):
    results = api.run(suite(NET | {"label": "Wrong", "what": "raises"}, NET), store=store, plugins=PLUGINS)
    alone = build(api.load("learning", store=store))
    assert alone.problems == build(results).problems and "Wrong could not be trained" in alone.problems[0]
    assert alone.cells == build(results).cells and not alone.complete
    [listed] = api.stored(store)
    assert (listed.complete_cells, listed.cells) == (3, 6)


def test_a_change_of_the_training_code_is_reported(store, tmp_path, monkeypatch):
    """An installed plugin is named by its revision in the recipe; its source stands in the provenance."""
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
        return found.trained_models[0].artefact.hash, [str(each) for each in outdated_trainings(found)]

    robharness.train(source, store=store, plugins=[TOYS])
    hash, none = warnings()
    module.write_text(module.read_text() + "\n# changed\n")
    assert none == []
    same, [warning] = warnings()
    assert same == hash
    assert re.fullmatch(r"robharness-taught 1.0: its source was \w{12} when Net was trained, now it is \w{12}; "
                        r"to train again, remove the folders that this shows: robharness list artefacts",
                        warning)  # fmt: skip
    api.run(source, store=store, plugins=[TOYS])
    assert warning in Store(store).runs()[-1]["warnings"]


def test_a_failed_training_is_tried_again_and_its_record_is_removed_on_success(store, monkeypatch, tmp_path):
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
    assert shell("train", path, "--only", "Net").returncode == 0
    assert shell("run", path, "-x").returncode == 3
    assert not (tmp_path / ".robharness/cells").exists(), "after a failed training, -x computes no cells of others"
    completed = shell("run", path, "--json")
    assert completed.returncode == 3 and len(log()) == 6
    assert {cell["model"]: cell["complete"] for cell in json.loads(completed.stdout)["cells"]} == {"Net": True}
    assert "failed: the training of Wrong: learner/net: ZeroDivisionError" in completed.stderr
    assert "3 cells are incomplete; to try again: robharness run" in completed.stderr
    assert shell("run", path, "--only", "Net").returncode == 0
    assert shell("train", path, "--only", "Net").returncode == 0
    assert shell("train", path).returncode == 3


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"0" * 100), "has the sha256 "),
        (lambda folder: (folder / "weights.safetensors").unlink(), "its weights.safetensors is missing"),
        (lambda folder: (folder / "provenance.json").write_text("{"), "its provenance.json cannot be read"),
    ],
)
def test_a_damaged_artefact_is_an_error_that_names_it(harm, message, undisturbed, store, shell, tmp_path):
    shutil.copytree(undisturbed[0], store)
    folder = artefact(suite(), store).folder
    harm(folder)
    path = tmp_path / "learning.yaml"
    path.write_text(yaml.safe_dump(suite()))
    for verb in ("run", "train", "plan", "report"):
        done = shell(verb, path, "--store", store)
        assert done.returncode == 2
        assert done.stderr.startswith(f"robharness: the artefact {folder} is damaged: ") and message in done.stderr
        assert f"Try: rm -r {folder}\n" in done.stderr
    shutil.rmtree(folder)
    assert shell("run", path, "--store", store).returncode == 0


@pytest.mark.parametrize(
    "place",
    ["artefacts", "artefacts/HASH", "artefacts/HASH.lock", "artefacts/HASH.training", "cells", "cells/1c", "runs"],
)
def test_a_link_to_nothing_in_the_store_is_named_before_anything_is_trained(place, store, log):
    link = store / place.replace("HASH", artefact(suite(), store).hash)
    link.parent.mkdir(parents=True)
    link.symlink_to("/nowhere/at/all")
    for verb in (api.run, api.train):
        with pytest.raises(UserError, match=rf"Try: (ls -ld|rm -r) {link}$"):
            verb(suite(), store=store, plugins=PLUGINS)
    assert log() == []


def test_data_that_are_not_there_are_named_once(store):
    planned = plan(suite(NET | {"split": "lost", "seeds": 3}), store)
    assert [str(error) for error in planned.missing] == [
        "the lost shades: not found at data/shades. To get it: make shades"]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ('name="learner/shades", split', 'name="learner/shdaes", split', "no data set 'learner/shdaes'; did you mean"),
        ("split=params.split", "split='trian'", "on 'train': learner/shades has no split 'trian'; it has train"),
        ("split=params.split", "split=1 / 0", "learner/net ({plugin}): ZeroDivisionError: division by zero"),
        ('DataRef(name="learner', 'dict(name="learner', "its data 'train' are no DataRef"),
    ],
)  # fmt: skip
def test_data_of_a_trainer_with_an_unusable_location_are_refused(was, now, message, tmp_path):
    plugin = tmp_path / "learner.py"
    plugin.write_text((HERE / "learner.py").read_text().replace(was, now))
    with pytest.raises(SuiteError) as caught:
        api.plan(suite(attacks=[]), plugins=[str(plugin)])
    [error] = caught.value.errors
    assert re.match(r"<mapping>:\d+:\d+: models\.0\.model: ", error)
    assert message.format(plugin=plugin) in error
