"""Heads in suites: input and preprocessing of the encoder, labels of the data, and errors with places."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import robharness
from robharness import discover
from robharness.errors import SuiteError
from robharness.report import build
from robharness.report.renderers.json import render
from robharness.suite import load
from robharness_probe import params, protocol

PLUGIN = """
from robharness import InputSpec, ModelSpec, Preprocessing, hookimpl


def build(params, weights):
    import torch

    return torch.nn.Flatten()


@hookimpl
def robharness_models():
    common = {"summary": "Pixels", "labels": "none", "features": "", "build": build}
    yield ModelSpec(name="image", input=InputSpec(shape=(1, 6, 6)), preprocessing=Preprocessing(resize=6), **common)
    yield ModelSpec(name="video", input=InputSpec(kind="video", shape=(3, 8, 32, 32)), **common)
"""
IMAGE = {"encoder": {"model": "pixels/image"}, "data": "samples/digits"}
VIDEO = {"encoder": {"model": "pixels/video"}, "data": "samples/moving-digits"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "pixels.py"
    path.write_text(PLUGIN)
    return discover([str(path)])


@pytest.fixture
def read(registry):
    def call(model, data="samples/digits"):
        suite = {"robharness": 1, "name": "heads", "data": {"name": data, "split": "test"}, "models": [model]}
        [found] = load(suite, registry).models
        return found

    return call


@pytest.mark.parametrize(
    "name", ["linear", "knn", "centroid", "finetune", "adversarial", "slf", "alf", "aff", "le", "rle"]
)
def test_input_and_preprocessing_are_the_encoders_and_labels_those_of_the_data(read, name):
    spec = read({"model": f"probe/{name}", **IMAGE}).entry.spec
    assert spec.input.shape == (1, 6, 6) and spec.preprocessing.resize == 6 and spec.labels == "digits"
    assert spec.features == "features"


def test_retrieval_fits_data_with_any_labels(read):
    assert read({"model": "probe/retrieval", **IMAGE}).entry.spec.labels == "instances"


@pytest.mark.parametrize("name", ["linear", "knn", "centroid", "retrieval", "le"])
def test_heads_on_features_take_videos(read, name):
    spec = read({"model": f"probe/{name}", **VIDEO}, "samples/moving-digits").entry.spec
    assert spec.input.kind == "video"


@pytest.mark.parametrize("name", ["finetune", "adversarial", "slf", "alf", "aff", "rle"])
def test_heads_on_images_refuse_videos(read, name):
    sentence = r"pixels/video takes videos, and this head is trained on images; write `model: probe/linear`"
    with pytest.raises(SuiteError, match=sentence):
        read({"model": f"probe/{name}", **VIDEO}, "samples/moving-digits")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"model": "probe/knn", "k": 0, **IMAGE}, r"k=0 must be above 0"),
        ({"model": "probe/linear", "l2": -1.0, **IMAGE}, r"l2=-1.0 must be at least 0"),
        ({"model": "probe/finetune", "flip": 1.5, **IMAGE}, r"crop=0.5 and flip=1.5 must be at most 1"),
        ({"model": "probe/finetune", "head_lr": 0.0, **IMAGE}, r"head_lr=0.0 must be above 0"),
        ({"model": "probe/adversarial", "steps": 0, **IMAGE}, r"steps=0 must be above 0"),
        ({"model": "probe/slf", "epochs": 20, **IMAGE}, r"milestones=\[10, 20\] must rise between 0 and epochs=20"),
        ({"model": "probe/aff", "beta": -1.0, **IMAGE}, r"beta=-1.0 must be at least 0"),
        ({"model": "probe/linear", "solver": "newton", **IMAGE}, r"models.0.solver.*'newton'"),
        ({"model": "probe/linear", "data": "samples/digits"}, r"missing key 'encoder'"),
    ],
)
def test_wrong_options_are_refused(read, model, sentence):
    with pytest.raises(SuiteError, match=sentence):
        read(model)


@pytest.fixture
def run(tmp_path):
    """A function (models) -> the report of a suite with these models on 30 digits, as data."""

    def call(*models):
        plugin = tmp_path / "pixels.py"
        plugin.write_text(PLUGIN)
        small = {"epochs": 2, "milestones": [1], "data": {"name": "samples/digits", "limit": 120}}
        source = {
            "robharness": 1,
            "name": "protocols",
            "data": {"name": "samples/digits", "split": "test", "limit": 30},
            "canvas": "none",
            "models": [{"model": f"probe/{name}", "label": name, **IMAGE, **small, **more} for name, more in models],
        }
        results = robharness.run(source, store=tmp_path / "store", plugins=[str(plugin)])
        return json.loads(render(build(results)))

    return call


def test_a_suite_with_several_protocols_says_which_model_has_which(run):
    found = run(
        ("slf", {}), ("alf", {"steps": 2}), ("le", {}), ("rle", {"steps": 2}), ("aff", {"steps": 2, "crop": 0.5})
    )
    changed = "epochs=2, milestones=[1]"
    assert found["complete"] and [cell["n"] for cell in found["cells"]] == [30] * 5
    protocols = found["protocols"]
    assert protocols["slf"] == f"SLF with {changed}" and protocols["le"] == f"LE with {changed}"
    assert protocols["aff"].startswith("AFF with epochs=2") and "crop=0.5" in protocols["aff"]
    [warning] = [each for each in found["findings"] if each["code"] == "mixed-protocols"]
    assert warning["severity"] == "warning" and f"r-LE with {changed}, steps=2" in warning["message"]


def test_two_models_of_one_protocol_are_no_warning(run):
    found = run(("slf", {}), ("slf", {"label": "again", "seed": 1}))
    assert found["complete"] and len(found["protocols"]) == 2
    assert "mixed-protocols" not in [each["code"] for each in found["findings"]]


def test_a_protocol_names_changed_options_as_a_suite_writes_them():
    changed = params.LE(encoder=None, data=None, standardize=True, milestones=None)
    assert protocol("LE", changed) == "LE with standardize=true, milestones=null"
    assert protocol("LE", params.LE(encoder=None, data=None)) == "LE"


def test_declarations_import_neither_torch_nor_numpy():
    script = """
import sys
import robharness_probe
assert len(list(robharness_probe.robharness_models())) == 11
heavy = {"torch", "torchvision", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
