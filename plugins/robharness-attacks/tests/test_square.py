"""Square: the published schedule and patterns, candidates within the budget, and independence of examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack

from robharness import Batch, Classifier, ExampleRNG
from robharness_attacks import square
from robharness_attacks.objectives import lead
from robharness_attacks.params import SquareParams

NORMS = ["linf", "l2", "l1"]
ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
N = 23


def peer(net, norm, eps, queries, seed=0):
    return SquareAttack(
        net, norm=THEIRS[norm], n_queries=queries, eps=eps, resc_schedule=False, seed=seed, device="cpu"
    )


def broken_by_both(attack, net, batch, norm, eps, queries, seed=0):
    """Return which correct rows become wrong under our attack, and under pyautoattack's."""
    right = net(batch.x).argmax(1) == batch.labels
    ours = attack("square", net, batch, eps, norm=norm, queries=queries, rows=128, seed=seed).x
    parts = zip(batch.x.split(250), batch.labels.split(250), strict=True)
    theirs = torch.cat([peer(net, norm, eps, queries, seed).perturb(x, labels) for x, labels in parts])
    return [(net(x).argmax(1) != batch.labels)[right] for x in (ours, theirs)]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.15), ("l2", 0.9), ("l1", 3.5)])
def test_it_succeeds_as_often_as_pyautoattack(attack, digits, batch_of, norm, eps):
    """Both are random: with a few hundred successes, five per cent are two standard deviations."""
    net, x, labels = digits
    ours, theirs = broken_by_both(attack, net, batch_of(x[:200], labels[:200]), norm, eps, 500)
    assert 40 < int(theirs.sum()) < len(theirs) - 20
    assert int(ours.sum()) >= 0.95 * int(theirs.sum())


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("linf", 0.1), ("linf", 0.12), ("l2", 1.0), ("l1", 6.0)])
def test_it_succeeds_as_often_as_pyautoattack_on_mnist(attack, mnist_case, batch_of, norm, eps):
    """Both are random: with 600 successes, another seed differs by 2 %, so three seeds are counted."""
    case, ours, theirs = mnist_case, 0, 0
    for seed in range(3):
        batch = batch_of(case.x, case.labels)
        mine, other = broken_by_both(attack, case.net, batch, norm, eps, 5000, seed)
        assert 20 < int(other.sum()) < len(other)
        ours, theirs = ours + int(mine.sum()), theirs + int(other.sum())
    assert ours >= 0.98 * theirs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 8), (32, 20), (224, 224)])
def test_windows_are_as_large_as_published(norm, height, width):
    attack = peer(None, norm, 0.1, 5000)
    for query in (0, 5, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 8001, 9999):
        side = max(round((attack.p_selection(query) * height * width) ** 0.5), 1 if norm == "linf" else 3)
        if norm != "linf" and side % 2 == 0:
            side += 1
        assert square._side(SquareParams(norm=norm), query, height, width) == min(side, height, width)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_patterns_are_the_authors(norm):
    attack = peer(None, norm, 0.1, 10)
    attack.init_hyperparam(torch.zeros(1, 1, 8, 8))
    for side in (2, 3, 4, 5, 9, 25):
        theirs, ours = attack.eta(side), square._pattern(side, norm).float()
        assert any(torch.allclose(theirs, one, atol=1e-6) for one in ours)
        torch.testing.assert_close(ours[0], ours[1].T)


class Unmoved(torch.nn.Module):
    """A network with constant logits that records its inputs: no candidate is better than the start."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


def candidates(attack, norm, eps, shape, queries):
    """Return the first example's clean input, start and candidates."""
    net = Unmoved()
    batch = Batch(["one", "two"], torch.full((2, *shape), 0.5), torch.tensor([0, 0]))
    result = attack("square", net, batch, eps, norm=norm, queries=queries, rows=2)
    assert result.notes["queries"].tolist() == [queries + 1] * 2
    start, *tried = [seen[0] for seen in net.seen[1:]]
    assert len(tried) == queries
    assert torch.equal(result.x[0], start)
    others = torch.stack([seen[1] for seen in net.seen[1:]])
    assert not torch.equal(others, torch.stack([start, *tried]))  # examples have their own windows
    return batch.x[0], start, tried


@pytest.mark.parametrize("shape", [(2, 12, 9), (2, 3, 12, 9), (1, 5, 5)])
def test_a_linf_candidate_is_a_square_flipped(attack, shape):
    clean, start, tried = candidates(attack, "linf", 0.25, shape, 600)
    assert ((start - clean).abs() == 0.25).all()
    assert torch.equal(start, start[..., :1, :].expand(shape))  # stripes
    reached = torch.zeros(shape[-2:], dtype=torch.bool)
    for query, x in enumerate(tried):
        assert ((x - clean).abs() == 0.25).all()
        changed = (x != start).flatten(0, -3).any(0)
        down, right = changed.nonzero().unbind(1)
        side = square._side(SquareParams(), query, *shape[-2:])
        for places in (down, right):
            assert len(places) == 0 or int(places.max() - places.min()) < side
        reached |= changed
    assert reached.all()


