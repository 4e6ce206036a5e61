"""Encoders in the options of models: trained on their features, by their files' content, computed once."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import robharness
from probes import CLASSES, Shades, filled, trunk_network
from robharness import api
from robharness.planning import artefacts
from toy_training import HERE

PLUGINS = [str(HERE / "support" / "probes.py"), str(HERE / "toys.py")]


@pytest.fixture
def file(tmp_path):
    """The path of an encoder's weights."""
    path = tmp_path / "mine.safetensors"
    save_file(filled(trunk_network(), 0).state_dict(), path)
    return path


@pytest.fixture
def passes(tmp_path, monkeypatch):
    """Return the rows of each pass of a network."""
    path = tmp_path / "passes"
    monkeypatch.setenv("PROBES_LOG", str(path))
    return lambda: [int(line) for line in path.read_text().split()] if path.exists() else []


def suite(*models, **changes):
    base = {"robharness": 1, "name": "probing", "data": {"name": "probes/shades", "split": "test"}}
    return base | {"models": list(models)} | changes


def probe(encoder, label="Probe", **options):
    return {"model": "probes/linear", "encoder": encoder, "label": label} | options


def plan(source, store, **options):
    return api.plan(source, store=store, plugins=PLUGINS, **options)


def features_of(model):
    """Return the planned features of a model by role."""
    return dict(model.features)


def test_a_probe_learns_on_features_and_is_measured_with_its_encoder(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.is_complete
    net = filled(trunk_network(), 0).eval()
    data = Shades("train", 90)
    x = torch.stack([torch.from_numpy(data.read(i)).permute(2, 0, 1) / 255 for i in range(90)])
    with torch.no_grad():
        features = net(x).double()
    [made] = [folder for folder in (store / "artefacts").iterdir() if (folder / "features.npy").exists()]
    stored = np.load(made / "features.npy")
    np.testing.assert_allclose(stored, features.numpy(), atol=1e-5)
    assert np.load(made / "labels.npy").tolist() == data.labels
    assert json.loads((made / "ids.json").read_text()) == data.ids
    rows = torch.cat([features, torch.ones(90, 1, dtype=torch.double)], 1)
    targets = torch.nn.functional.one_hot(torch.tensor(data.labels), CLASSES).double()
    solved = torch.linalg.solve(rows.T @ rows + torch.eye(rows.shape[1]), rows.T @ targets)
    test = Shades("test", 48)
    x = torch.stack([torch.from_numpy(test.read(i)).permute(2, 0, 1) / 255 for i in range(48)])
    with torch.no_grad():
        predicted = (net(x).double() @ solved[:-1] + solved[-1]).argmax(1)
    accuracy = (predicted == torch.tensor(test.labels)).double().mean().item()
    assert results.clean("Probe").accuracy == pytest.approx(accuracy) and accuracy > 0.5


def test_five_probes_cost_one_pass_over_the_data(file, store, passes):
    source = suite(*(probe({"model": "probes/trunk", "weights": str(file)}, f"P{i}", ridge=0.5 + i) for i in range(5)))
    trained = robharness.train(source, store=store, plugins=PLUGINS)
    assert [each.error for each in trained] == [""] * 5
    rows = [n for n in passes() if n > 2]  # a pass of two rows shows which modules follow the features
    [made] = [row for row in artefacts.listing(store) if row["model"] == "features of probes/trunk"]
    assert 90 <= sum(rows) < 90 + max(rows)  # the last pass is padded
    assert made["state"] == made["problem"] == ""
    before = len(passes())
    again = robharness.train(
        suite(probe({"model": "probes/trunk", "weights": str(file)}, "Sixth", ridge=9.0)), store=store, plugins=PLUGINS
    )
    assert again[0].sha256 and max(passes()[before:], default=0) <= 2


def test_an_encoder_that_is_replaced_under_its_path_trains_its_probe_again(file, store):
    source = suite(probe({"model": "probes/trunk", "weights": str(file)}))
    first = api.run(source, store=store, plugins=PLUGINS)
    assert not plan(source, store).untrained
    save_file(filled(trunk_network(), 1).state_dict(), file)
    planned = plan(source, store)
    assert [model.label for model in planned.untrained] == ["Probe"]
    second = api.run(source, store=store, plugins=PLUGINS)
    assert second.cells[0].cell.key != first.cells[0].cell.key
    assert len([row for row in artefacts.listing(store) if row["model"].startswith("features")]) == 2


def test_a_suite_trains_an_encoder_and_then_its_probe(store):
    encoder = {"model": "probes/recipe", "epochs": 2}
    source = suite(probe(encoder, seeds=2), {"model": "probes/first", "encoder": encoder, "label": "First"}, seed=3)
    trained = robharness.train(source, store=store, plugins=PLUGINS)
    assert [each.error for each in trained] == [""] * 3
    results = api.run(source, store=store, plugins=PLUGINS)
    assert results.is_complete and not plan(source, store).untrained
    found = [row["model"] for row in artefacts.listing(store)]
    assert sorted(found) == sorted(["probes/recipe", "features of probes/recipe", "probes/linear"] * 2)
