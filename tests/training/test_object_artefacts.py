"""Trained weights in an object store: made on one machine, used on others. A machine is a folder of copies."""

import hashlib
import json
import resource
import shutil
import signal

import pytest
import yaml

from robharness import api
from robharness.errors import StoreError
from robharness.locations import local_folder, location
from robharness.planning.artefacts import sha256_of
from robharness.store import Store
from robharness.store.artefacts import ArtefactStore
from toy_training import LEARNER, PLUGINS, TOYS, artefact, plan, sha_of, suite


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go on as another machine: with the copies of that name."""

    def become(name):
        monkeypatch.setenv("ROBHARNESS_CACHE", str(tmp_path / name))

    become("a")
    return become


def copied(place):
    return local_folder(location(place)) / "artefacts"


def test_weights_are_trained_once_for_all_machines(s3, machine, log, undisturbed, shell, tmp_path):
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    [made] = copied(s3.url).iterdir()
    assert {made.name: sha256_of(made)} == sha_of(undisturbed[0]) and len(log()) == 6
    machine("b")
    s3.forget()
    assert not plan(suite(), s3.url).pending_cells and s3.counts("weights.safetensors") == {"get": 1}
    results = api.run(suite(), store=s3.url, plugins=PLUGINS)
    assert len(log()) == 6
    for cell, expected in zip(results.cells, undisturbed[1].cells, strict=True):
        assert cell.columns["margin"].tobytes() == expected.columns["margin"].tobytes()
    s3.forget()
    assert not plan(suite(), s3.url).pending_cells and s3.counts("weights.safetensors") == {}  # the copy is used
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(suite()))
    done = shell("train", "l.yaml", "--store", s3.url)
    assert done.returncode == 0 and "found" in done.stdout


def test_the_list_is_that_of_a_folder_and_reads_no_weights(s3, machine, shell, undisturbed):
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    machine("b")
    s3.forget()
    [there] = json.loads(shell("list", "artefacts", "--store", s3.url, "--json", plugins=[]).stdout)
    [here] = json.loads(shell("list", "artefacts", "--store", undisturbed[0], "--json", plugins=[]).stdout)
    assert s3.counts("weights.safetensors") == {} and there["state"] == there["problem"] == ""
    assert {**there, "when": "", "size": 0} == {**here, "when": "", "size": 0}
    assert abs(there["size"] - here["size"]) < 100  # the provenance has the seconds of the training


def test_a_training_that_is_killed_before_the_last_object_is_not_made_again(s3, machine, log, start_process, tmp_path):
    (tmp_path / "l.yaml").write_text(yaml.safe_dump(suite()))
    words = ("train", "l.yaml", "-p", LEARNER, "-p", TOYS, "--store", s3.url)
    process = start_process(*words, cwd=tmp_path)

    def kill(request):
        if request.kind == "create":
            process.send_signal(signal.SIGKILL)
            return 503
        return None

    s3.fault = kill
    assert process.wait(90) == -signal.SIGKILL and len(log()) == 6
    s3.fault = None
    machine("b")
    assert plan(suite(), s3.url).pending_cells  # to others it is not there
    machine("a")
    [trained] = api.train(suite(), store=s3.url, plugins=PLUGINS)
    assert len(log()) == 6 and not trained.error
    machine("b")
    assert not plan(suite(), s3.url).pending_cells


def test_the_first_of_two_machines_decides_which_weights_count(s3, machine, tmp_path):
    """The other one has uploaded all but the last object by then; it takes the weights of the first."""
    made, store = artefact(suite(), s3.url), Store(location(s3.url))
    artefacts = ArtefactStore(store)
    artefacts.stage(made)
    for folder, text in ((made.unfinished, b"ours"), (tmp_path / "b" / made.hash, b"theirs")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text("{}")
        (folder / "weights.safetensors").write_bytes(text)
        (folder / "provenance.json").write_text(json.dumps({"sha256": hashlib.sha256(text).hexdigest()}))
    theirs = sha256_of(folder)

    def be_slower(request):
        if request.kind == "create" and not be_slower.done:
            be_slower.done = True
            ArtefactStore(Store(location(s3.url))).copy(folder)

    be_slower.done = False
    s3.fault = be_slower
    assert artefacts.commit(made, {}) == artefacts.sha256(made.hash) == theirs
    assert (made.folder / "weights.safetensors").read_bytes() == b"theirs" and not made.unfinished.exists()
    assert sorted(store.files.sizes(store.root / "artefacts" / made.hash)) == [
        f"{theirs}/recipe.json", f"{theirs}/weights.safetensors", "provenance.json",
    ]  # fmt: skip


def test_weights_that_are_damaged_in_the_store_are_named_with_the_command(s3, machine):
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    store = Store(location(s3.url))
    [name] = [name for name in store.files.sizes(store.root / "artefacts") if name.endswith("weights.safetensors")]
    store.files.write(store.root / "artefacts" / name, b"other")
    machine("b")
    with pytest.raises(StoreError, match=rf"the artefact {s3.url}/artefacts/\w+ is damaged: .* Try: aws s3 rm --rec"):
        plan(suite(), s3.url)
    assert not list(copied(s3.url).glob("*"))


def test_a_failed_training_is_known_on_other_machines(s3, machine):
    ArtefactStore(Store(location(s3.url))).fail(artefact(suite(), s3.url), {"error": "too warm", "blame": "the sun"})
    machine("b")
    [model] = plan(suite(), s3.url).untrained
    assert "too warm" in model.failure
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    machine("a")
    assert not plan(suite(), s3.url).untrained and not list(copied(s3.url).glob("*.failed.json"))


def test_copies_of_a_store_that_lost_its_weights_are_put_into_it_again(s3, machine, log):
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    store = Store(location(s3.url))
    store.files.remove([store.root / name for name in store.files.sizes(store.root)])
    assert plan(suite(), s3.url).pending_cells
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    assert len(log()) == 6  # no epoch was trained again
    shutil.rmtree(local_folder(location(s3.url)))
    assert not plan(suite(), s3.url).pending_cells


def test_a_copy_that_this_machine_cannot_hold_is_no_error_of_the_server(s3, machine, tmp_path):
    api.train(suite(), store=s3.url, plugins=PLUGINS)
    machine("b")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))  # bytes of a file
    try:
        with pytest.raises(StoreError, match=rf"{tmp_path}/b\S+ cannot be written: File too large.* Try: df -h /"):
            plan(suite(), s3.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not plan(suite(), s3.url).pending_cells
