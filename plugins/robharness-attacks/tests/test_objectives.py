"""The objective keeps its gradient when the model is sure of itself; no gradient at all is survived and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import Classifier
from robharness_attacks.objectives import clearly_fooled, excess, lead


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def accuracy(net, x, labels):
    return float((Classifier(net, rows=64).decisions(x) == labels).float().mean())


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_cross_entropy_is_log_of_one_plus_exp_m(classes):
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(20, classes)) * 3).requires_grad_()
    labels = torch.arange(20) % classes
    m, entropy = excess(logits, labels), cross_entropy(logits, labels)
    torch.testing.assert_close(torch.log1p(m.exp()), entropy)
    (of_m,), (of_entropy,) = (torch.autograd.grad(value.sum(), logits) for value in (m, entropy))
    sure = logits.softmax(1).gather(1, labels[:, None]).detach()
    torch.testing.assert_close(of_entropy, (1 - sure) * of_m)


def test_m_keeps_its_gradient_where_cross_entropy_underflows():
    logits = torch.tensor([[4000.0, 1.0, 0.0], [-4000.0, 0.0, 3.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    (of_entropy,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)
    (of_m,) = torch.autograd.grad(excess(logits, labels).sum(), logits)
    assert not of_entropy[0].any()
    torch.testing.assert_close(of_m[:, 0], torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(of_m.sum(1), torch.zeros(2))


def test_lead_is_positive_exactly_where_the_model_is_fooled():
    logits = torch.tensor([[1.0, 0.9, 0.9], [1.0, 1.25, -9.0], [5.0, 5.004, 0.0], [torch.nan, 0.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(lead(logits, labels)[:2], torch.tensor([-0.1, 0.25]))
    assert excess(logits, labels)[0] > 0  # which does not mean that the first row is fooled
    assert clearly_fooled(logits, labels).tolist() == [False, True, False, False]
    assert lead(logits, labels)[3] == torch.inf


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_scale_of_the_logits_does_not_matter(attack, batch_of, digits, scaled, keep, monkeypatch):
    net, x, labels = digits
    batch, scales = batch_of(x, labels), (1, 10, 100, 1000)

    def left(scale):
        result = attack("pgd", scaled(net, scale), batch_of(x, labels), 0.15, rows=64, keep=keep, steps=20)
        return accuracy(net, result.x, labels)

    with_m = [left(scale) for scale in scales]
    assert max(with_m) - min(with_m) <= 0.02
    monkeypatch.setattr("robharness_attacks.gradient.excess", cross_entropy)
    with_entropy = [left(scale) for scale in scales]
    assert abs(with_entropy[0] - with_m[0]) <= 0.02
    assert with_entropy[-1] > with_m[-1] + 0.4
    assert accuracy(net, batch.x, labels) > 0.9


@pytest.mark.parametrize("scale", [0.01, 1, 1000])
def test_the_best_iterate_is_never_weaker_than_the_last(attack, batch_of, digits, scaled, scale):
    """At scale 0.01 every p_true is near 0.1: m is positive everywhere, though most examples are right."""
    net, x, labels = digits
    for norm, eps in (("linf", 0.06), ("l2", 0.4)):
        right = {}
        for keep in ("best", "last"):
            result = attack("pgd", scaled(net, scale), batch_of(x, labels), eps, rows=64, norm=norm, keep=keep)
            right[keep] = Classifier(net, rows=64).decisions(result.x) == labels
        assert 0.1 < float(right["last"].float().mean()) < 0.9
        assert not (right["best"] & ~right["last"]).any()


class Dead(torch.nn.Module):
    """Bright pictures get constant logits, dark ones do not; `slope` is that of the dark ones."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        score = torch.relu(0.5 - x.flatten(1)).sum(1) * self.slope
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradients_are_counted_and_do_not_move(attack, batch_of, norm):
    x = torch.stack([torch.full((1, 4, 4), value) for value in (0.9, 0.2, 0.9, 0.3)])
    batch = batch_of(x, [0, 0, 1, 1])
    result = attack("fgsm", Dead(), batch, 0.1, norm=norm)
    assert result.notes["zero_gradients"].tolist() == [1, 0, 1, 0]
    assert torch.equal(result.x[[0, 2]], x[[0, 2]])
    assert (result.x[[1, 3]] != x[[1, 3]]).all()
    result = attack("pgd", Dead(), batch, 0.1, norm=norm, steps=6, keep="last", random_start=False)
    assert result.notes["zero_gradients"].tolist() == [6, 0, 6, 0]
    assert torch.equal(result.x[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradients_are_counted_where_others_left(attack, batch_of, norm):
    x = torch.stack([torch.full((1, 4, 4), value) for value in (0.2, 0.9, 0.3, 0.9)])
    batch = batch_of(x, [0, 1, 1, 0])  # the first two are fooled from the start
    result = attack("pgd", Dead(), batch, 0.1, norm=norm, steps=6)
    assert result.notes["zero_gradients"].tolist() == [0, 0, 0, 6]


@pytest.mark.parametrize("slope", [1e-30, 1e-40])
def test_tiny_gradients_are_followed_to_the_edge(attack, batch_of, linear, slope):
    weights = np.random.default_rng(0).normal(size=16).astype(np.float32)
    batch = batch_of(np.full((1, 1, 4, 4), 0.5, np.float32), [0])
    moved = attack("fgsm", linear(weights * np.float32(slope)), batch, 0.1, norm="l2").x - batch.x
    np.testing.assert_allclose(moved.flatten(), 0.1 * weights / np.linalg.norm(weights), rtol=1e-3)


class NotANumber(torch.nn.Module):
    """sqrt at 0 has an infinite slope, and 0 times infinity is NaN: the gradient of a black picture."""

    def forward(self, x):
        score = (x.flatten(1).amax(1) * 0).sqrt() + x.flatten(1).sum(1)
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_that_are_not_numbers_stay_within_the_budget(attack, batch_of, norm):
    batch = batch_of(torch.zeros(3, 1, 4, 4), [0, 1, 0])
    assert Classifier(NotANumber(), rows=4).gradient(batch.x, batch.labels, excess).gradient.isnan().any()
    assert attack("fgsm", NotANumber(), batch, 0.1, norm=norm).notes["zero_gradients"].sum() < 4
    attack("pgd", NotANumber(), batch, 0.1, norm=norm)
