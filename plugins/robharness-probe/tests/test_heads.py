"""Heads against peers and closed forms: scikit-learn, lightly's kNN, DINO's formula, finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from robharness import UserError
from robharness_probe import fitting, heads
from robharness_probe.loop import pgd
from robharness_probe.params import Linear

CLASSES = 10


@pytest.fixture(scope="module")
def digits():
    """Features that a fixed random layer makes of scikit-learn's digits, 1,200 to train and 300 to test."""
    pixels, labels = load_digits(return_X_y=True)
    weight = np.random.default_rng(0).normal(size=(64, 48)) / 8
    h = torch.from_numpy(np.maximum(pixels / 16 @ weight, 0)).float()
    labels = torch.from_numpy(labels)
    return h[:1200], labels[:1200], h[1200:1500], labels[1200:1500]


def draws(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# --- linear ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [True, False])
def test_the_optimum_is_scikit_learns(digits, standardize):
    h, labels, test, _ = digits
    l2 = 1e-2
    head = fitting.logistic(h, labels, CLASSES, l2, standardize=standardize)
    scaled = StandardScaler(with_mean=standardize, with_std=standardize).fit(h.double().numpy())
    theirs = LogisticRegression(C=1 / (l2 * len(h)), tol=1e-10, max_iter=10_000)
    theirs.fit(scaled.transform(h.double().numpy()), labels)
    expected = torch.from_numpy(theirs.decision_function(scaled.transform(test.double().numpy()))).float()
    logits = head(test).detach()
    torch.testing.assert_close(logits - logits.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True),
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_features_in_blocks_give_the_same_optimum(digits, monkeypatch):
    h, labels, *_ = digits
    whole = fitting.logistic(h, labels, CLASSES, 1e-2)
    monkeypatch.setattr(fitting, "BLOCK", 48 * 500)  # three blocks, the last one smaller
    parts = fitting.logistic(h, labels, CLASSES, 1e-2)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_sgd_approaches_the_optimum_and_reports_every_epoch(digits, schedule):
    h, labels, *_ = digits
    reports = []
    options = {"data": None, "encoder": None, "solver": "sgd", "epochs": 60, "lr": 0.05, "schedule": schedule}
    found = fitting.descended(h, labels, CLASSES, Linear(**options), 0, lambda *words: reports.append(words))
    again = fitting.descended(h, labels, CLASSES, Linear(**options), 0)
    assert torch.equal(found.weight, again.weight)
    assert [epoch for epoch, _ in reports] == list(range(1, 61))
    assert reports[0][1] > reports[10][1] > reports[-1][1]
    best = F.cross_entropy(fitting.logistic(h, labels, CLASSES, 1e-6)(h), labels)
    assert best < F.cross_entropy(found(h), labels) < best + 0.2
    other = fitting.descended(h, labels, CLASSES, Linear(**options), 1)
    assert not torch.equal(found.weight, other.weight)


def test_schedules():
    steps = [fitting.decay("step", epoch, 0.5, 100) for epoch in (0, 59, 60, 79, 80)]
    np.testing.assert_allclose(steps, [1, 1, 0.1, 0.1, 0.01])
    np.testing.assert_allclose([fitting.decay("cosine", e, s, 10) for e, s in ((0, 0), (5, 0), (9, 1.0))], [1, 0.5, 0],
                               atol=1e-12)  # fmt: skip
    rising = [fitting.decay("cosine", 0, share, 10, warmup=2) for share in (0, 0.5)]
    assert rising == [0.005, 0.25] and fitting.decay("cosine", 1, 0, 10, warmup=2) == 0.5


# --- nearest neighbours ----------------------------------------------------------------------------------------------


def dino(queries, bank, labels, k, temperature):
    """Return the votes by class as in `knn_classifier` of eval_knn.py in DINO."""
    similarity = queries @ bank.T
    distances, indices = similarity.topk(k, largest=True, sorted=True)
    candidates = labels.view(1, -1).expand(len(queries), -1)
    retrieved = torch.gather(candidates, 1, indices)
    one_hot = torch.zeros(len(queries) * k, CLASSES, dtype=queries.dtype).scatter_(1, retrieved.view(-1, 1), 1)
    weights = distances.clone().div_(temperature).exp_()
    return torch.sum(one_hot.view(len(queries), -1, CLASSES) * weights.view(len(queries), -1, 1), 1)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 0.1), (1, 0.07)])
