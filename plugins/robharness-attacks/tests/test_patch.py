"""Patches against closed forms on a linear model, and their measure against a count in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robharness_attacks.patch import area

SIDE, OFFSET = 3, -2.0


def best_corner(weights, x):
    """The corner of the patch that lowers a linear score most, and by how much, in float64."""
    against = -weights
    gain = np.where(against > 0, against * (1 - x), -against * x).sum(0)
    windows = np.lib.stride_tricks.sliding_window_view(gain, (SIDE, SIDE)).sum((2, 3))
    corner = np.unravel_index(windows.argmax(), windows.shape)
    return corner, windows.max()


@pytest.fixture
def case(linear, batch_of, uniform):
    """A linear model of (2, 7, 9) inputs, of which the best patch of 3 x 3 fools some; and the margins."""
    weights = uniform(1, 2, 7, 9) - 0.5
    x = uniform(2, 12, 2, 7, 9)
    scores = (x.flatten(1) @ weights.flatten()).numpy() - OFFSET
    return weights, x, np.ones(len(x), int), scores


@pytest.mark.parametrize("eps", [9, 15])  # the side is the root, rounded down
def test_the_best_place_of_a_linear_model_is_found_and_filled(case, linear, batch_of, attack, eps):
    weights, x, labels, scores = case
    found = attack("patch", linear(weights, OFFSET), batch_of(x, labels), eps, places=1, steps=8)
    fooled = 0
    for row in range(len(x)):
        corner, gain = best_corner(weights.numpy().astype(float), x[row].numpy().astype(float))
        assert (int(found.notes["row"][row]), int(found.notes["column"][row])) == corner
        score = float(found.x[row].flatten() @ weights.flatten()) - OFFSET
        assert (score < 0) == (gain > scores[row])
        if score > 0:  # one that is fooled leaves before its patch is full
            assert scores[row] - score == pytest.approx(gain, abs=1e-5)
        fooled += score < 0
    assert 0 < fooled < len(x)
    assert (found.notes["side"] == SIDE).all()


def test_only_the_patch_changes(case, linear, batch_of, attack):
    weights, x, labels, _ = case
    found = attack("patch", linear(weights, OFFSET), batch_of(x, labels), 9, place="random", places=3, steps=4)
    changed = (found.x != x).any(1).numpy()
    for row, column, mask in zip(found.notes["row"], found.notes["column"], changed, strict=True):
        inside = np.zeros((7, 9), bool)
        inside[row : row + SIDE, column : column + SIDE] = True
        assert not (mask & ~inside).any() and mask.any()


def test_no_pixels_no_change_and_a_patch_ends_at_the_image(case, linear, batch_of, attack):
    weights, x, labels, _ = case
    batch = batch_of(x, labels)
    assert torch.equal(attack("patch", linear(weights, OFFSET), batch, 0.0).x, x)
    assert (attack("patch", linear(weights, OFFSET), batch, 80.0, steps=2, places=1).notes["side"] == 7).all()


def test_more_places_are_at_least_as_strong(conv_net, batch_of, attack, uniform):
    net, x = conv_net(), uniform(3, 24, 3, 8, 8)
    batch = batch_of(x, net(x).argmax(1))
    right = [
        int((net(attack("patch", net, batch, 9, steps=10, places=places).x).argmax(1) == batch.labels).sum())
        for places in (1, 8)
    ]
    assert right[1] <= right[0] < len(x)


def test_the_area_is_that_of_the_smallest_square():
    draws = np.random.default_rng(0)
    clean = torch.zeros(40, 2, 3, 6, 7)
    perturbed = clean.clone()
    for row in range(1, 40):
        for _ in range(row % 4):
            place = tuple(int(draws.integers(0, n)) for n in clean.shape[1:])
            perturbed[(row, *place)] = 0.5
    for row, found in enumerate(area(clean, perturbed).tolist()):
        rows, columns = np.nonzero((perturbed[row] != 0).flatten(0, -3).any(0).numpy())
        side = max(np.ptp(rows), np.ptp(columns)) + 1 if len(rows) else 0
        assert found == side**2
