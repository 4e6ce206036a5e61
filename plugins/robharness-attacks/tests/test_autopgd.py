"""Auto-PGD against the authors' code in steps and success; the optimum on linear models; passes; exactness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, L1_projection

from robharness import Classifier
from robharness_attacks.objectives import lead

EPS = {"linf": 0.06, "l2": 1.0, "l1": 5.0}
BUDGETS = [("linf", 0.03), ("linf", 0.05), ("linf", 0.07), ("l2", 0.6), ("l2", 0.8), ("l2", 1.0), ("l1", 3), ("l1", 5)]
TARGETED = {"objective": "dlr", "targets": 9}
N = 23


def broken_by_both(mnist_case, attack, batch_of, count, name, norm, eps, ours, theirs):
    """Return how many of the first correct examples become wrong under our attack, and under the authors'."""
    batch = batch_of(mnist_case.x[:count], mnist_case.labels[:count])
    mine = attack("apgd", mnist_case.net, batch, eps, rows=128, norm=norm, **ours).x
    right = mnist_case.standing(batch.x)
    peers, _ = mnist_case.theirs(name, norm, eps, count, **theirs)
    return [int((right & ~mnist_case.standing(x)).sum()) for x in (mine, peers)]


@pytest.mark.parametrize("norm", list(EPS))
def test_it_succeeds_as_often_as_the_authors_code(mnist_case, attack, batch_of, norm):
    mine, theirs = broken_by_both(mnist_case, attack, batch_of, 150, "apgd-ce", norm, EPS[norm], {}, {})
    assert 15 <= theirs <= 135 and mine >= 0.98 * theirs


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_with_targets_it_succeeds_as_often_as_the_authors_code(mnist_case, attack, batch_of, norm):
    larger = norm == "l1"
    ours, theirs = {**TARGETED, "targets": 2, "larger_eps": larger}, {"n_target_classes": 2, "use_largereps": larger}
    mine, theirs = broken_by_both(mnist_case, attack, batch_of, 100, "apgd-t", norm, EPS[norm], ours, theirs)
    assert 10 <= theirs <= 90 and mine >= 0.98 * theirs


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_on_a_thousand_images_it_succeeds_as_often_as_the_authors_code(mnist_case, attack, batch_of, norm, eps):
    l1 = norm == "l1"
    for name, ours, theirs in [
        ("apgd-ce", {"larger_eps": l1}, {"use_largereps": l1}),
        ("apgd-t", {**TARGETED, "targets": 5 if l1 else 9, "larger_eps": l1},
         {"n_target_classes": 5 if l1 else 9, "use_largereps": l1}),
    ]:  # fmt: skip
        mine, peers = broken_by_both(mnist_case, attack, batch_of, 1000, name, norm, eps, ours, theirs)
        assert 97 <= peers <= 877 and mine >= 0.98 * peers


class Sure(torch.nn.Module):
    """The network with a number added to the logit of class 0 that no attack overcomes."""

    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, torch.nn.functional.one_hot(torch.tensor(0), 5) * by

    def forward(self, x):
        return self.net(x) + self.by


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5), ("l1", 4.0)])
def test_it_follows_the_authors_iterates(attack, batch_of, uniform, conv_net, norm, eps):
    """From the same start in float64, both find the same best points: steps, checks, halvings and restarts agree."""
    net = Sure(conv_net().double(), 8.0).eval().double()
    batch, seen = batch_of(uniform(3, N, 3, 8, 8).double(), [0] * N), []
    hook = net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    mine = attack("apgd", net, batch, eps, rows=N, norm=norm, objective="cross-entropy", larger_eps=norm == "l1").x
    hook.remove()
    peer = APGDAttack(net, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], eps=eps, device="cpu")
    peer.init_hyperparam(batch.x)
    x = seen[1].contiguous()  # the clean point was first
    phases = [(3, 30), (2, 30), (1, 40)] if norm == "l1" else [(1, 100)]
    for multiple, peer.n_iter in phases:
        peer.eps = multiple * eps
        if norm == "l1":
            x = x + L1_projection(batch.x, x - batch.x, peer.eps)
        x = peer.attack_single_run(batch.x, batch.labels, x_init=x)[0]
    same = (mine - x).abs().amax((1, 2, 3)) < 1e-4
    values = [torch.nn.functional.cross_entropy(net(at), batch.labels, reduction="none") for at in (mine, x)]
    if norm != "l1":  # where they project in float32, which changes what is zero and so how sparse the next steps are
        assert same.float().mean() >= 0.6
    torch.testing.assert_close(values[0], values[1], rtol=0.06 if norm == "l1" else 1e-3, atol=0)


