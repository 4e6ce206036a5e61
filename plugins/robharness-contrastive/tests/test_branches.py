"""Trainings with two branches of BatchNorm: what the artefact keeps, and which branch gives the features."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import robharness_contrastive as contrastive
from robharness_contrastive import artefact, dual, loop, options, params
from robharness_contrastive.networks import Encoder

BARS = runpy.run_path(str(Path(__file__).with_name("bars.py")))
of_bars = BARS["of_bars"]
OPTIONS = {"epochs": 2, "steps": 2}


def trained(job, recipe, folder="job", base=None):
    training = dataclasses.replace(job(recipe, folder), base=base)
    loop.train(training)
    return training.folder / artefact.WEIGHTS


def pixels(images):
    return images.pixels[:20].float() / 255


def test_an_artefact_keeps_both_branches_and_gives_features_of_one(job, images):
    recipe = params.ACL(**of_bars(**OPTIONS, probe=None))
    weights = trained(job, recipe)
    state = load_file(weights)
    assert {key for key in state if ".bn_list." in key and key.startswith("encoder")} == {
        f"encoder.trunk.{layer}.bn_list.{branch}.{name}" for layer in (1, 4, 7) for branch in (0, 1)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }  # fmt: skip
    assert "projection.bn3.bn_list.1.weight" in state and "projection.fc1.bias" in state
    found = []
    for name, number in (("clean", 0), ("adversarial", 1)):
        net = loop.trunk(dataclasses.replace(recipe, branch=name), weights).eval()
        assert not any(isinstance(module, dual.DualBatchNorm) for module in net.modules())
        assert torch.equal(net.trunk[1].running_mean, state[f"encoder.trunk.1.bn_list.{number}.running_mean"])
        found.append(net(pixels(images)))
    assert not torch.equal(*found)
    assert torch.equal(loop.build(recipe, weights).eval()(pixels(images)), found[1])


def test_both_branches_are_probed_on_one_encoder(job, images):
    """A probe on either branch starts from the same encoder, and gives the weights of training both together."""
    for branch in ("clean", "adversarial"):
        recipe = params.ACL(**of_bars(**OPTIONS, branch=branch))
        base = params.base(recipe)
        assert base.probe is None and base.branch == "adversarial" and params.base(base) is None
        encoder = job(base, "encoder").folder
        loop.train(job(base, "encoder"))
        together, based = trained(job, recipe, f"{branch}-both"), trained(job, recipe, f"{branch}-based", encoder)
        found = load_file(based)
        assert all(torch.equal(value, found[name]) for name, value in load_file(together).items())
        net, trunk = (make(recipe, based).eval() for make in (loop.build, loop.trunk))
        torch.testing.assert_close(net(pixels(images)), net.head(trunk(pixels(images))))
    alone = dataclasses.replace(recipe, branch="clean", probe=None)
    assert params.base(alone) == base
    assert load_file(trained(job, alone, "clean-alone", encoder)).keys() == load_file(encoder / artefact.WEIGHTS).keys()


def test_the_branch_of_a_general_encoder_is_its_objectives(job):
    recipes = [
        params.Encoder(**of_bars(**{"epochs": 2}, objective={"name": "acl", "steps": 2, "branch": branch}))
        for branch in ("clean", "adversarial")
    ]
    assert recipes[0] != recipes[1]
    assert params.base(recipes[0]) == params.base(recipes[1]) and params.base(params.base(recipes[0])) is None
    assert params.base(recipes[0]).objective.written == {"name": "acl", "steps": 2}
    own = params.ACL(**of_bars(**OPTIONS, branch="clean"))
    a, b = (load_file(trained(job, recipe, name)) for recipe, name in ((recipes[0], "general"), (own, "own")))
    assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


class Odd(nn.Module):
    """A network of another plugin, with a kind of BatchNorm of its own."""

    class Norm(nn.BatchNorm1d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 16), nn.Linear(16, 16)
        self.norm, self.again = Odd.Norm(16), Odd.Norm(16)

    def forward(self, x):
        return self.again(self.second(self.norm(self.first(x.flatten(1)))))


@pytest.mark.parametrize("objective", ["rocl", "acl"])
def test_a_network_of_another_plugin_is_trained(job, images, objective):
    network = contrastive.network("odd", lambda options, shape: (Odd(), 16))
    given = {"name": objective, "steps": 2, "projection": [8, 4]}
    recipe = params.Encoder(**of_bars(**{"epochs": 2}, network=network, objective=given))
    weights = trained(job, recipe)
    keys = {key for key in load_file(weights) if key.startswith("encoder.trunk.norm")}
    assert ("encoder.trunk.norm.bn_list.1.running_var" in keys) is (objective == "acl")
    net = loop.build(recipe, weights).eval()
    assert isinstance(net.encoder, Encoder) and isinstance(net.encoder.trunk.again, Odd.Norm)
    assert net(pixels(images)).shape == (20, 4)


@pytest.mark.parametrize("kind", [params.RoCL, params.ACL, params.DynACL])
def test_bfloat16_trains(job, kind):
    """The step reaches the objective under mixed precision, too, and gradients reach the weights of the encoder."""
    found = []
    for epochs in (1, 2):
        recipe = kind(**of_bars(**OPTIONS | {"epochs": epochs}, precision="bf16-mixed", probe=None))
        found.append(load_file(trained(job, recipe, f"{epochs}")))
    moved = [key for key, value in found[0].items() if value.ndim == 4 and not torch.equal(value, found[1][key])]
    assert len(moved) == 3


def test_the_branch_is_clean_or_adversarial():
    assert options.TwoBranches().branch == "adversarial" and options.BRANCHES == ("clean", "adversarial")
