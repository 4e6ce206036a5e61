"""Every registry by a third party: a package from outside the tree, in a fresh environment, from the command line."""

import json

import pytest
import yaml

from outside import build_wheels, fresh_python, pip, run

HOOK = '''
"""Parts of encoders. Without torch: classes are named as text."""

from dataclasses import dataclass

from robharness import hookimpl
from robharness_contrastive import Augmentation, augmentation, linear_probe, network, objective


@dataclass(frozen=True, kw_only=True)
class Pull:
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Dense:
    width: int = 24


@dataclass(frozen=True, kw_only=True)
class Nearest:
    scale: float = 1.0


@hookimpl
def robharness_components():
    yield objective("pull", "outside_networks:Pull", Pull, summary="Views of an image alike, images apart")
    yield network("dense", "outside_networks:dense", Dense, summary="One hidden layer", revision=2)
    yield augmentation("crops", "outside_networks:crops", summary="Crops alone")
    yield linear_probe("nearest", "outside_networks:Nearest", Nearest, summary="Nearest class mean")
'''
NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional

from robharness_contrastive import Augmentation, Loss, Objective, Probe


class Pull(Objective):
    def forward(self, encode, views, labels, step):
        a, b = (functional.normalize(encode(view), dim=1) for view in views)
        apart = functional.cross_entropy(a @ b.T * 5, torch.arange(len(a), device=a.device))
        return Loss(apart + self.options.strength * (a - b).square().sum(1).mean(), {})


def dense(options, shape):
    size = shape[0] * shape[1] * shape[2]
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, options.width))
    return net, options.width


def crops(options):
    return Augmentation(scale=(0.7, 1.0), flip=0.0, jitter=0.0, grey=0.0)


class Nearest(Probe):
    """Nearest class mean, which is linear: 2 h . m - m . m."""

    def fit(self, task):
        h = task.features()
        means = torch.stack([h[task.labels == label].mean(0) for label in range(task.classes)])
        head = nn.Linear(task.width, task.classes, device=h.device)
        scale = self.options.scale
        head.load_state_dict({"weight": 2 * scale * means, "bias": -scale * means.square().sum(1)})
        return head
'''
PARTS = ["crops", "dense", "nearest", "pull"]
SUITE = {
    "robharness": 1,
    "name": "outside",
    "data": {"name": "samples/digits", "split": "test", "limit": 100},
    "models": [
        {"model": "contrastive/encoder", "label": "Outside", "data": "samples/digits", "epochs": 2, "lr": 0.05,
         "objective": {"name": "outside/pull", "strength": 2.0}, "network": {"name": "outside/dense", "width": 32},
         "augmentation": "outside/crops", "probe": {"kind": "outside/nearest", "scale": 0.5}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a fresh environment with the package."""
    package = {"outside-parts": ("outside", {"outside_parts": HOOK, "outside_networks": NETWORKS}, "robharness")}
    wheels = build_wheels(tmp_path_factory.mktemp("wheels"), package)
    return fresh_python(tmp_path_factory.mktemp("fresh") / "venv", wheels)


def test_a_suite_names_an_objective_a_network_an_augmentation_and_a_probe_of_a_package(python, tmp_path):
    def robharness(*words):
        return run(python, "-m", "robharness", *words, cwd=tmp_path)

    listed = robharness("list", "components", "outside/*", "--json")
    assert listed.returncode == 0, listed.stderr + robharness("list", "plugins").stdout
    listed = json.loads(listed.stdout)
    assert [(row["name"], row["plugin"]) for row in listed] == [
        (f"outside/{name}", "outside-parts 0.5") for name in PARTS
    ]
    assert [row["role"] for row in listed] == ["augmentation", "network", "probe", "objective"]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    assert robharness("plan", "suite.yaml").returncode == 0
    done = robharness("run", "suite.yaml", "--json", "--display", "none")
    assert done.returncode == 0, done.stderr
    [cell] = json.loads(done.stdout)["cells"]
    assert cell["complete"] and cell["accuracy"] > 0.5  # chance is a tenth
    artefacts = tmp_path / ".robharness/artefacts"
    recipes = [json.loads(path.read_text()) for path in artefacts.glob("*/recipe.json")]
    [whole] = [recipe for recipe in recipes if recipe["params"].get("probe") is not None]
    assert whole["params"] | {"data": ""} == {
        "data": "", "epochs": 2, "lr": 0.05,
        "objective": {"name": "outside/pull", "params": {"strength": 2.0}},
        "network": {"name": "outside/dense", "params": {"width": 32}, "revision": 2},
        "augmentation": {"name": "outside/crops"},
        "probe": {"name": "outside/nearest", "params": {"scale": 0.5}},
    }  # fmt: skip
    for path in artefacts.glob("*/provenance.json"):
        used = json.loads(path.read_text())["components"]
        assert {"objective", "network", "augmentation"} <= set(used)
        assert {part["plugin"] for part in used.values()} == {"outside-parts 0.5"}
        assert all(len(part["source"]) == 12 for part in used.values())
    assert "computed nothing again" in robharness("run", "suite.yaml", "--display", "plain").stderr
    schema = json.loads(robharness("schema").stdout)
    assert '"outside/dense"' in json.dumps(schema["$defs"])
    pip("--python", python, "uninstall", "--yes", "outside-parts")
    without = robharness("plan", "suite.yaml")
    assert without.returncode == 2
    assert "models.0.network.name: 'outside/dense' needs a plugin 'outside', which is not there" in without.stderr