def largest_gain(x, weights, eps, norm):
    """Return the maximum of weights . delta over delta in the ball with x + delta in the box, (N,), float64."""
    x, weights = x.flatten(1).double().numpy(), np.asarray(weights, np.float64).ravel()
    room = np.where(weights > 0, 1 - x, x)
    if norm == "l1":  # the heaviest coordinates take all their room first
        order = np.argsort(-np.abs(weights))
        room, weights = room[:, order], np.abs(weights[order])
        taken = np.clip(eps - (room.cumsum(1) - room), 0, room)
        return (taken * weights).sum(1)
    weights = np.abs(weights)
    if norm == "linf":
        return (np.minimum(room, eps) * weights).sum(1)
    low, high = np.zeros(len(x)), np.full(len(x), 1e6)
    for _ in range(200):
        t = (low + high) / 2
        short = np.linalg.norm(np.minimum(t[:, None] * weights, room), axis=1) < eps
        low, high = np.where(short, t, low), np.where(short, high, t)
    return (np.minimum(low[:, None] * weights, room) * weights).sum(1)


ENOUGH = {("linf", False): 0.99, ("linf", True): 0.97, ("l2", False): 0.99, ("l2", True): 0.96,
          ("l1", False): 0.7, ("l1", True): 0.96}  # fmt: skip
"""Tolerance: under l1 steps become sparse before they converge, in the authors' code as well."""


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("objective", ["excess", "margin"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 1.5), ("l1", 6.0)])
def test_on_a_linear_model_it_reaches_the_optimum(attack, batch_of, uniform, linear, norm, eps, objective, larger):
    weights = np.random.default_rng(3).normal(size=48).astype(np.float32)
    batch = batch_of(uniform(0, 12, 3, 4, 4), [0] * 12)
    result = attack("apgd", linear(weights, 100.0), batch, eps, norm=norm, objective=objective, larger_eps=larger)
    found = ((result.x - batch.x).double().flatten(1).numpy() * weights).sum(1)
    best = largest_gain(batch.x, weights, eps, norm)
    assert (found >= ENOUGH[norm, larger] * best).all()
    assert (found <= best * (1 + 1e-4)).all()


class Plane(torch.nn.Module):
    """Linear logits of several classes; class 0 is far ahead unless `ahead` is small."""

    def __init__(self, classes, ahead=100.0, size=48):
        super().__init__()
        weights = np.random.default_rng(classes).normal(size=(size, classes)).astype(np.float32)
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))
        self.ahead = torch.nn.functional.one_hot(torch.tensor(0), classes) * ahead

    def forward(self, x):
        return x.flatten(1) @ self.weights + self.ahead


@pytest.mark.parametrize(("options", "gradients"), [
    ({}, 101), ({"steps": 7}, 8), ({"restarts": 3}, 303), ({"draws": 4}, 404), (TARGETED, 909),
    ({"norm": "l1"}, 101), ({"norm": "l1", "larger_eps": True}, 103), ({"norm": "l2"}, 101),
], ids=str)  # fmt: skip
def test_passes_of_an_example_that_withstands(attack, batch_of, uniform, options, gradients):
    model = Classifier(Plane(10), batch_size=1)
    attack("apgd", model, batch_of(uniform(0, 1, 3, 4, 4), [0]), 0.01, **options)
    assert dict(model.passes) == {"forward": gradients + 1, "backward": gradients}  # and one at the clean point


def test_targets_of_few_examples_share_a_pass(attack, batch_of, uniform):
    model = Classifier(Plane(10), batch_size=18)
    attack("apgd", model, batch_of(uniform(0, 2, 3, 4, 4), [0, 0]), 0.01, **TARGETED)
    assert dict(model.passes) == {"forward": 102, "backward": 101}


def test_misclassified_examples_are_not_attacked(attack, batch_of, uniform):
    model, batch = Classifier(Plane(10), batch_size=2), batch_of(uniform(0, 4, 3, 4, 4), [1, 2, 3, 4])
    result = attack("apgd", model, batch, 0.1, restarts=2)
    assert torch.equal(result.x, batch.x)
    assert dict(model.passes) == {"forward": 2}


def test_fooled_examples_leave(mnist_case, attack, batch_of):
    batch = batch_of(mnist_case.x[:64], mnist_case.labels[:64])
    model = Classifier(mnist_case.net, batch_size=1)
    result = attack("apgd", model, batch, 0.12)
    left = int(mnist_case.standing(result.x).sum())
    assert left <= 6
    assert model.passes["backward"] < 101 * left + 20 * (64 - left)


