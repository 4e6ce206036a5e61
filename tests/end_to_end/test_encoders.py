"""Heads on one encoder in one suite: features computed once, heads by content of the encoder's file, and label-free."""

import json
from pathlib import Path

import pytest
import torch

from robharness import api

PLUGIN = """
from dataclasses import dataclass

from robharness import File, InputSpec, ModelSpec, checkpoints, hookimpl


def build(params, weights):
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten())
    checkpoints.load(net, weights, [checkpoints.Layout(name="our network")])
    return net


@hookimpl
def robharness_models():
    yield ModelSpec(
        name="net", summary="Random features", input=InputSpec(shape=(1, 8, 8)), labels="none", features="",
        build=build, weights=File(path="net.pth"),
    )
"""


@pytest.fixture
def encoder(tmp_path):
    """A function (seed) that writes the file of the encoder and gives the encoder as a suite has it."""
    (tmp_path / "mine.py").write_text(PLUGIN)

    def write(seed):
        generator = torch.Generator().manual_seed(seed)
        state = {"0.weight": torch.empty(8, 1, 3, 3).normal_(generator=generator), "0.bias": torch.zeros(8)}
        torch.save(state, tmp_path / "net.pth")
        return {"model": "mine/net", "weights": str(tmp_path / "net.pth")}

    return write


@pytest.fixture
def run(tmp_path):
    def call(models, **keys):
        suite = {"robharness": 1, "name": "heads", "data": {"name": "samples/digits", "split": "test", "limit": 40}}
        plugins = [str(tmp_path / "mine.py")]
        return api.run({**suite, "models": models, **keys}, store=tmp_path / "store", plugins=plugins)

    return call


def artefacts(folder: Path, file: str):
    return {path.parent.name for path in (folder / "store/artefacts").glob(f"*/{file}")}


def test_five_heads_share_the_features_and_follow_the_encoders_content(encoder, run, tmp_path):
    short = {"epochs": 1, "flip": 0.0, "data": {"name": "samples/digits", "limit": 200}}
    heads = {"linear": {}, "knn": {}, "centroid": {}, "finetune": short, "adversarial": {**short, "steps": 1}}

    def models(seed):
        common = {"encoder": encoder(seed), "data": "samples/digits"}
        return [{"model": f"probe/{name}", "label": name, **common, **options} for name, options in heads.items()]

    first = run(models(0), attacks=[{"attack": "attacks/fgsm", "norm": "linf", "eps": 0.2}])
    assert first.is_complete
    features, weights = artefacts(tmp_path, "features.npy"), artefacts(tmp_path, "weights.safetensors")
    assert len(features) == 1 and len(weights) == 5
    assert min(first.clean(name).accuracy for name in ("linear", "knn", "centroid")) > 0.6
    [attacked] = first.of("knn", "attack")
    assert attacked.accuracy < first.clean("knn").accuracy - 0.1
    run(models(0))  # the same file: nothing is trained again
    assert artefacts(tmp_path, "weights.safetensors") == weights
    again = run(models(1))  # another file under the same path
    assert len(artefacts(tmp_path, "features.npy")) == 2
    assert len(artefacts(tmp_path, "weights.safetensors")) == 10
    assert again.plan.models[0].identity != first.plan.models[0].identity


def test_an_encoder_without_labels_is_attacked_by_its_features(encoder, run, tmp_path):
    data = {"name": "samples/digits", "split": "test", "limit": 40}
    results = run(
        [{"model": "probe/retrieval", "encoder": encoder(0), "data": data, "label": "Encoder"}],
        attacks=[{"attack": "attacks/features", "norm": "linf", "eps": 0.25, "steps": 5}],
    )
    assert results.is_complete
    assert results.clean("Encoder").accuracy == 1.0
    [attacked] = results.of("Encoder", "attack")
    assert attacked.accuracy < 0.9
    recipe = next((tmp_path / "store/artefacts").glob("*/features.npy")).with_name("recipe.json")
    assert json.loads(recipe.read_text())["data"]["name"] == "samples/digits"
