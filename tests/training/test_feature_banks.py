"""Features as artefacts: computed once, resumed, locked, checked, listed."""

import json
import os
import re
import signal
import threading

import numpy as np
import pytest
import yaml

import robharness
from robharness import UserError, api
from robharness.engine import listeners
from robharness.evaluation import features as banks
from robharness.evaluation.features import feature_bank
from robharness.planning import artefacts
from robharness.report import build
from robharness.store import Store
from robharness.store.artefacts import ArtefactStore
from robharness.training import train
from toy_probing import PLUGINS, PROBES, plan, probe, suite
from toy_training import TOYS, wait_for


class Listener(listeners.Silent):
    def __init__(self):
        self.messages, self.progress = [], []

    def message(self, message):
        self.messages.append(message)

    def trained(self, label, progress):
        self.progress.append((label, progress))


def features_in(store):
    """The folders of features in a store, complete ones."""
    return [path.parent for path in (store / "artefacts").glob("[0-9a-f]*/features.npy") if "." not in path.parent.name]


def make(source, store, listener=None):
    planned = plan(source, store)
    return train.train_models(planned, Store(store), listener or Listener())


def test_unreadable_examples_are_left_out_and_named(file, store):
    source, listener = suite(probe({"model": "probes/trunk", "weights": str(file)}, train="torn")), Listener()
    [found] = make(source, store, listener)
    assert not found.error
    [folder] = features_in(store)
    ids = json.loads((folder / "ids.json").read_text())
    assert ids == [f"torn-{i}" for i in range(60) if i % 7 != 1]
    assert np.load(folder / "labels.npy").tolist() == [int(id[5:]) % 3 for id in ids]
    assert np.load(folder / "features.npy").shape == (len(ids), 12)
    label = "features of probes/trunk on probes/shades/torn"
    sentence = f"{label}: examples that cannot be read are left out, 9 of 60: torn-1 (half of a file), torn-8"
    assert any(message.startswith(sentence) for message in listener.messages)
    [progress] = [progress for shown, progress in listener.progress if shown == label]
    assert (progress.unit, progress.epoch, progress.epochs, progress.loss) == ("example", 60, 60, None)


def test_data_without_a_readable_example_have_no_features(file, store):
    [found] = make(suite(probe({"model": "probes/trunk", "weights": str(file)}, train="lost")), store)
    assert "no example of probes/shades/lost can be read: half of a file" in found.error and features_in(store) == []


KILLED = """
import sys
import robharness
from robharness.evaluation import features
features.CHUNK_VALUES = 8 * 8 * 20
robharness.train(sys.argv[1], store=sys.argv[2], plugins=sys.argv[3:])
"""


def test_a_killed_computation_goes_on_after_what_is_done(file, store, start_process, tmp_path, passes, monkeypatch):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite(probe({"model": "probes/trunk", "weights": str(file)}))))
    started = start_process(path, store, *PLUGINS, program=["-c", KILLED], environment={"PROBES_PAUSE": "0.2"})
    [model] = plan(path, store).untrained
    record = model.features["train"].artefact.unfinished / banks.STATE
    wait_for(lambda: record.exists() and json.loads(record.read_text())["done"] >= 40)
    started.send_signal(signal.SIGKILL)
    started.communicate(timeout=60)
    done, before = json.loads(record.read_text())["done"], len(passes())
    assert 40 <= done < 90
    with (record.parent / "features.npy").open("ab") as rows:  # half a chunk that was not recorded
        rows.write(b"x" * 100)
    monkeypatch.setattr(banks, "CHUNK_VALUES", 8 * 8 * 20)
    listener = Listener()
    [found] = make(path, store, listener)
    assert not found.error and any("their computation goes on in" in message for message in listener.messages)
    again = [rows for rows in passes()[before:] if rows > 4]
    assert len(again) == -(-(90 - done) // 20)
    [resumed] = features_in(store)
    whole = tmp_path / "whole"
    make(path, whole)
    [undisturbed] = features_in(whole)
    assert (resumed / "features.npy").read_bytes() == (undisturbed / "features.npy").read_bytes()
    assert [name for name in os.listdir(resumed) if name not in os.listdir(undisturbed)] == []


def test_features_are_mapped_from_their_file_and_damage_is_found(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    [model] = plan(source, store).untrained
    make(source, store)
    bank = feature_bank(model.features["train"])
    assert isinstance(bank.features, np.memmap) and not bank.features.flags.writeable
    assert bank.labels.dtype == np.int64 and len(bank.ids) == len(bank.features) == 90
    [folder] = features_in(store)
    content = bytearray((folder / "features.npy").read_bytes())
    content[-1] ^= 1
    (folder / "features.npy").write_bytes(content)
    assert "its features.npy has the sha256" in artefacts.damage(folder)
    assert not plan(source, store).untrained  # a trained probe needs no features
    other = suite(probe({"model": "probes/trunk", "weights": str(file)}, ridge=3.0))
    [found] = make(other, store)
    assert f"{folder} is damaged: its features.npy has the sha256" in found.error and "Try: rm -r" in found.error
    (folder / "labels.npy").unlink()
    [row] = [row for row in artefacts.listing(store) if row["model"].startswith("features")]
    assert row["problem"] == "its labels.npy is missing"


def test_other_data_and_other_encoders_have_other_features(file, store):
    encoder = {"model": "probes/trunk", "weights": str(file)}
    changed = encoder | {"preprocessing": {"resize": [8, 8], "interpolation": "nearest"}}
    models = [probe(encoder), probe(encoder, "B", train="test"), probe(changed, "C"), probe(encoder, "D", ridge=2.0)]
    planned = [model.features["train"].artefact.hash for model in plan(suite(*models), store).untrained]
    assert len({*planned[:3]}) == 3 and planned[3] == planned[0]


def test_a_run_waits_for_features_that_another_computes(file, store, passes):
    source, listener = suite(probe({"model": "probes/trunk", "weights": str(file)})), Listener()
    [model] = plan(source, store).untrained
    artefact = model.features["train"].artefact
    with ArtefactStore(Store(store)).lock(artefact, lambda holder: None):
        waiting = threading.Thread(target=make, args=(source, store, listener))
        waiting.start()
        wait_for(lambda: any("this process waits" in message for message in listener.messages))
        assert passes() == []
    waiting.join(60)
    assert len(features_in(store)) == 1
    assert "computes them; this process waits" in next(text for text in listener.messages if "waits" in text)


def test_processes_that_follow_wait_for_features(file, store, monkeypatch):
    """They compute none; and they end if the first process of their job has failed."""
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    [model] = plan(source, store).untrained
    artefact = model.features["train"].artefact
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    job = train.Job.here()
    artefact.folder.parent.mkdir(parents=True)
    failure = {"error": "probes/trunk: no", "blame": "probes", "job": job.name}
    artefact.failed.write_text(json.dumps(failure))
    [found] = make(source, store)
    assert "probes/trunk: no" in found.error
    artefact.failed.write_text(json.dumps(failure | {"job": "an earlier one"}))
    results = []
    following = threading.Thread(target=lambda: results.append(train.follow(
        model.features["train"], artefact, ArtefactStore(Store(store)), Listener(), train.Machine(), job)))  # fmt: skip
    following.start()
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name)
    make(source, store)
    following.join(60)
    assert results[0].sha256 == artefacts.sha256_of(artefact.folder) and not results[0].error


@pytest.mark.slow
def test_two_processes_of_torchrun_compute_features_once(file, store, run_process, tmp_path, passes):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite(probe({"model": "probes/trunk", "weights": str(file)}))))
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "robharness"]
    done = run_process("train", path, "-p", PROBES, "-p", TOYS, "--store", store, program=program, timeout=180)
    assert done.returncode == 0, done.stderr
    rows = [n for n in passes() if n > 4]
    assert sum(rows) < 90 + max(rows) and len(features_in(store)) == 1