@pytest.mark.parametrize("shape", [(1, 12, 9), (3, 12, 9), (2, 3, 12, 9)])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_candidates_use_up_the_budget(attack, norm, shape):
    """Far from the box, one window gets what the other loses. Windows leave out the last row and column if they can."""
    clean, start, tried = candidates(attack, norm, 0.3, shape, 600)
    for x in (start, *tried):
        size = torch.linalg.vector_norm((x - clean).double().flatten(), ord=ORDER[norm])
        assert float(size) == pytest.approx(0.3, rel=2e-4)
        assert x is start or float(size) <= 0.3 * (1 + 1e-6)
    reached = torch.zeros(shape[-2:], dtype=torch.bool)
    for query, x in enumerate(tried):
        side = square._side(SquareParams(norm=norm), query, *shape[-2:])
        changed = (x != start).flatten(0, -3).any(0)
        assert int(changed.sum()) <= 2 * side**2
        assert side == shape[-2] or not changed[-1].any()
        assert side == shape[-1] or not changed[:, -1].any()
        reached |= changed
    assert reached[:-1, :-1].all()


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 5), (2, 2, 3, 5)])
def test_it_finds_the_optimum_of_a_linear_model(attack, linear, uniform, batch_of, shape):
    x = uniform(3, 6, *shape)
    weights = np.random.default_rng(2).normal(size=x[0].numel()).astype(np.float32)
    result = attack("square", linear(weights, 100.0), batch_of(x, [0] * 6), 0.1, queries=3000)
    best = (x + 0.1 * torch.from_numpy(weights).sign().view(shape)).clamp(0, 1)
    torch.testing.assert_close(result.x, best)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [1e-3, 0.3, 50.0])
@pytest.mark.parametrize("shape", [(1, 3, 8), (3, 2, 6, 5), (1, 1, 1), (2, 11, 4)])
def test_budgets_and_the_box_hold(attack, linear, uniform, batch_of, norm, eps, shape):
    x = uniform(4, 4, *shape).round(decimals=1)
    weights = np.random.default_rng(3).normal(size=x[0].numel()).astype(np.float32)
    attack("square", linear(weights, 1e3), batch_of(x, [0] * 4), eps, norm=norm, queries=60)


@pytest.mark.parametrize("norm", NORMS)
def test_clips_are_images_of_many_channels(attack, linear, uniform, batch_of, norm):
    clips = uniform(6, 5, 3, 2, 6, 7)
    weights = np.random.default_rng(1).normal(size=clips[0].numel()).astype(np.float32)
    net, labels = linear(weights, float(weights.clip(0).sum())), [0, 1, 0, 1, 0]
    as_clips = attack("square", net, batch_of(clips, labels), 0.3, norm=norm, queries=100)
    as_images = attack("square", net, batch_of(clips.reshape(5, 6, 6, 7), labels), 0.3, norm=norm, queries=100)
    assert torch.equal(as_clips.x.reshape(5, 6, 6, 7), as_images.x)


class Exact(torch.nn.Module):
    """A network with integer weights: on dyadic pixels every sum is exact."""

    def __init__(self):
        super().__init__()
        draws = np.random.default_rng(7)
        self.first, self.second = torch.nn.Linear(16, 12), torch.nn.Linear(12, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.from_numpy(draws.integers(-3, 4, tuple(parameter.shape))))

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1))))


def parts_of(order):
    return [torch.tensor(part) for part in (order[:1], order[1:6], order[6:])]


def small_blocks(params):
    """An attack that draws random numbers for 20 queries at a time."""
    return square.Square(params, block=20)


def test_exact_arithmetic_gives_exact_outcomes(attack, batch_of):
    x = torch.from_numpy(np.random.default_rng(11).integers(0, 65, (N, 1, 4, 4)).astype(np.float32) / 64)
    batch = batch_of(x, Classifier(Exact(), batch_size=8).decisions(x))
    options = {"queries": 70, "restarts": 2, "build": small_blocks}
    whole = attack("square", Exact(), batch, 2**-4, rows=8, **options)
    assert 3 <= int((whole.notes["queries"] == 142).sum()) <= N - 3
    assert len(whole.notes["queries"].unique()) > 3  # they leave here and there
    order = np.random.default_rng(0).permutation(N).tolist()
    for rows in (1, 64):
        for part in parts_of(order):
            one = attack("square", Exact(), batch.select(part), 2**-4, rows=rows, **options)
            assert torch.equal(one.x, whole.x[part])
            assert torch.equal(one.notes["queries"], whole.notes["queries"][part])