def test_predictions_are_those_of_lightly_and_dino(digits, k, temperature):
    h, labels, test, truth = digits
    net = heads.NearestNeighbours(h, labels, CLASSES, k, temperature)
    logits = net(test)
    unit, bank = F.normalize(test, dim=1), F.normalize(h, dim=1)
    theirs = knn_predict(unit, bank.T, labels, CLASSES, knn_k=k, knn_t=temperature)
    assert torch.equal(logits.argmax(1), theirs[:, 0])
    votes = dino(unit.double(), bank.double(), labels, k, temperature)
    shares = votes / votes.sum(1, keepdim=True)
    torch.testing.assert_close(logits.double().softmax(1), shares, rtol=0, atol=1e-2 if k == 1 else 1e-4)
    has_vote = votes > 0
    torch.testing.assert_close(logits.double()[has_vote], votes[has_vote].log(), rtol=1e-5, atol=1e-4)
    assert (~has_vote).any() and (
        logits[~has_vote] < logits.amax(1, keepdim=True).expand_as(logits)[~has_vote] - 9
    ).all()
    assert (logits.argmax(1) == truth).float().mean() > 0.8


def test_a_class_without_neighbours_is_below_all_others():
    bank = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    net = heads.NearestNeighbours(bank, torch.tensor([0, 1, 3]), 4, 2, 0.01)  # votes from exp(100) to exp(-100)
    logits = net(torch.tensor([[2.0, 0], [0, -3]]))
    floor = float(np.log(heads.ABSENT_VOTE))
    torch.testing.assert_close(logits, torch.tensor([[100, floor, floor, 0.0], [0.0, 0.0, floor, floor]]))


def test_small_temperatures_neither_overflow_nor_vanish():
    bank, labels = draws(40, 5).float(), torch.arange(40) % 4
    net = heads.NearestNeighbours(bank, labels, 4, 40, 1e-3)  # exp(1000) is no float
    x = draws(6, 5, seed=1).float().requires_grad_(True)
    logits = net(x)
    logits.sum().backward()
    similarities = F.normalize(x, dim=1) @ F.normalize(bank, dim=1).T / 1e-3
    expected = torch.stack([similarities[:, labels == c].logsumexp(1) for c in range(4)], 1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-2)
    assert x.grad.isfinite().all() and (x.grad != 0).any()


def test_the_gradient_is_that_of_finite_differences():
    """The logits of classes without a neighbour are left out: they count as constants."""
    bank, labels = draws(60, 7), torch.arange(60) % 5
    net = heads.NearestNeighbours(bank, labels, 6, 9, 0.3).double()
    x = draws(8, 7, seed=1).requires_grad_(True)
    logits = net(x).detach()
    is_present = logits > logits.amin(1, keepdim=True)
    assert is_present.any(1).all() and not is_present[:, 5].any()

    def present(x):
        return net(x)[is_present]

    assert torch.autograd.gradcheck(present, (x,), eps=1e-7, atol=1e-5)
    assert torch.autograd.gradgradcheck(present, (x,), atol=1e-4)


def test_the_gradient_is_0_for_absent_classes_and_that_of_the_chosen_set_at_a_border():
    bank = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).double()
    net = heads.NearestNeighbours(bank, torch.arange(3), 3, 1, 0.5).double()

    def gradient(x, column):
        x = torch.tensor([x]).double().requires_grad_(True)
        net(x)[0, column].backward()
        return x.grad[0]

    near = [1.0, 0.999, 0]
    assert (gradient(near, 1) == 0).all() and (gradient(near, 0) != 0).any()
    on_border = gradient([1.0, 1.0, 0.0], int(net(torch.tensor([[1.0, 1, 0]]).double()).argmax()))
    assert on_border.isfinite().all() and (on_border[:2].sign() != 0).all()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_find_the_same_neighbours(chunk):
    queries, bank = draws(5, 6), draws(333, 6, seed=1)
    values, rows = heads.nearest(queries, bank, 20, chunk)
    expected = (queries @ bank.T).topk(20, dim=1)
    torch.testing.assert_close(values, expected.values)
    assert torch.equal(rows, expected.indices)


