"""Trained models: their recipes, their artefacts, and their lists and merges; real gradients throughout."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import robharness
from robharness import ModelSpec, api, discover
from robharness.planning import data, identity
from robharness.planning.weights import file_digest
from robharness.store import Store
from robharness.store.merge import merge
from robharness.suite import load
from toy_training import HERE, LEARNER, NET, PLUGINS, artefact, plan, sha_of, suite

# --- what is made, and what it is called ------------------------------------------------------------------------------


def test_a_run_trains_and_then_computes_and_the_next_does_neither(undisturbed, log):
    root, results = undisturbed
    assert results.is_complete
    made = artefact(suite(), root)
    assert {path.name for path in made.folder.iterdir()} == {
        "weights.safetensors", "recipe.json", "provenance.json", "metrics.jsonl"}  # fmt: skip
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


def test_the_recipe_is_recorded_and_the_folder_is_named_by_its_hash(undisturbed):
    made = artefact(suite(), undisturbed[0])
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
                "fingerprint": data.plan_data(
                    load(suite(data={"name": "learner/shades", "split": "train"}), discover(PLUGINS)), Path()
                ).identity["fingerprint"],
            }
        },
    }
    assert made.hash == identity.key_of(recipe) and re.fullmatch("[0-9a-f]{24}", made.hash)


SAME = [{"label": "Other"}, {"epochs": 6}, {"note": "x"}, {"reference": True}, {"seed": 0}]
OTHERS = [{"epochs": 5}, {"rate": 0.25}, {"split": "test"}, {"seed": 1}]


@pytest.mark.parametrize("change", [*SAME, *OTHERS], ids=str)
def test_options_that_change_the_recipe(change, store):
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
    fingerprints = [each.training_spec["data"]["train"]["fingerprint"] for each in (plain, relabelled)]
    assert fingerprints[0] != fingerprints[1]


def test_the_same_recipe_makes_the_same_weights_and_another_seed_others(undisturbed, store):
    trained = robharness.train(suite(NET, NET | {"label": "Other", "seed": 1}), store=store, plugins=PLUGINS)
    assert [each.label for each in trained] == ["Net", "Other"]
    assert trained[0].sha256 == next(iter(sha_of(undisturbed[0]).values())) != trained[1].sha256
    assert all(each.seconds > 0 and not each.error for each in trained)
    found = robharness.train(suite(), store=store, plugins=PLUGINS)
    assert [(each.seconds, each.sha256) for each in found] == [(None, trained[0].sha256)]


def test_two_labels_of_one_recipe_are_trained_once(store, log):
    both = suite(NET, NET | {"label": "Again", "preprocessing": {"channel_order": "bgr"}})
    trained = robharness.train(both, store=store, plugins=PLUGINS)
    assert trained[0].sha256 == trained[1].sha256
    assert len(log()) == 6


def test_weights_of_the_suite_replace_training(undisturbed, store, tmp_path, log):
    file = tmp_path / "weights.safetensors"
    shutil.copy(artefact(suite(), undisturbed[0]).folder / "weights.safetensors", file)
    results = api.run(suite(NET | {"weights": str(file)}), store=store, plugins=PLUGINS)
    assert log() == [] and not (store / "artefacts").exists()
    assert [r.cell.key for r in results.cells] == [
        r.cell.key for r in undisturbed[1].cells
    ]  # the same weights, the same cells


def test_global_state_changed_by_a_trainer_is_restored(store):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    [made] = robharness.train(suite(NET | {"what": "leaves a mess"}), store=store, plugins=PLUGINS)
    assert made.sha256
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled() and torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_live_spec_may_be_trained(store):
    spec = discover([LEARNER]).models["learner/net"].spec
    training = robharness.Train(data=lambda params: {"train": robharness.DataRef(name="learner/shades", split="train")},
                              train=lambda job: spec.weights.train(_with_params(job, spec.params())))  # fmt: skip
    mine = ModelSpec(name="mine", summary="s", input=spec.input, labels="shades", build=spec.build, weights=training)
    results = api.run(suite(), store=store, plugins=PLUGINS, models={"Mine": mine})
    assert results.is_complete
    assert np.array_equal(results.clean("Mine").columns["margin"], results.clean("Net").columns["margin"])


def _with_params(job, params):
    return robharness.TrainingJob(**{**vars(job), "params": params})


# --- lists and merges -------------------------------------------------------------------------------------------------


def test_artefacts_are_listed(seeds, shell, tmp_path):
    _, root, _ = seeds
    rows = json.loads(shell("list", "artefacts", "--store", root, "--json", plugins=[]).stdout)
    assert [row["when"] for row in rows] == sorted(row["when"] for row in rows)
    rows.sort(key=lambda row: row["label"])
    assert [row["label"] for row in rows] == ["Net seed 5", "Net seed 6", "Net seed 7", "Short"]
    assert rows[0]["metrics"]["epoch"] == 6 and rows[3]["metrics"]["epoch"] == 4
    assert all(row["size"] > 3000 and row["when"].startswith("20") and row["state"] == "" for row in rows)
    assert all(row["processes"] == 1 for row in rows)
    picked = json.loads(shell("list", "artefacts", "Net*", "--store", root, "--json", plugins=[]).stdout)
    assert len(picked) == 3
    by_hash = shell("list", "artefacts", f"{rows[3]['name'][:8]}*", "--store", root, plugins=[])
    assert "Short" in by_hash.stdout and "epoch 4, loss " in by_hash.stdout and "kB" in by_hash.stdout
    assert "processes" not in by_hash.stdout
    shutil.copytree(root / "artefacts" / rows[3]["name"], tmp_path / "shared/artefacts" / rows[3]["name"])
    provenance = tmp_path / "shared/artefacts" / rows[3]["name"] / "provenance.json"
    provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"processes": 4}))
    shared = shell("list", "artefacts", "--store", tmp_path / "shared", plugins=[])
    assert "   processes   " in shared.stdout and "   4   epoch 4, loss " in shared.stdout
    none = shell("list", "artefacts", "none", "--store", root, plugins=[])
    assert none.returncode == 2 and none.stderr.endswith(f"Try: robharness list artefacts --store {root}\n")
    empty = shell("list", "artefacts", "--store", tmp_path / "empty", plugins=[])
    assert (empty.returncode, empty.stdout) == (0, "") and "no suite has trained a model there" in empty.stderr


def test_listing_artefacts_loads_no_library(seeds, run_process):
    code = (
        "import sys; from robharness.cli import main; "
        "main(); "
        "print([name for name in ('torch', 'torchvision', 'numpy', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    done = run_process("list", "artefacts", "--store", seeds[1], program=["-c", code])
    assert done.returncode == 0 and done.stderr.strip() == "[]" and "Short" in done.stdout


def test_artefacts_are_merged_with_checks(undisturbed, store, tmp_path, shell):
    ours, theirs = Store(tmp_path / "ours"), Store(store)
    shutil.copytree(undisturbed[0], store)
    shutil.rmtree(store / "cells")  # of a machine that trained and computed nothing
    merged = merge(ours, theirs)
    assert (merged.artefacts, merged.copied, merged.problems) == (1, 0, [])
    assert sha_of(ours.root) == sha_of(store)
    made = artefact(suite(), store)
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == {
        path.name: path.read_bytes() for path in artefact(suite(), ours.root).folder.iterdir()}  # fmt: skip
    assert [path.name for path in (ours.root / "artefacts").iterdir()] == [made.hash]
    assert not plan(suite(), ours.root).pending_cells
    assert merge(ours, theirs).artefacts == 0
    (made.folder.parent / "0123.training").mkdir()
    assert merge(ours, theirs).problems == []

    other = artefact(suite(), ours.root).folder
    facts = json.loads((other / "provenance.json").read_text())
    weights = (other / "weights.safetensors").read_bytes()
    (other / "weights.safetensors").write_bytes(weights[:-1] + b"x")
    (other / "provenance.json").write_text(json.dumps(facts | {"sha256": file_digest(other / "weights.safetensors")}))
    [problem] = merge(ours, theirs).problems
    assert f"{other} has other weights of the same training; it is not replaced" in problem
    done = shell("merge", ours.root, store, plugins=[])
    assert done.returncode == 3 and "other weights of the same training" in done.stderr

    (made.folder / "weights.safetensors").write_bytes(b"torn")
    [problem] = merge(Store(tmp_path / "third"), theirs).problems
    assert "has the sha256 " in problem and str(made.folder) in problem
    (made.folder / "weights.safetensors").write_bytes(weights)
    made.folder.rename(made.folder.with_name("renamed"))
    [problem] = merge(Store(tmp_path / "fourth"), theirs).problems
    assert "recipe.json does not belong to its name" in problem
    assert not (tmp_path / "fourth" / "artefacts").exists()
