"""sigma-zero, and FMN under l0: the fewest values that can fool a plane, the peers' medians, and the budget."""

from __future__ import annotations

import foolbox
import numpy as np
import pytest
import torch

from robharness import Classifier
from robharness_attacks.norms import length, project

ATTACKS = [("fmn", {"norm": "l0"}), ("sigma-zero", {})]
every_attack = pytest.mark.parametrize(("name", "options"), ATTACKS)


def far(attack, name, net, batch, steps=100, **options):
    """The nearest points found, whatever their distance."""
    return attack(name, net, batch, float("inf"), steps=steps, **options)


def fewest(x, weights, gap):
    """The least number of values whose change raises weights . x by more than gap inside [0, 1]."""
    gains = weights.abs() * torch.where(weights > 0, 1 - x, x)
    return int((gains.sort(descending=True).values.cumsum(0) <= gap).sum()) + 1


@every_attack
def test_the_fewest_values_that_cross_a_plane(attack, linear, uniform, batch_of, name, options):
    x = uniform(1, 40, 1, 6, 6)
    weights = torch.from_numpy(np.random.default_rng(4).normal(size=36).astype(np.float32))
    score = x.flatten(1) @ weights
    offset = float(score.max()) + 0.5
    exact = torch.tensor([fewest(row, weights, offset - float(s)) for row, s in zip(x.flatten(1), score, strict=True)])
    assert 1 <= int(exact.min()) < int(exact.max()) <= 12
    result = far(attack, name, linear(weights, offset), batch_of(x, [0] * 40), 300, rows=8, **options)
    counts = length(result.x - x, "l0").long()
    assert result.notes["found"].all()
    assert (counts >= exact).all()
    excess = (counts - exact).float()
    assert float(excess.mean()) < {"fmn": 0.7, "sigma-zero": 0.1}[name]
    assert float((excess == 0).float().mean()) > {"fmn": 0.4, "sigma-zero": 0.9}[name]


@pytest.mark.parametrize(("name", "options", "steps"), [(*ATTACKS[0], 30), (*ATTACKS[0], 100), (*ATTACKS[1], 100)])
def test_medians_are_foolboxs_or_less(attack, digits, batch_of, name, options, steps):
    """sigma-zero begins with changes of many values, and needs more steps than FMN."""
    net, x, labels = (part[:200] if torch.is_tensor(part) else part for part in digits)
    peer = foolbox.attacks.L0FMNAttack(steps=steps).run(foolbox.PyTorchModel(net.eval(), (0, 1)), x, labels)
    right = net(x).argmax(1) == labels
    medians = []
    for found in (far(attack, name, net, batch_of(x, labels), steps, rows=50, **options).x, peer):
        count = torch.where(net(found).argmax(1) != labels, length(found - x, "l0"), torch.inf)
        medians.append(float(count[right].median()))
    assert 1 < medians[0] <= medians[1] < 12


@every_attack
def test_budgets_share_one_search(attack, digits, batch_of, name, options):
    net, x, labels = digits
    batch, model = batch_of(x[:60], labels[:60]), Classifier(net, batch_size=30)
    model.grad_mode_exact = True
    batch.logits(model)
    model.passes.clear()
    found = attack(name, model, batch, float("inf"), steps=25, **options).x
    distance = torch.where(model.decisions(found) != labels[:60], length(found - x[:60], "l0"), torch.inf)
    for eps in (1, 3, 6):
        within = attack(name, model, batch, eps, steps=25, **options).x
        assert torch.equal(model.decisions(within) == labels[:60], distance > eps)
        assert length(within - x[:60], "l0").max() <= eps
    assert model.passes["backward"] == 2 * 25


@every_attack
def test_neighbours_and_order_change_nothing(attack, conv_net, uniform, batch_of, name, options):
    net, x = conv_net(), uniform(2, 23, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    whole = far(attack, name, net, batch, 20, **options)
    assert whole.notes["found"].all()
    for part in np.split(np.random.default_rng(0).permutation(23), [1, 6]):
        alone = far(attack, name, net, batch.select(torch.from_numpy(part)), 20, **options)
        assert torch.equal(alone.x, whole.x[part])


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)


@every_attack
def test_misclassified_inputs_and_robust_ones_stay(attack, batch_of, uniform, name, options):
    batch = batch_of(uniform(1, 5, 1, 4, 4), [0, 1, 0, 1, 0])
    result = far(attack, name, Constant(), batch, 5, **options)
    assert result.notes["found"].tolist() == [False, True, False, True, False]
    assert torch.equal(result.x, batch.x)


def test_the_threshold_of_sigma_zero_makes_it_sparse(attack, digits, batch_of):
    """Without thresholds, as in the paper's ablation, the smooth norm alone leaves many small changes."""
    net, x, labels = digits
    batch = batch_of(x[:60], labels[:60])
    counts = []
    for change in ("0.01", "1e-9"):
        options = {} if change == "0.01" else {"threshold": 0, "threshold_step": 1e-9}
        found = far(attack, "sigma-zero", net, batch, 100, rows=30, **options).x
        counts.append(length(found - batch.x, "l0").median())
    assert counts[0] * 2 < counts[1]


def test_the_l0_projection_keeps_the_largest_changes():
    origin = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5]])
    x = torch.tensor([[0.6, 0.3, 1.4, 0.7], [0.4, 0.6, 0.2, 0.5]])
    kept = project(x, origin, torch.tensor([2.0, 1.0]), "l0")
    assert torch.equal(kept, torch.tensor([[0.5, 0.3, 1.0, 0.5], [0.4, 0.9, 0.5, 0.5]]))  # of equal changes the first
    assert torch.equal(project(x, origin, 0.0, "l0"), origin)
    assert torch.equal(project(x, origin, 4.0, "l0"), x.clamp(0, 1))
