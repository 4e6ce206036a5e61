"""On linear models the strongest perturbation is known; the attacks must come close to it."""

from __future__ import annotations

import numpy as np
import pytest

from robharness import Budget

EPS = {"linf": 0.2, "l2": 1.0, "l1": 2.0}
SHAPE = (3, 4, 4)
FAR = 100.0
"""Offset that keeps examples far from the boundary, so that none leaves early and the whole increase shows."""


def largest_gain(x, weights, eps, norm):
    """Return the maximum of weights . delta over delta in the ball with x + delta in the box, (N,), float64."""
    x, weights = x.reshape(len(x), -1).double().numpy(), np.asarray(weights, np.float64).ravel()
    if norm == "linf":
        return (np.clip(np.sign(weights) * eps, -x, 1 - x) * weights).sum(1)
    if norm == "l1":  # the largest weights first, each as far as the box lets it
        order = np.argsort(-abs(weights))
        room = np.where(weights > 0, 1 - x, x)[:, order]
        return (np.clip(eps - (room.cumsum(1) - room), 0, room) * abs(weights[order])).sum(1)
    low, high = np.zeros(len(x)), np.full(len(x), 1e6)  # delta = clip(t * weights, box); its length grows with t
    for _ in range(200):
        t = (low + high) / 2
        short = np.linalg.norm(np.clip(t[:, None] * weights, -x, 1 - x), axis=1) < eps
        low, high = np.where(short, t, low), np.where(short, high, t)
    return (np.clip(low[:, None] * weights, -x, 1 - x) * weights).sum(1)


@pytest.fixture
def weights():
    return np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)


def gain(before, after, weights):
    return ((after - before).double().flatten(1).numpy() * weights.ravel()).sum(1)


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_pgd_reaches_the_optimum(attack, batch_of, uniform, linear, weights, norm, keep, random_start):
    batch = batch_of(uniform(0, 12, *SHAPE), [0] * 12)
    step = Budget("0.05" if norm == "l1" else "0.2")
    options = {"keep": keep, "random_start": random_start, "steps": 40, "rel_step": step}
    result = attack("pgd", linear(weights, FAR), batch, EPS[norm], norm=norm, **options)
    best = largest_gain(batch.x, weights, EPS[norm], norm)
    found = gain(batch.x, result.x, weights)
    assert (found >= 0.95 * best).all()
    assert (found <= best * (1 + 1e-4)).all()


def test_pgd_with_absolute_steps_reaches_the_optimum(attack, batch_of, uniform, linear, weights):
    batch = batch_of(uniform(0, 12, *SHAPE), [0] * 12)
    result = attack("pgd", linear(weights, FAR), batch, 0.2, steps=30, abs_step=Budget("0.02"))
    assert (gain(batch.x, result.x, weights) >= 0.95 * largest_gain(batch.x, weights, 0.2, "linf")).all()


def test_short_steps_reach_at_most_their_sum(attack, batch_of, linear, weights):
    batch = batch_of(np.full((2, *SHAPE), 0.5, np.float32), [0, 0])
    options = {"steps": 5, "rel_step": Budget("0.1"), "random_start": False, "keep": "last"}
    result = attack("pgd", linear(weights, FAR), batch, 0.25, **options)
    np.testing.assert_allclose((result.x - batch.x).abs().amax((1, 2, 3)), 0.5 * 0.25, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_the_optimum(attack, batch_of, uniform, linear, weights, norm):
    x = uniform(1, 12, *SHAPE)
    x = x if norm == "linf" else 0.4 + 0.2 * x  # one l2 step is optimal where the box does not cut it
    batch, eps = batch_of(x, [0] * 12), {"linf": 0.2, "l2": 0.3}[norm]
    found = gain(batch.x, attack("fgsm", linear(weights, FAR), batch, eps, norm=norm).x, weights)
    np.testing.assert_allclose(found, largest_gain(batch.x, weights, eps, norm), rtol=1e-4)
    if norm == "l2":
        np.testing.assert_allclose(found, eps * np.linalg.norm(weights), rtol=1e-4)


@pytest.mark.parametrize(("name", "norm"), [
    ("fgsm", "linf"), ("fgsm", "l2"), ("pgd", "linf"), ("pgd", "l2"), ("pgd", "l1"),
])  # fmt: skip
def test_the_smallest_budget_of_the_paper_is_used_up(attack, batch_of, linear, weights, name, norm):
    batch, eps = batch_of(np.full((2, *SHAPE), 0.5, np.float32), [0, 0]), 0.25 / 255
    found = gain(batch.x, attack(name, linear(weights, FAR), batch, eps, norm=norm).x, weights)
    np.testing.assert_allclose(found, largest_gain(batch.x, weights, eps, norm), rtol=0.05)


@pytest.mark.parametrize("options", [{}, {"steps": 40}, {"steps": 100}, {"steps": 40, "random_start": False}], ids=str)
@pytest.mark.parametrize("eps", [3.0, 6.0, 12.0])
def test_l1_steps_are_not_lost_at_pixels_that_the_box_holds(attack, batch_of, uniform, linear, eps, options):
    """A third of the pixels are black or white; dense steps reach about half of the optimum."""
    weights = np.random.default_rng(3).normal(size=(3, 8, 8)).astype(np.float32)
    x, edge = uniform(0, 12, 3, 8, 8), uniform(1, 12, 3, 8, 8)
    x[edge < 1 / 6], x[edge > 5 / 6] = 0, 1
    batch, net = batch_of(x, [0] * 12), linear(weights, FAR)
    best = largest_gain(x, weights, eps, "l1")
    found = gain(x, attack("pgd", net, batch, eps, norm="l1", rows=12, **options).x, weights)
    assert (found >= (0.95 if options else 0.93) * best).all()
    assert (found <= best * (1 + 1e-4)).all()
    dense = gain(x, attack("pgd-dense", net, batch, eps, rows=12, **options).x, weights)
    assert dense.mean() < 0.7 * best.mean()