def test_a_result_says_why_features_cannot_be_computed(file, store, tmp_path):
    path = tmp_path / "suite.yaml"
    file.write_bytes(file.read_bytes()[:100])
    path.write_text(yaml.safe_dump(suite(probe({"model": "probes/trunk", "weights": str(file)}))))
    [found] = make(path, store)
    assert str(file) in found.error and "Traceback" not in found.error
    with pytest.raises(UserError, match=r"the training of Probe failed: probes/trunk: .*Try: robharness train"):
        raise train.untrained(plan(path, store))


def test_features_that_fail_are_tried_once_and_said_of_every_head_in_the_report(file, store):
    """From the store alone, too. The encoder's plugin is named, also by a head that loads the encoder itself."""
    good = {"model": "probes/trunk", "weights": str(file)}
    bad, listener = good | {"weights": str(file.with_name("bad.safetensors"))}, Listener()
    (file.with_name("bad.safetensors")).write_bytes(file.read_bytes()[:100])
    source = suite(probe(bad, "A"), probe(bad, "B", ridge=2.0), probe(good, "Good"))
    found = make(source, store, listener)
    assert [bool(each.error) for each in found] == [True, True, False] and found[0].error == found[1].error
    assert sum("failed: " in message for message in listener.messages) == 1
    assert f"({PROBES})" in found[0].error and "probes/trunk: " in found[0].error
    results = api.run(source, store=store, plugins=PLUGINS)
    for each in (results, api.load("probing", store=store)):
        [problem] = build(each).problems
        assert problem == f"A, B could not be trained: {found[0].error}"
    whole = api.run(suite(probe(good, "Good")), store=store, plugins=PLUGINS)
    assert whole.is_complete


def test_a_model_without_a_training_says_why_its_encoder_failed(store):
    source = suite({"model": "probes/first", "encoder": {"model": "probes/recipe", "epochs": -1}, "label": "First"})
    results = api.run(source, store=store, plugins=PLUGINS)
    for each in (results, api.load("probing", store=store)):
        [problem] = build(each).problems
        assert problem.startswith("First could not be trained: probes/recipe: ValueError: -1 epochs")


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (
            "batch",
            r"its features for an example depend on the other examples of the pass, by \S+ of their range. Usual",
        ),
        ("noise", "its forward pass draws from the global generator of torch, in eval mode"),
        ("state", "its features change from one call to the next"),
    ],
)
def test_features_that_do_not_depend_on_the_example_alone_are_refused(mistake, sentence, file, store, monkeypatch):
    """A pass pads its last rows, so that such features would depend on the order and on the size of a pass."""
    monkeypatch.setenv("PROBES_MISTAKE", mistake)
    [found] = make(suite(probe({"model": "probes/trunk", "weights": str(file)})), store)
    assert re.search(sentence, found.error) and features_in(store) == []


def test_artefacts_of_features_are_listed_and_not_needed_by_a_shard(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    with pytest.raises(UserError, match=r"Probe is not trained yet. Try: "):
        api.run(source, store=store, plugins=PLUGINS, shard=(1, 2))
    robharness.train(source, store=store, plugins=PLUGINS)
    assert {row["model"] for row in artefacts.listing(store)} == {
        "probes/linear", "features of probes/trunk"}  # fmt: skip
    [folder] = features_in(store)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    halves = [api.run(source, store=store, plugins=PLUGINS, shard=(i, 2)) for i in (1, 2)]
    assert halves[1].is_complete and features_in(store) == []
