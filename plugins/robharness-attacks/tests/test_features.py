"""Attacks on features reach large distances in three measures without labels, and depend on the example alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import Budget, Classifier
from robharness_attacks.features import Contrastive, cosine, euclidean

EPS = {"linf": 0.03, "l2": 0.5, "l1": 2.0}
FEATURES = "4"
"""Name of the flattened feature maps of the small convolutional network, (N, 72)."""


@pytest.fixture
def case(conv_net, uniform, batch_of):
    return conv_net(), batch_of(uniform(3, 16, 3, 8, 8), np.arange(16) % 5)


def features(net, x):
    return Classifier(net, batch_size=7, features=FEATURES).with_access("features").features(x)


def far(net, batch, x, distance="cosine"):
    """Return the distances in float64, by an independent implementation."""
    clean, now = (features(net, part).double() for part in (batch.x, x))
    if distance == "l2":
        return torch.linalg.vector_norm(now - clean, dim=1)
    alike = torch.nn.functional.cosine_similarity(now[:, None], clean[None], dim=2)
    if distance == "cosine":
        return 1 - alike.diagonal()
    return torch.nn.functional.cross_entropy(alike / 0.5, torch.arange(len(batch)), reduction="none")


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("distance", ["cosine", "l2", "contrastive"])
def test_the_reported_distance_is_right_and_more_than_chance(attack, case, distance, norm, keep):
    net, batch = case
    options = {"distance": distance, "norm": norm, "keep": keep}
    result = attack("features", net, batch, EPS[norm], features=FEATURES, **options)
    reached = far(net, batch, result.x, distance)
    torch.testing.assert_close(result.notes["distance"].double(), reached, rtol=1e-4, atol=1e-5)
    start = attack("features", net, batch, EPS[norm], features=FEATURES, **options, steps=1, abs_step=Budget("1e-9"))
    from_start = far(net, batch, start.x, distance) - far(net, batch, batch.x, distance)
    assert (reached - far(net, batch, batch.x, distance) > 2 * from_start).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_objective_is_best_in_its_own_distance(attack, case, norm):
    net, batch = case
    found = {}
    for distance in ("cosine", "l2", "contrastive"):
        options = {"norm": norm, "distance": distance, "steps": 20, "restarts": 2}
        found[distance] = attack("features", net, batch, EPS[norm], features=FEATURES, **options).x
    for distance in found:
        reached = {name: float(far(net, batch, x, distance).mean()) for name, x in found.items()}
        assert max(reached, key=reached.get) == distance


def test_linear_features_reach_the_optimum(attack, batch_of, uniform):
    """For W x the optimum in l2 is along the first singular vector, in either direction."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6, bias=False), torch.nn.Linear(6, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=(6, 48))))
        net[1].weight[0] *= 3
    batch = batch_of(0.4 + 0.2 * uniform(0, 8, 3, 4, 4), [0] * 8)
    options = {"norm": "l2", "distance": "l2", "steps": 40, "rel_step": Budget("0.2"), "features": "1"}
    reached = attack("features", net, batch, 0.1, **options).notes["distance"]
    largest = 0.1 * float(torch.linalg.svdvals(net[1].weight)[0])
    assert (reached >= 0.95 * largest).all()
    assert (reached <= largest * (1 + 1e-4)).all()


def test_more_restarts_and_steps_reach_larger_distances(attack, case):
    net, batch = case
    once, again, longer = (
        attack("features", net, batch, 0.03, features=FEATURES, **options).notes["distance"]
        for options in ({}, {"restarts": 4}, {"steps": 40, "rel_step": Budget("0.25")})
    )
    assert (again >= once).all() and (again > once).any()
    assert longer.mean() > once.mean()


@pytest.mark.parametrize("options", [
    {"norm": "linf"}, {"norm": "l2", "distance": "l2", "keep": "last"}, {"norm": "l1", "restarts": 2},
], ids=str)  # fmt: skip
def test_neighbours_order_and_labels_change_nothing(attack, case, batch_of, options):
    net, batch = case
    eps = EPS[options["norm"]]
    whole = attack("features", net, batch, eps, features=FEATURES, **options)
    order = np.random.default_rng(0).permutation(16)
    for part in map(torch.from_numpy, (order[:1], order[1:6], order[6:])):
        one = attack("features", net, batch.select(part), eps, features=FEATURES, **options)
        assert torch.equal(one.x, whole.x[part])
        assert torch.equal(one.notes["distance"], whole.notes["distance"][part])
    other = attack("features", net, batch_of(batch.x, [0] * 16), eps, features=FEATURES, **options)
    assert torch.equal(other.x, whole.x)


def test_a_block_in_another_order_gives_each_example_the_same(attack, case):
    """The negatives of the contrastive loss are a set; only the rounding of their sum may differ."""
    net, batch = case
    order = torch.from_numpy(np.random.default_rng(0).permutation(16))
    options = {"features": FEATURES, "distance": "contrastive", "norm": "l2"}
    whole = attack("features", net, batch, 0.5, **options)
    again = attack("features", net, batch.select(order), 0.5, **options)
    torch.testing.assert_close(again.x, whole.x[order], rtol=0, atol=1e-4)


def test_contrastive_needs_no_random_start_and_shares_its_first_gradient(attack, case):
    net, batch = case
    model = Classifier(net, batch_size=8, features=FEATURES)
    options = {"distance": "contrastive", "random_start": False, "steps": 3}
    for eps in (0.01, 0.02):
        attack("features", model, batch, eps, **options)
    assert dict(model.passes) == {"forward": 2 + 2 + 2 * (4 + 2), "backward": 2 + 2 * 4}
    found = attack("features", model, batch, 0.03, **options)
    assert (found.notes["distance"] > far(net, batch, batch.x, "contrastive") + 0.01).all()


def test_a_block_of_one_has_no_negatives(attack, case):
    net, batch = case
    part = batch.select(torch.tensor([3]))
    result = attack("features", net, part, 0.03, features=FEATURES, distance="contrastive")
    assert result.notes["distance"].tolist() == [0.0]


def test_clips_have_features_too(attack, uniform, batch_of):
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 2), torch.nn.Flatten(), torch.nn.Linear(4 * 3 * 15, 2))
    batch = batch_of(uniform(0, 5, 3, 4, 4, 6), [0] * 5)
    for norm, eps in EPS.items():
        assert (attack("features", net, batch, eps, features="0", norm=norm).notes["distance"] > 1e-4).all()


def test_distances_of_small_examples():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    clean = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    torch.testing.assert_close(cosine(features, clean), torch.tensor([0.04, 1.0]))
    torch.testing.assert_close(euclidean(features, clean), torch.tensor([2**0.5, 1.0]))
    about = torch.tensor([[[4.0, 3.0], [-3.0, -4.0], [4.0, -3.0]]])
    wanted = -np.log(np.exp(0.96 / 0.5) / (np.exp(0.96 / 0.5) + np.exp(-1 / 0.5) + 1))
    assert float(Contrastive(0.5)(features[:1].detach(), about)) == pytest.approx(wanted, rel=1e-5)
