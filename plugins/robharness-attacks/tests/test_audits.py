"""The attacks of audits: random noise in closed form, and the probe on networks whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from robharness import AuditTarget, Batch, Budget, Classifier, ExampleRNG, plan
from robharness_attacks.audits import audits
from robharness_attacks.noise import Noise
from robharness_attacks.params import NoiseParams, ProbeParams
from robharness_attacks.probe import Probe

IDS = [f"example {row}" for row in range(8)]
NORMS = {"linf": np.inf, "l2": 2, "l1": 1}


def draws(address="audits"):
    return ExampleRNG(0, address, IDS, torch.device("cpu"))


def gray(side=16):
    return torch.full((len(IDS), 1, side, side), 0.5)


def batch(x):
    return Batch(ids=IDS, x=x, labels=torch.zeros(len(x), dtype=torch.long))


@pytest.mark.parametrize("norm", NORMS)
def test_noise_on_the_edge_has_exactly_the_size_of_the_budget(norm):
    x = gray()
    moved = Noise(NoiseParams(norm=norm)).perturb(None, batch(x), 0.25, draws())
    sizes = np.linalg.norm((moved - x).double().flatten(1).numpy(), ord=NORMS[norm], axis=1)
    assert np.allclose(sizes, 0.25, rtol=1e-5)
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("norm", NORMS)
def test_noise_inside_is_uniform_in_the_ball(norm):
    """The share of a uniform point's radius below r is r ** n in n dimensions, here 2."""
    ids = [f"point {row}" for row in range(2000)]
    x = torch.full((len(ids), 1, 1, 2), 0.5)
    rng = ExampleRNG(0, "audits", ids, torch.device("cpu"))
    points = Batch(ids=ids, x=x, labels=torch.zeros(len(ids), dtype=torch.long))
    moved = Noise(NoiseParams(norm=norm, at="inside")).perturb(None, points, 0.25, rng)
    radii = np.linalg.norm((moved - x).double().flatten(1).numpy(), ord=NORMS[norm], axis=1) / 0.25
    assert abs((radii < 0.5).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(ids))
    assert radii.max() <= 1 + 1e-6


def test_noise_at_the_corners_has_both_signs_equally_often():
    moved = Noise(NoiseParams()).perturb(None, batch(gray()), 0.25, draws())
    up = (moved > 0.5).double().mean()
    assert abs(float(up) - 0.5) < 4 * 0.5 / np.sqrt(moved.numel())
    assert set((moved - 0.5).abs().flatten().tolist()) == {0.25}


class Linear(nn.Module):
    """Two classes, whose margin is the sum of all pixels times a slope."""

    def __init__(self, slope=1.0, step=0.0, scale=1.0):
        super().__init__()
        self.slope, self.step, self.scale = slope, step, scale

    def forward(self, x):
        seen = (x / self.step).round() * self.step if self.step else x
        value = self.slope * seen.flatten(1).sum(1) * self.scale
        return torch.stack([-value, value], 1)


def notes(net, x=None, eps=0.001):
    x = gray(4) if x is None else x
    classifier = Classifier(net.eval(), batch_size=4, device=torch.device("cpu"))
    found = Probe(ProbeParams()).perturb(classifier, batch(x), eps, draws("probe"))
    assert torch.equal(found.x, x)
    return {name: np.asarray(column) for name, column in found.notes.items()}


def test_the_rise_of_a_linear_loss_is_that_of_its_gradient():
    found = notes(Linear())
    assert np.allclose(found["predicted_rise"], 2 * 16 * 0.001, rtol=1e-4)  # both logits move
    assert np.allclose(found["gradient_rise"], found["predicted_rise"], rtol=1e-3)
    assert (found["random_rise"] <= found["gradient_rise"]).all()
    silent = ("zero_gradient", "nan_gradient", "blind_step", "repeat_difference", "neighbour_difference")
    assert not any(found[name].any() for name in silent)


def test_rounded_inputs_hide_steps_below_half_a_level_and_have_no_gradient():
    found = notes(Linear(step=0.125))
    assert found["zero_gradient"].all() and not found["gradient_rise"].any()
    assert np.allclose(found["blind_step"], 0.016)  # the largest of the tried steps


def test_the_gradient_of_the_cross_entropy_underflows_and_that_of_the_margin_does_not():
    sure, unsure = notes(Linear(slope=-1, scale=100.0)), notes(Linear(slope=-1, scale=0.1))
    assert sure["underflow"].all() and not sure["zero_gradient"].any()
    assert not unsure["underflow"].any()


def test_a_root_at_zero_gives_a_gradient_that_is_not_finite():
    class Root(nn.Module):
        def forward(self, x):
            value = (x.flatten(1).sum(1) - 8).abs().sqrt()
            return torch.stack([-value, value], 1)

    assert notes(Root())["nan_gradient"].all()


def test_neighbours_and_repetitions_that_count_are_measured():
    class Mean(nn.Module):
        def forward(self, x):
            value = x.flatten(1).sum(1) + 0.1 * x.sum()
            return torch.stack([-value, value], 1)

    class Counter(nn.Module):
        calls = 0

        def forward(self, x):
            Counter.calls += 1
            value = x.flatten(1).sum(1) + 0.01 * Counter.calls
            return torch.stack([-value, value], 1)

    x = gray(4) * torch.linspace(0.2, 1, len(IDS)).view(-1, 1, 1, 1)
    assert (notes(Mean(), x)["neighbour_difference"] > 1e-3).all()
    assert (notes(Counter())["repeat_difference"] > 1e-5).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", None])
def test_every_role_has_attacks_where_its_ball_exists(norm):
    eps = None if norm is None else Budget("1/10")
    target = AuditTarget(norm=norm, eps=eps, steps=20, sources=("a", "b"))
    items = {each.role: each.items(target) for each in audits()}
    assert items["probe"] and items["unbounded"]
    in_ball = {role for role, found in items.items() if found} - {"probe", "unbounded"}
    assert in_ball == set() if norm is None else {"noise", "stronger", "black-box", "transfer"} <= in_ball
    assert {"attacks/square", "attacks/rays"} == {item["attack"] for item in items["black-box"]} or norm != "linf"
    assert all(item["restarts"] == 2 and item["steps"] == 50 for item in items["stronger"])
    assert all(item["eps"] == "1/10" and item["norm"] == norm for role in in_ball for item in items[role])


def test_a_suite_of_counts_and_measures_has_an_audit(tmp_path):
    """Under l0, and under a plugin's own measure, no attack of an audit has a ball; the probe needs none."""
    (tmp_path / "suite.yaml").write_text(
        "{robharness: 1, name: x, audit: true, data: {name: samples/mnist-5k, split: test, limit: 2}, models: "
        "[{model: contrastive/simclr}], attacks: [{attack: attacks/patch, eps: 16}, {attack: attacks/sigma-zero, "
        "eps: 5}, {attack: attacks/autoattack, norm: l2, eps: 1}]}"
    )
    added = plan(tmp_path / "suite.yaml").suite.audit_attacks
    assert {each.norm for each in added} == {"linf", "l2"}
    assert [each.name for each in added if each.audit == "noise"] == ["noise(l2, 1)"]
    assert all("steps=500" in each.name for each in added if each.audit == "stronger")
