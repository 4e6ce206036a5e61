"""FAB against the authors' code in its projection and success; least distances on planes; passes; exactness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf

from robharness import Classifier, ExampleRNG
from robharness_attacks.fab import FABMember, smallest, to_plane
from robharness_attacks.minimal_params import FABParams
from robharness_attacks.norms import length

NORMS = ["linf", "l2", "l1"]
EPS = {"linf": 0.06, "l2": 0.8, "l1": 5.0}
BUDGETS = [("linf", 0.03), ("linf", 0.05), ("linf", 0.07), ("l2", 0.6), ("l2", 0.8), ("l2", 1.0), ("l1", 3), ("l1", 5)]
PEERS = {"linf": projection_linf, "l2": projection_l2, "l1": projection_l1}
N = 23


def member(net, batch, eps, rows=7, **options):
    model = net if isinstance(net, Classifier) else Classifier(net, batch_size=rows)
    return FABMember(FABParams(**options)).perturb(model, batch, eps, ExampleRNG(0, "fab", batch.ids))


def broken_by_both(mnist_case, batch_of, count, norm, eps, targets, steps=100):
    """Return how many of the first correct examples become wrong under our attack, and under the authors'."""
    batch = batch_of(mnist_case.x[:count], mnist_case.labels[:count])
    mine = member(mnist_case.net, batch, eps, 128, norm=norm, targets=targets, steps=steps).x
    theirs, _ = mnist_case.theirs("fab-t", norm, eps, count, n_target_classes=targets, n_iter=steps)
    right = mnist_case.standing(batch.x)
    return [int((right & ~mnist_case.standing(x)).sum()) for x in (mine, theirs)]


@pytest.mark.parametrize("norm", NORMS)
def test_it_succeeds_as_often_as_the_authors_code(mnist_case, batch_of, norm):
    mine, theirs = broken_by_both(mnist_case, batch_of, 100, norm, EPS[norm], targets=2, steps=30)
    assert 10 <= theirs <= 90 and mine >= 0.98 * theirs


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), BUDGETS)
def test_on_a_thousand_images_it_succeeds_as_often_as_the_authors_code(mnist_case, batch_of, norm, eps):
    mine, theirs = broken_by_both(mnist_case, batch_of, 1000, norm, eps, targets=9)
    assert 97 <= theirs <= 877 and mine >= 0.98 * theirs