def test_memory_does_not_grow_with_the_bank(monkeypatch):
    """No array of all similarities is made: each product has at most a chunk of the bank's rows."""
    widths = []
    real = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda x, *a, **k: widths.append(x.shape[1]) or real(x, *a, **k))
    heads.nearest(torch.zeros(2, 1), torch.zeros(3 * heads.CHUNK + 5, 1), 4)
    assert max(widths) == heads.CHUNK and len(widths) == 7


def test_more_neighbours_than_features_are_refused():
    with pytest.raises(ValueError, match="k=5 must be from 1 to the number of features, 4"):
        heads.NearestNeighbours(draws(4, 2), torch.zeros(4, dtype=torch.int64), 1, 5, 0.1)


def test_an_attack_fools_neighbours(digits):
    """PGD through the similarities leaves far fewer right predictions than noise of the same size."""
    h, labels, test, truth = digits
    scale = float(h.max())
    x = (test / scale).clamp(0, 1)
    head = heads.NearestNeighbours(h / scale, labels, CLASSES, 20, 0.07)
    eps = 0.08
    noise = torch.from_numpy(np.random.default_rng(0).choice([-eps, eps], size=x.shape)).float()
    attacked = pgd(head, x, truth, eps=eps, step=eps / 4, steps=10, rng=np.random.default_rng(0))

    def accuracy(inputs):
        with torch.no_grad():
            return float((head(inputs).argmax(1) == truth).float().mean())

    assert accuracy(x) > 0.9 and accuracy((x + noise).clamp(0, 1)) > 0.8
    assert accuracy(attacked) < 0.4


def test_a_cross_entropy_has_a_gradient_where_all_neighbours_have_one_class(digits):
    h, labels, test, truth = digits
    head = heads.NearestNeighbours(h, labels, CLASSES, 20, 0.07)
    x = test.clone().requires_grad_(True)
    logits = head(x)
    is_unanimous = (logits > logits.amin(1, keepdim=True)).sum(1) == 1
    assert is_unanimous.sum() > 50
    F.cross_entropy(logits, truth, reduction="sum").backward()
    assert (x.grad[is_unanimous].abs().sum(1) > 0).all()


# --- class means and retrieval ---------------------------------------------------------------------------------------


def test_euclidean_means_are_scikit_learns(digits):
    h, labels, test, _ = digits
    head = heads.linear(*fitting.euclidean_centroids(h, labels, CLASSES))
    theirs = NearestCentroid().fit(h.double().numpy(), labels)
    assert np.array_equal(head(test).argmax(1), theirs.predict(test.double().numpy()))
    squares = torch.cdist(test.double(), torch.from_numpy(theirs.centroids_)).square()
    logits = head(test).double()
    expected = -squares / 2
    torch.testing.assert_close(logits - logits[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-4)


def test_cosine_means(digits):
    h, labels, test, truth = digits
    means = fitting.cosine_centroids(h, labels, CLASSES)
    unit = F.normalize(h, dim=1)
    expected = torch.stack([F.normalize(unit[labels == c].mean(0), dim=0) for c in range(CLASSES)])
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-5)
    logits = heads.Cosine(means, 10.0)(test)
    torch.testing.assert_close(logits, 10 * F.cosine_similarity(test[:, None], means[None], dim=2))
    assert torch.equal(heads.Cosine(7 * means, 10.0)(3 * test).argmax(1), logits.argmax(1))
    assert (logits.argmax(1) == truth).float().mean() > 0.7


def test_a_class_without_examples_has_no_mean(digits):
    h, labels, *_ = digits
    for centroids in (fitting.cosine_centroids, fitting.euclidean_centroids):
        with pytest.raises(UserError, match=r"no training example has the class 10, 11 of 12.*Try: `model: probe/knn`"):
            centroids(h, labels, 12)
