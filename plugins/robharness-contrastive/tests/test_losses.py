"""Losses against lightly, pytorch-metric-learning, closed forms and explicit sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from pytorch_metric_learning.losses import SupConLoss

from robharness_contrastive import losses

B, D = 12, 7


def unit_rows(seed, n=2 * B):
    return F.normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(n, D))), dim=1)


def loss_of(z, groups, temperature):
    own = torch.arange(len(z))
    return losses.contrastive(z @ z.T / temperature, losses.pairs(groups, groups, own))


INSTANCES = torch.arange(B).repeat(2)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 3]).repeat(2)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_one_positive_a_row_is_lightlys_ntxent(temperature):
    z = (3 * unit_rows(0)).requires_grad_(True)  # both normalise
    ours = loss_of(F.normalize(z, dim=1), INSTANCES, temperature).mean()
    theirs = NTXentLoss(temperature)(z[:B], z[B:])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_classes_for_positives_are_metric_learnings_supcon(temperature):
    z = (3 * unit_rows(1)).requires_grad_(True)
    ours = loss_of(F.normalize(z, dim=1), CLASSES, temperature).mean()
    theirs = SupConLoss(temperature=temperature)(z, CLASSES)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_negative_that_is_removed_is_in_no_sum():
    z, temperature = unit_rows(2), 0.5
    pairs = losses.pairs(INSTANCES, INSTANCES, torch.arange(len(z)))
    removed = torch.from_numpy(np.random.default_rng(3).random((2 * B, 2 * B)) < 0.3) & pairs.negatives
    found = losses.contrastive(z @ z.T / temperature, pairs._replace(negatives=pairs.negatives & ~removed))
    for row in range(2 * B):
        positive = (row + B) % (2 * B)
        total = sum(
            math.exp(float(z[row] @ z[other]) / temperature)
            for other in range(2 * B)
            if other != row and not removed[row, other]
        )
        expected = math.log(total) - float(z[row] @ z[positive]) / temperature
        assert float(found[row]) == pytest.approx(expected, abs=1e-12)


def test_a_removed_negative_gets_no_gradient_from_that_anchor():
    z = unit_rows(4)
    similarity = (z @ z.T / 0.5).requires_grad_(True)
    pairs = losses.pairs(INSTANCES, INSTANCES, torch.arange(2 * B))
    negatives = pairs.negatives.clone()
    negatives[0, 5] = False
    losses.contrastive(similarity, pairs._replace(negatives=negatives)).sum().backward()
    assert similarity.grad[0, 5] == 0 and similarity.grad[1, 5] != 0
    assert (similarity.grad.diagonal() == 0).all()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("per_class", [1, 3])
def test_bounds_are_attained(temperature, per_class):
    """The start if all rows are one point; the floor if classes are single points at right angles."""
    classes = 6
    names = torch.arange(classes).repeat_interleave(per_class).repeat(2)
    start, floor = losses.bounds(len(names), 2 * per_class - 1, temperature)
    point = torch.eye(classes, dtype=torch.float64)[:1].expand(len(names), -1)
    assert float(loss_of(point, names, temperature).mean()) == pytest.approx(start, abs=1e-12)
    corners = torch.eye(classes, dtype=torch.float64)[names]
    assert float(loss_of(corners, names, temperature).mean()) == pytest.approx(floor, abs=1e-12)


def test_the_floor_of_the_papers_simclr():
    """B = 1024 images, temperature 0.5, SupContrast's factor: 54.5 at the start, 40.2 at best."""
    start, floor = (0.5 / 0.07 * bound for bound in losses.bounds(2048, 1, 0.5))
    assert (round(start, 1), round(floor, 1)) == (54.5, 40.2)


def test_anchors_may_be_a_part_of_the_candidates():
    """Losses of a part of the rows, as one of several processes computes them, equal those of the whole matrix."""
    z = unit_rows(5)
    whole = loss_of(z, CLASSES, 0.5)
    rows = torch.tensor([3, 4, 5, B + 3, B + 4, B + 5])
    part = losses.contrastive(z[rows] @ z.T / 0.5, losses.pairs(CLASSES[rows], CLASSES, rows))
    torch.testing.assert_close(part, whole[rows])


def test_the_negative_cosine_is_lightlys_and_its_target_learns_nothing():
    p, z = unit_rows(6).requires_grad_(True), unit_rows(7).requires_grad_(True)
    value = losses.negative_cosine(p, z).mean()
    torch.testing.assert_close(value, NegativeCosineSimilarity()(p, z.detach()))
    value.backward()
    assert z.grad is None and p.grad.abs().sum() > 0


def test_products_keep_the_precision_of_their_rows_under_mixed_precision():
    z = unit_rows(3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.products(z, z)
        assert (z @ z.T).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, z @ z.T)