@pytest.mark.parametrize("reach", [0.5, 10.0, 500.0])
@pytest.mark.parametrize("norm", NORMS)
def test_the_step_to_a_plane_is_the_authors(uniform, norm, reach):
    draws = np.random.default_rng(5)
    points = uniform(1, 2, 40, 60) * (uniform(2, 2, 40, 60) > 0.4)
    slope = torch.from_numpy(draws.normal(size=(40, 60)).astype(np.float32)) * (uniform(3, 40, 60) > 0.2)
    gain = torch.from_numpy(draws.choice([-reach, reach], (2, 40)).astype(np.float32))
    way = to_plane(points, slope, gain, norm)
    flat, both = points.flatten(0, 1), torch.cat([slope, slope])
    theirs = PEERS[norm](flat, both, gain.flatten() + (both * flat).sum(1))
    torch.testing.assert_close(way.flatten(0, 1), theirs, atol=2e-5, rtol=0)
    gained, most = (slope * way).sum(2), torch.where(gain[..., None] * slope > 0, 1 - points, -points) * slope
    reachable = gain.abs() <= most.sum(2).abs()
    assert bool(reachable.all()) is (reach < 1) and bool(reachable.any()) is (reach < 100)
    torch.testing.assert_close(gained, torch.where(reachable, gain, most.sum(2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_logits_does_not_matter(uniform, norm, scale):
    points, slope, gain = uniform(1, 2, 5, 60), uniform(2, 5, 60) - 0.5, uniform(3, 2, 5) * 4
    torch.testing.assert_close(to_plane(points, slope * scale, gain * scale, norm), to_plane(points, slope, gain, norm))


@pytest.mark.parametrize("norm", NORMS)
def test_slopes_of_0_or_nan_change_nothing(norm):
    points, gain = torch.full((2, 3, 4), 0.5), torch.tensor([[1.0, 0.0, torch.inf], [-1.0, 0.0, torch.nan]])
    assert not to_plane(points, torch.zeros(3, 4), gain, norm).any()


def least_distance(x, weights, missing, norm):
    """Return the length of the shortest step in the box with this gain, (N,), float64, by bisection or greedily."""
    x, weights = x.flatten(1).double().numpy(), np.asarray(weights, np.float64).ravel()
    room, weights = np.where(weights > 0, 1 - x, x), np.abs(weights)
    if norm == "l1":
        order = np.argsort(-weights)
        room, weights = room[:, order], weights[order]
        before = (room * weights).cumsum(1) - room * weights
        return np.clip((missing[:, None] - before) / weights, 0, room).sum(1)
    pace = weights if norm == "l2" else np.ones_like(weights)
    low, high = np.zeros(len(x)), np.full(len(x), 1e6)
    for _ in range(200):
        t = (low + high) / 2
        short = (np.minimum(t[:, None] * pace, room) * weights).sum(1) < missing
        low, high = np.where(short, t, low), np.where(short, high, t)
    return np.linalg.norm(np.minimum(low[:, None] * pace, room), 2 if norm == "l2" else np.inf, axis=1)


@pytest.mark.parametrize("targets", [0, 9])
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_model_it_finds_the_least_distance(attack, batch_of, uniform, linear, norm, targets):
    weights = np.random.default_rng(3).normal(size=48).astype(np.float32)
    x = uniform(0, 12, 3, 4, 4)
    net = linear(weights, float((x.flatten(1) @ torch.from_numpy(weights)).max()) + 2)
    result = attack("fab", net, batch_of(x, [0] * 12), 1e6, norm=norm, targets=targets, steps=30)
    assert (net(result.x).argmax(1) == 1).all()
    missing = net.offset - (x.flatten(1).double() @ torch.from_numpy(weights).double()).numpy()
    least, found = least_distance(x, weights, missing, norm), length((result.x - x).double(), norm).numpy()
    assert (found >= least * (1 - 1e-5)).all()
    assert (found <= least * 1.06).all()


def test_one_search_serves_every_budget(mnist_case, attack, batch_of):
    batch = batch_of(mnist_case.x[:40], mnist_case.labels[:40])
    model = Classifier(mnist_case.net, batch_size=40)
    found = {eps: attack("fab", model, batch, eps, targets=1, steps=20).x for eps in (1.0, 0.1, 0.05, 0.02)}
    assert dict(model.passes) == {"forward": 41, "backward": 20}
    distance = length((found[1.0] - batch.x).double(), "linf")
    for eps, x in found.items():
        near = (distance <= eps).view(-1, 1, 1, 1)
        assert torch.equal(x, torch.where(near, found[1.0], batch.x))
    assert 0 < int((distance <= 0.05).sum()) < 40


class Plane(torch.nn.Module):
    """Linear logits of several classes; class 0 is far ahead."""

    def __init__(self, classes, ahead=100.0):
        super().__init__()
        weights = np.random.default_rng(classes).normal(size=(48, classes)).astype(np.float32)
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))
        self.ahead = torch.nn.functional.one_hot(torch.tensor(0), classes) * ahead

    def forward(self, x):
        return x.flatten(1) @ self.weights + self.ahead


@pytest.mark.parametrize(("classes", "options", "gradients", "steps"), [
    (10, {}, 900, 900), (10, {"targets": 3, "restarts": 2}, 600, 600), (3, {}, 200, 200),
    (10, {"targets": 0}, 900, 100), (2, {"targets": 0, "steps": 5}, 5, 5),
], ids=str)  # fmt: skip
def test_passes_of_an_example_that_withstands(batch_of, uniform, classes, options, gradients, steps):
    model = Classifier(Plane(classes), batch_size=1)
    result = member(model, batch_of(uniform(0, 1, 3, 4, 4), [0]), 0.01, **options)
    assert dict(model.passes) == {"forward": gradients + steps + 1, "backward": gradients}  # and at the clean point
    assert result.notes["targets"].tolist() == [min(options.get("targets", 9), classes - 1)]


@pytest.mark.parametrize("targets", [9, 0])
def test_targets_of_few_examples_share_a_pass(batch_of, uniform, targets):
    model = Classifier(Plane(10), batch_size=18)
    member(model, batch_of(uniform(0, 2, 3, 4, 4), [0, 0]), 0.01, targets=targets)
    assert dict(model.passes) == {"forward": 201, "backward": 100}


def test_misclassified_examples_are_not_attacked(attack, batch_of, uniform):
    model, batch = Classifier(Plane(10), batch_size=2), batch_of(uniform(0, 4, 3, 4, 4), [1, 2, 3, 4])
    assert torch.equal(member(model, batch, 0.1).x, batch.x)
    assert torch.equal(attack("fab", model, batch, 0.1).x, batch.x)
    assert dict(model.passes) == {"forward": 2}


def test_a_member_stops_when_the_model_is_fooled_within_the_budget(mnist_case, batch_of):
    batch = batch_of(mnist_case.x[:40], mnist_case.labels[:40])
    model = Classifier(mnist_case.net, batch_size=1)
    result = member(model, batch, 0.15, steps=20, targets=2)
    left = int(mnist_case.standing(result.x).sum())
    assert left <= 4
    assert model.passes["backward"] < 0.7 * 40 * 40
    whole = member(Classifier(mnist_case.net, batch_size=40), batch, 1e-4, steps=20, targets=2)
    assert torch.equal(whole.x, torch.where(mnist_case.standing(batch.x).view(-1, 1, 1, 1), batch.x, whole.x))


def test_all_classes_at_once_find_the_nearest_one(attack, batch_of, uniform):
    """On planes the nearest of all classes is about the best of the runs for each."""
    net, x = Plane(6), uniform(1, 12, 3, 4, 4)
    net.ahead = torch.tensor([12.0, 11.0, 0.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        net.weights.mul_(torch.tensor([0.0, 0.1, 1.0, 1.0, 1.0, 1.0]))  # the likeliest is not the nearest
    batch = batch_of(x, net(x).argmax(1))
    for norm in NORMS:
        distances = []
        for targets in (0, 5, 1):
            result = attack("fab", net, batch, 1e6, rows=12, norm=norm, targets=targets, steps=40)
            assert (net(result.x).argmax(1) != batch.labels).all()
            distances.append(length((result.x - x).double(), norm))
        assert (distances[0] <= 1.3 * distances[1]).all()  # which class is nearest is judged without the box
        assert float((distances[0] / distances[1]).median()) < 1.06
        assert (distances[2] >= distances[1] * 0.999).all() and (distances[2] > distances[1] * 1.1).any()


@pytest.mark.parametrize("eps", [None, 0.5])
def test_restarts_find_no_less(mnist_case, batch_of, eps):
    batch = batch_of(mnist_case.x[:40], mnist_case.labels[:40])
    found = []
    for restarts in (1, 3):
        params, model = (
            FABParams(norm="l2", restarts=restarts, targets=1, steps=30),
            Classifier(mnist_case.net, batch_size=40),
        )
        x = smallest(model, batch, params, ExampleRNG(0, "fab", batch.ids), eps)
        distance = length((x - batch.x).double(), "l2")
        found.append(torch.where(mnist_case.standing(x), torch.inf, distance))
    if eps is None:
        assert (found[1] <= found[0]).all() and (found[1] < found[0]).any()
    else:
        assert ((found[1] <= eps) | (found[0] > eps)).all()


@pytest.mark.parametrize(
    "options", [{}, {"restarts": 2, "targets": 2}, {"targets": 0, "norm": "l2"}, {"norm": "l1"}], ids=str
)
def test_neighbours_and_order_change_nothing(attack, conv_net, uniform, batch_of, options):
    net, x = conv_net(), uniform(2, N, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=7).decisions(x))
    eps = {"linf": 0.015, "l2": 0.2, "l1": 1.5}[options.get("norm", "linf")]
    for run in (lambda part: member(net, part, eps, steps=10, **options).x,
                lambda part: attack("fab", net, part, eps, steps=10, **options).x):  # fmt: skip
        whole = run(batch)
        fooled = Classifier(net, batch_size=7).decisions(whole) != batch.labels
        assert 2 <= int(fooled.sum()) <= N - 2
        order = np.random.default_rng(0).permutation(N).tolist()
        for part in (order[:1], order[1:6], order[6:]):
            alone = batch_of(x[part], batch.labels[part])
            alone.ids = tuple(batch.ids[row] for row in part)
            assert torch.equal(run(alone), whole[part])


@pytest.mark.parametrize("norm", NORMS)
def test_clips_are_attacked_as_their_frames_laid_side_by_side(attack, linear, uniform, batch_of, norm):
    clips = uniform(6, 5, 3, 4, 2, 6)
    weights = np.random.default_rng(1).normal(size=144).astype(np.float32)
    net = linear(weights, float(weights.clip(0).sum()))
    as_clips = attack("fab", net, batch_of(clips, [0, 1, 0, 1, 0]), 1e6, norm=norm, steps=10)
    as_pictures = attack("fab", net, batch_of(clips.reshape(5, 3, 8, 6), [0, 1, 0, 1, 0]), 1e6, norm=norm, steps=10)
    assert torch.equal(as_clips.x.reshape(5, 3, 8, 6), as_pictures.x)