@pytest.mark.parametrize(("classes", "targets", "tried", "objective"), [
    (2, 0, 0, "margin"), (2, 9, 1, "margin"), (3, 0, 0, "dlr"), (3, 9, 2, "margin"),
    (4, 9, 3, "dlr"), (10, 4, 4, "dlr"),
])  # fmt: skip
def test_few_classes(attack, batch_of, uniform, classes, targets, tried, objective):
    net = Plane(classes)
    net.ahead = torch.zeros(classes)
    x = uniform(1, 12, 3, 4, 4)
    batch = batch_of(x, net(x).argmax(1))
    result = attack("apgd", net, batch, 0.3, objective="dlr", targets=targets, steps=20)
    assert (net(result.x).argmax(1) != batch.labels).all()
    assert result.notes["targets"].tolist() == [tried] * 12
    assert result.notes["objective"] == [objective] * 12


def test_every_target_is_tried(attack, batch_of, uniform):
    """Class 9 alone can win, and the clean point ranks it last."""
    net = Plane(10, 20.0)
    with torch.no_grad():
        net.weights.mul_(0.01)[:, 9] = torch.linspace(-1, 3, 48)
    net.ahead = net.ahead - 30 * torch.nn.functional.one_hot(torch.tensor(9), 10)
    batch = batch_of(uniform(2, 4, 3, 4, 4) * 0.1, [0] * 4)
    assert (net(batch.x).argsort(1)[:, 0] == 9).all()
    for targets in (8, 9):
        result = attack("apgd", net, batch, 0.9, objective="margin", targets=targets, steps=10)
        assert bool((net(result.x).argmax(1) == 9).all()) is (targets == 9)


def test_averages_over_draws_climb_cross_entropy(attack, batch_of, uniform, conv_net):
    class Noisy(torch.nn.Module):
        """A network with noise that differs from pass to pass, in the same sequence for every batch."""

        def __init__(self, net):
            super().__init__()
            self.net, self.noise = net, np.random.default_rng(0)

        def forward(self, x):
            shift = torch.from_numpy(self.noise.normal(size=x.shape[1:]).astype(np.float32)) * 0.5
            return self.net(x + shift)

    x = uniform(2, 32, 3, 8, 8)
    net = conv_net()
    batch = batch_of(x, net(x).argmax(1))
    values = {}
    for draws in (1, 20):
        result = attack("apgd", Noisy(net), batch, 0.02, rows=32, steps=20, draws=draws)
        assert result.notes["objective"] == ["cross-entropy" if draws > 1 else "excess"] * 32
        values[draws] = float(lead(net(result.x), batch.labels).mean())
    assert values[20] > values[1]


def test_restarts_succeed_more_often(mnist_case, attack, batch_of):
    batch = batch_of(mnist_case.x[:150], mnist_case.labels[:150])
    fooled = []
    for restarts in (1, 4):
        result = attack("apgd", mnist_case.net, batch, 0.06, rows=50, steps=5, restarts=restarts)
        fooled.append(~mnist_case.standing(result.x))
    assert not (fooled[0] & ~fooled[1]).any()
    assert fooled[1].sum() > fooled[0].sum()


@pytest.mark.parametrize("options", [
    {}, {"norm": "l2", "restarts": 2}, {"norm": "l1"}, {"norm": "l1", "larger_eps": True, "restarts": 2}, {"draws": 2},
    {"norm": "l2", **TARGETED}, {"objective": "dlr"}, {"objective": "margin", "targets": 2},
], ids=str)  # fmt: skip
def test_neighbours_and_order_change_nothing(attack, conv_net, uniform, batch_of, options):
    net, x = conv_net(), uniform(2, N, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=7).decisions(x))
    eps = {"linf": 0.015, "l2": 0.2, "l1": 1.5}[options.get("norm", "linf")]
    options = {"steps": 25, **options}
    whole = attack("apgd", net, batch, eps, **options)
    fooled = Classifier(net, batch_size=7).decisions(whole.x) != batch.labels
    assert 2 <= int(fooled.sum()) <= N - 2
    order = np.random.default_rng(0).permutation(N).tolist()
    for part in (order[:1], order[1:6], order[6:]):
        rows = torch.tensor(part)
        assert torch.equal(attack("apgd", net, batch.select(rows), eps, **options).x, whole.x[rows])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_clips_are_attacked_as_their_frames_laid_side_by_side(attack, linear, uniform, batch_of, norm):
    clips = uniform(6, 5, 3, 4, 2, 6)
    weights = np.random.default_rng(1).normal(size=144).astype(np.float32)
    net = linear(weights, float(weights.clip(0).sum()))
    eps = {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm]
    as_clips = attack("apgd", net, batch_of(clips, [0, 1, 0, 1, 0]), eps, norm=norm, steps=20)
    as_pictures = attack("apgd", net, batch_of(clips.reshape(5, 3, 8, 6), [0, 1, 0, 1, 0]), eps, norm=norm, steps=20)
    assert torch.equal(as_clips.x.reshape(5, 3, 8, 6), as_pictures.x)
