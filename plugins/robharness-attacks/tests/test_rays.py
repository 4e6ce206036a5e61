"""RayS: closed-form distances, the authors' loop for one example, a peer at equal queries, and masked gradients."""

from __future__ import annotations

import math

import foolbox
import numpy as np
import pytest
import torch

from robharness import Classifier
from robharness_attacks.norms import length
from robharness_attacks.rays import TOLERANCE

FAR = float("inf")


def test_distances_of_a_plane(attack, linear, uniform, batch_of):
    """Two classes; the box is out of reach: |score - offset| over the l1 length of the weights."""
    x = 0.4 + 0.2 * uniform(1, 12, 3, 4, 4)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=48).astype(np.float32))
    score = x.flatten(1) @ weights
    offset = float(score.max()) + 0.5
    exact = (offset - score) / weights.abs().sum()
    assert float(exact.max()) < 0.4
    result = attack("rays", linear(weights, offset), batch_of(x, [0] * 12), FAR, rows=32, queries=500)
    ratio = length(result.x - x, "linf") / exact
    assert float(ratio.min()) > 1 - 1e-4
    assert float(ratio.max()) < 1.02


def of_the_authors(fools, x, limit):
    """Return the radius that the authors' loop reaches for one example, by ranks of one query at a time.

    fools: x, (D,) -> whether it fools the model.
    """
    signs, nearest, queries, level, block = np.ones(len(x)), math.inf, 0, 0, 0

    def query(signs, radius):
        nonlocal queries
        queries += 1
        return fools(np.clip(x + np.float32(radius) * signs.astype(np.float32), 0, 1))

    while queries < limit:
        side = math.ceil(len(x) / 2**level)
        start, end = block * side, min((block + 1) * side, len(x))
        attempt = signs.copy()
        attempt[start:end] *= -1
        if query(attempt, nearest):
            low, high = 0.0, min(nearest, 1.0)
            while high - low > TOLERANCE / math.sqrt(len(x)) and queries < limit:
                middle = (low + high) / 2
                low, high = (low, middle) if query(attempt, middle) else (middle, high)
            if high < nearest:
                signs, nearest = attempt, high
        block += 1
        if end == len(x):
            level, block = level + 1, 0
    return nearest


@pytest.mark.parametrize("queries", [1, 2, 12, 13, 80, 400])
def test_the_authors_loop(attack, conv_net, uniform, batch_of, queries):
    net, x = conv_net().eval(), uniform(3, 9, 3, 8, 8)
    labels = Classifier(net, batch_size=9).decisions(x)
    result = attack("rays", net, batch_of(x, labels), FAR, rows=16, queries=queries)
    assert result.notes["queries"].tolist() == [queries] * 9

    def fools_at(row):
        def fools(values):
            with torch.no_grad():
                return int(net(torch.from_numpy(values).view(1, 3, 8, 8)).argmax()) != int(labels[row])

        return fools

    for row in range(9):
        expected = of_the_authors(fools_at(row), x[row].flatten().numpy(), queries)
        radius = float((result.x[row] - x[row]).abs().max())
        assert radius == pytest.approx(0 if math.isinf(expected) else min(expected, radius + 1e-5), abs=1e-5)


def test_distances_are_less_than_those_of_hopskipjump(attack, digits, batch_of):
    """On 40 digits that the network classifies correctly, at no more queries than Foolbox's linf attack makes."""
    net, x, labels = digits
    right = (net(x).argmax(1) == labels).nonzero().flatten()[:40]
    x, labels = x[right], labels[right]
    made = 0

    def counted(inputs):
        nonlocal made
        made += len(inputs)
        return net(inputs)

    peer = foolbox.PyTorchModel(Counted(counted), bounds=(0, 1), device="cpu")
    jump = foolbox.attacks.HopSkipJumpAttack(constraint="linf", steps=8, initial_gradient_eval_steps=20)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 (the peer draws globally)
        theirs = length(jump.run(peer, x, labels) - x, "linf")
    queries = made // len(x)
    ours = length(attack("rays", net, batch_of(x, labels), FAR, rows=64, queries=queries).x - x, "linf")
    assert 300 < queries < 1500
    assert float(ours.median()) < 0.8 * float(theirs.median())
    gradients = length(attack("fmn", net, batch_of(x, labels), FAR, rows=64).x - x, "linf")
    assert 0.9 < float(ours.median()) / float(gradients.median()) < 1.05


