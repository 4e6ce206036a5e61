"""The objective keeps its gradient for a confident model; gradients of 0 are tolerated and counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness import Classifier
from robharness_attacks.components import own
from robharness_attacks.objectives import (
    clearly_fooled,
    clearly_reached,
    cross_entropy,
    dlr,
    excess,
    lead,
    likely_targets,
    objective_of,
    toward_cross_entropy,
    toward_dlr,
    toward_excess,
    toward_margin,
)


def accuracy(net, x, labels):
    return float((Classifier(net, batch_size=64).decisions(x) == labels).float().mean())


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


@pytest.fixture
def some():
    """Return logits of ten classes in float64, labels and targets."""
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 10)) * 3)
    return logits, torch.arange(20) % 10, (torch.arange(20) + 3) % 10


def test_dlr_is_the_formula_of_its_authors(some):
    logits, labels, targets = some
    logits[0, 0] = 100.0  # right, and wrong in most of the others
    for row in range(20):
        z, y, t = logits[row].tolist(), int(labels[row]), int(targets[row])
        p1, _, p3, p4 = sorted(z, reverse=True)[:4]
        untargeted = -(z[y] - max(z[:y] + z[y + 1 :])) / (p1 - p3)
        targeted = -(z[y] - z[t]) / (p1 - (p3 + p4) / 2)
        assert float(dlr(logits, labels)[row]) == pytest.approx(untargeted)
        assert float(toward_dlr(logits, torch.stack([labels, targets], 1))[row]) == pytest.approx(targeted)


def test_toward_a_target_is_the_negative_of_away_from_it(some):
    logits, labels, targets = some
    about = torch.stack([labels, targets], 1)
    chances = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(toward_cross_entropy(logits, about), chances)
    torch.testing.assert_close(toward_excess(logits, about), chances - torch.log1p(-chances.exp()))
    for row in range(20):
        margin = float(logits[row, targets[row]] - logits[row, labels[row]])
        assert float(toward_margin(logits, about)[row]) == pytest.approx(margin)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("name", ["excess", "cross-entropy", "margin", "dlr"])
def test_few_classes_are_enough_for_all_objectives(some, name, classes):
    logits = some[0][:, :classes].requires_grad_()
    labels = torch.arange(20) % classes
    about = torch.stack([labels, (labels + 1) % classes], 1)
    for is_targeted, known in ((False, labels), (True, about)):
        values = objective_of(own(name), is_targeted)(logits, known)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert values.shape == (20,)
        assert gradient.isfinite().all()
        assert (gradient.abs().amax(1) > 0).all()
    assert objective_of(own(name), True) is objective_of(own(name), True) is not objective_of(own(name), False)


def test_likely_targets_are_wrong_classes_in_order():
    logits = torch.tensor([[9.0, 1, 3, 3], [0, 5, -torch.inf, -torch.inf], [torch.nan, 1, 2, 0]])
    labels = torch.tensor([0, 0, 3])
    assert likely_targets(logits, labels, 9).tolist() == [[2, 3, 1], [1, 2, 3], [2, 1, 0]]
    assert likely_targets(logits, labels, 1).tolist() == [[2], [1], [2]]


def test_a_target_is_reached_where_it_wins_clearly():
    logits = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 2.0], [0.0, 5.0, 4.999], [0.0, 1.0, torch.nan]])
    assert clearly_reached(logits, torch.ones(4, dtype=torch.long)).tolist() == [True, False, False, False]


SCALES = (1, 10, 100, 1000)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_scale_of_the_logits_does_not_matter(attack, batch_of, digits, scaled, keep):
    """Accuracies in percent: 13, 22, 94, 96 with cross-entropy; 13, 14, 14, 14 with m; 16 with dlr."""
    net, x, labels = digits
    assert accuracy(net, x, labels) > 0.9
    left = {}
    for objective in ("cross-entropy", "excess", "margin", "dlr"):
        options = {"keep": keep, "steps": 20, "objective": objective}
        batches = [batch_of(x, labels) for _ in SCALES]
        results = [attack("pgd", scaled(net, scale), batch, 0.15, rows=64, **options)
                   for scale, batch in zip(SCALES, batches, strict=True)]  # fmt: skip
        left[objective] = [accuracy(net, result.x, labels) for result in results]
    assert max(left["excess"]) - min(left["excess"]) <= 0.015
    assert max(left["excess"][1:]) - min(left["excess"][1:]) <= 0.005
    assert max(left["margin"] + left["dlr"]) <= min(left["excess"]) + 0.04
    assert all(max(left[name]) - min(left[name]) <= 0.005 for name in ("margin", "dlr"))
    assert abs(left["cross-entropy"][0] - left["excess"][0]) <= 0.01
    assert left["cross-entropy"][1] > left["excess"][1] + 0.05
    assert min(left["cross-entropy"][2:]) > 0.85


@pytest.mark.parametrize("scale", [0.01, 1, 1000])
def test_the_best_iterate_is_never_weaker_than_the_last(attack, batch_of, digits, scaled, scale):
    """At scale 0.01 every p_true is near 0.1: m is positive everywhere, though most examples are right."""
    net, x, labels = digits
    for norm, eps in (("linf", 0.06), ("l2", 0.4)):
        right = {}
        for keep in ("best", "last"):
            result = attack("pgd", scaled(net, scale), batch_of(x, labels), eps, rows=64, norm=norm, keep=keep)
            right[keep] = Classifier(net, batch_size=64).decisions(result.x) == labels
        assert 0.1 < float(right["last"].float().mean()) < 0.9
        assert not (right["best"] & ~right["last"]).any()


class Dead(torch.nn.Module):
    """A network with constant logits on bright images, and logits of this slope on dark ones."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        score = torch.relu(0.5 - x.flatten(1)).sum(1) * self.slope
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_zero_gradients_are_counted_and_do_not_move(attack, batch_of, norm):
    x = torch.stack([torch.full((1, 4, 4), value) for value in (0.9, 0.2, 0.9, 0.3)])
    batch = batch_of(x, [0, 0, 1, 1])
    if norm != "l1":
        result = attack("fgsm", Dead(), batch, 0.1, norm=norm)
        assert result.notes["zero_gradients"].tolist() == [1, 0, 1, 0]
        assert torch.equal(result.x[[0, 2]], x[[0, 2]])
        assert (result.x[[1, 3]] != x[[1, 3]]).all()
    result = attack("pgd", Dead(), batch, 0.1, norm=norm, steps=6, keep="last", random_start=False)
    assert result.notes["zero_gradients"].tolist() == [6, 0, 6, 0]
    assert torch.equal(result.x[[0, 2]], x[[0, 2]])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
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
    """sqrt at 0 has an infinite slope, and 0 times infinity is NaN: the gradient of a black image."""

    def forward(self, x):
        score = (x.flatten(1).amax(1) * 0).sqrt() + x.flatten(1).sum(1)
        return torch.stack([torch.ones_like(score), score], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_gradients_that_are_not_numbers_stay_within_the_budget(attack, batch_of, norm):
    batch = batch_of(torch.zeros(3, 1, 4, 4), [0, 1, 0])
    assert Classifier(NotANumber(), batch_size=4).gradient(batch.x, batch.labels, excess).gradient.isnan().any()
    assert attack("fgsm", NotANumber(), batch, 0.1, norm=norm).notes["zero_gradients"].sum() < 4
    attack("pgd", NotANumber(), batch, 0.1, norm=norm)


def test_where_the_box_blocks_all_pixels_gradients_are_not_zero(attack, batch_of, linear):
    batch = batch_of(torch.zeros(2, 1, 4, 4), [1, 1])  # to fool class 1 the pixels would have to fall below 0
    net = linear(np.ones(16, np.float32), -9.0)
    for name in ("pgd", "pgd-dense"):
        result = attack(name, net, batch, 0.1, norm="l1", steps=3, random_start=False)
        assert torch.equal(result.x, batch.x)
        assert not result.notes["zero_gradients"].any()