def test_few_examples_fill_a_pass_with_their_next_candidates(attack, batch_of):
    x = torch.from_numpy(np.random.default_rng(11).integers(0, 65, (N, 1, 4, 4)).astype(np.float32) / 64)
    batch = batch_of(x, Classifier(Exact(), batch_size=8).decisions(x))
    left = attack("square", Exact(), batch, 2**-4, queries=150).notes["queries"] == 151
    batch = batch.select(left.nonzero().flatten()[:3])
    results, passes = [], []
    for rows in (1, 3, 4, 5, 48):
        model = Classifier(Exact(), batch_size=rows)
        results.append(attack("square", model, batch, 2**-4, queries=150))
        passes.append(model.passes["forward"])
    for result in results:
        assert torch.equal(result.x, results[0].x)
        assert result.notes["queries"].tolist() == [151] * 3
    assert not torch.equal(results[0].x, batch.x)
    assert passes[:2] == [3 * 151, 151]
    assert passes[2] < 0.85 * 151 and passes[3] < 0.7 * 151  # one row more than examples is useful
    assert passes[4] < 25


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.35), ("l1", 2.0)])
def test_neighbours_and_order_change_nothing(attack, conv_net, uniform, batch_of, norm, eps):
    net, x = conv_net(), uniform(2, N, 3, 8, 8)
    x = x.to(memory_format=torch.channels_last)
    batch = batch_of(x, Classifier(net, batch_size=8).decisions(x))
    options = {"norm": norm, "queries": 60, "build": small_blocks}
    whole = attack("square", net, batch, eps, **options)
    assert whole.x.is_contiguous(memory_format=torch.channels_last)
    assert 2 <= int((whole.notes["queries"] == 61).sum()) <= N - 2
    for part in parts_of(np.random.default_rng(0).permutation(N).tolist()):
        assert torch.equal(attack("square", net, batch.select(part), eps, **options).x, whole.x[part])


@pytest.mark.parametrize("norm", NORMS)
def test_every_query_is_counted_and_none_is_made_for_finished_examples(attack, digits, batch_of, norm):
    net, x, labels = digits
    labels = torch.where(
        torch.arange(30) % 7 == 0, (labels[:30] + 1) % 10, labels[:30]
    )  # some are misclassified at the start
    batch = batch_of(x[:30], labels)
    model = Classifier(net, batch_size=1)
    eps = {"linf": 0.1, "l2": 0.6, "l1": 2.0}[norm]
    result = attack("square", model, batch, eps, norm=norm, queries=80)
    queries, wrong = result.notes["queries"], model.decisions(x[:30]) != labels
    assert model.passes["forward"] == 30 + int(queries.sum()) + 30
    assert not queries[wrong].any()
    assert torch.equal(result.x[wrong], batch.x[wrong])
    fooled = model.decisions(result.x) != labels
    assert fooled[queries < 81].all()
    assert 3 < int((queries < 81).sum()) < 25


def test_restarts_attack_what_withstood(attack, digits, batch_of):
    net, x, labels = digits
    batch, model = batch_of(x[:60], labels[:60]), Classifier(net, batch_size=64)
    once, twice = (attack("square", net, batch, 0.1, queries=30, restarts=restarts, rows=64) for restarts in (1, 2))
    left = once.notes["queries"] == 31
    assert torch.equal(twice.x[~left], once.x[~left])
    assert (twice.notes["queries"][left] > 31).all()
    leads = [lead(model.logits(result.x), batch.labels) for result in (once, twice)]
    assert (leads[1] >= leads[0]).all() and (leads[1] > leads[0]).any()


def test_draws_depend_on_the_example_alone(uniform):
    like = uniform(0, 3, 2, 9, 9)
    sides, ids = [4] * 3, ["a", "b", "c"]
    three = square._windows(ExampleRNG(0, "square", ids), "run 0 queries 1", sides, "l2", like, 20)
    one = square._windows(ExampleRNG(0, "square", ids[1:2]), "run 0 queries 1", sides, "l2", like[:1], 20)
    for name in ("corners", "signs", "transposed"):
        assert torch.equal(getattr(three, name)[1:2], getattr(one, name))
        assert not torch.equal(getattr(three, name)[0], getattr(three, name)[1])


@pytest.mark.parametrize("rows", [4, 32])
def test_candidates_made_ahead_count_if_they_are_used(batch_of, uniform, rows):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5))
    net.load_state_dict({"1.weight": uniform(0, 5, 36) - 0.5, "1.bias": torch.zeros(5)})
    x = uniform(1, 6, 1, 6, 6)
    batch, model = batch_of(x, net(x).argmax(1)), Classifier(net, batch_size=rows)
    batch.logits(model)
    model.rows.clear()
    found = square.Square(SquareParams(queries=300)).perturb(model, batch, 0.02, ExampleRNG(0, "square", batch.ids))
    assert model.rows["forwards"] == int(found.notes["queries"].sum())