class Counted(torch.nn.Module):
    """A network that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


class Steps(torch.nn.Module):
    """A network behind a step function of its inputs, whose gradient is 0."""

    def __init__(self, net, levels):
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x):
        return self.net((x * self.levels).round() / self.levels)


def test_masked_gradients_do_not_matter(attack, digits, batch_of):
    net, x, labels = digits
    masked, eps = Steps(net, 64), 0.25
    right = (masked(x).argmax(1) == labels).nonzero().flatten()[:40]
    batch = batch_of(x[right], labels[right])

    def accuracy(name, **options):
        result = attack(name, masked, batch, eps, rows=64, **options)
        return float((masked(result.x).argmax(1) == batch.labels).float().mean())

    assert accuracy("pgd", steps=20, random_start=False) == 1
    assert accuracy("rays", queries=400) < 0.2


def test_an_example_leaves_within_eps(attack, digits, batch_of):
    """The accuracy at a budget is the share of examples that the search finds no nearer point for."""
    net, x, labels = digits
    batch, judge = batch_of(x[:30], labels[:30]), Classifier(net, batch_size=16)
    whole = attack("rays", net, batch, FAR, rows=16, queries=200)
    fooled = judge.decisions(whole.x) != batch.labels
    distance = torch.where(fooled, length(whole.x - batch.x, "linf"), torch.inf)
    used = []
    for eps in (0.05, 0.12, 0.3):
        result = attack("rays", net, batch, eps, rows=16, queries=200)
        assert torch.equal(judge.decisions(result.x) != batch.labels, distance <= eps)
        used.append(result.notes["queries"])
    assert (used[0] >= used[1]).all() and (used[1] >= used[2]).all()
    assert 0 < int(used[2].max()) < 200


class Constant(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)


def test_what_is_fooled_as_it_is_and_what_cannot_be(attack, batch_of, uniform):
    batch = batch_of(uniform(1, 5, 1, 4, 4), [0, 1, 0, 1, 0])
    result = attack("rays", Constant(), batch, FAR, queries=30)
    assert torch.equal(result.x, batch.x)
    assert result.notes["queries"].tolist() == [30, 0, 30, 0, 30]


@pytest.mark.parametrize("eps", [0.2, FAR])
def test_neighbours_order_and_passes_change_nothing(attack, conv_net, uniform, batch_of, eps):
    net, x = conv_net(), uniform(2, 13, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    whole = attack("rays", net, batch, eps, rows=8, queries=120)
    order = np.random.default_rng(0).permutation(13).tolist()
    for part in map(torch.tensor, (order[:1], order[1:6], order[6:])):
        alone = attack("rays", net, batch_of(x[part], batch.labels[part]), eps, rows=8, queries=120)
        assert torch.equal(alone.x, whole.x[part])
        assert torch.equal(alone.notes["queries"], whole.notes["queries"][part])


def test_clips_are_attacked_as_their_values_in_order(attack, linear, uniform, batch_of):
    clips = uniform(6, 3, 3, 4, 2, 6)
    weights = (0.2 + np.random.default_rng(1).normal(size=3 * 4 * 2 * 6)).astype(np.float32)
    net, labels = linear(weights, 0.9 * float(weights.sum())), [0, 1, 0]
    as_clips = attack("rays", net, batch_of(clips, labels), FAR, queries=100)
    as_images = attack("rays", net, batch_of(clips.reshape(3, 3, 8, 6), labels), FAR, queries=100)
    assert torch.equal(as_clips.x.reshape(3, 3, 8, 6), as_images.x)
    assert not torch.equal(as_clips.x, clips)


def test_spare_rows_of_a_pass_are_no_queries(attack, conv_net, uniform, batch_of):
    """The rows that count are the queries and the clean input, whatever the size of a pass."""
    net, x = conv_net(), uniform(6, 5, 3, 8, 8)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    for rows in (4, 64):
        model = Classifier(net, batch_size=rows)
        result = attack("rays", model, batch, FAR, queries=60)
        assert 0 < model.rows["forwards"] <= int(result.notes["queries"].sum()) + len(x), rows
