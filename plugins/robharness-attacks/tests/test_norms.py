"""Starts are uniform in the ball, projections are the nearest points, directions have length one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from robharness import ExampleRNG
from robharness_attacks.norms import direction, project, random_start

LIKE = torch.zeros(600, 2, 2, 3)
SIZE = 12
IDS = [f"example-{row}" for row in range(600)]


def starts(norm, draw="start 0", eps=0.5):
    return random_start(ExampleRNG(0, "test", IDS), draw, LIKE, eps, norm).flatten(1).numpy()


def test_linf_starts_fill_the_cube():
    values = starts("linf") / 0.5
    assert stats.kstest(values.ravel(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    correlation = np.corrcoef(values.T) - np.eye(SIZE)
    assert abs(correlation).max() < 0.2


def test_l2_starts_fill_the_ball():
    values = starts("l2") / 0.5
    radius = np.linalg.norm(values, axis=1)
    assert radius.max() <= 1
    assert stats.kstest(radius**SIZE, "uniform").pvalue > 0.01
    # a coordinate of a direction, squared, has a beta distribution, whatever the coordinate
    for coordinate in (values / radius[:, None]).T:
        assert stats.kstest(coordinate**2, stats.beta(0.5, (SIZE - 1) / 2).cdf).pvalue > 0.001
        assert 240 < (coordinate > 0).sum() < 360


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_belong_to_example_and_restart(norm):
    first = starts(norm)
    assert np.array_equal(first, starts(norm))
    assert not np.array_equal(first, starts(norm, "start 1"))
    assert len(np.unique(first, axis=0)) == 600
    np.testing.assert_allclose(2 * first, starts(norm, eps=1.0), rtol=1e-6)


def test_projections():
    delta = torch.tensor([[3.0, -4.0], [0.3, -0.4], [0.0, 0.0]])[:, None, None]
    torch.testing.assert_close(project(delta, 1.0, "l2")[:, 0, 0], torch.tensor([[0.6, -0.8], [0.3, -0.4], [0, 0]]))
    torch.testing.assert_close(project(delta, 1.0, "linf")[:, 0, 0], torch.tensor([[1.0, -1.0], [0.3, -0.4], [0, 0]]))
    assert torch.equal(project(delta, 1.0, "l2")[1:], delta[1:])


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1, 1e20, 1e38])
def test_directions_have_length_one_at_any_scale(scale):
    gradient = torch.tensor([[[[3.0, -2.0]]], [[[0.0, 0.0]]], [[[0.0, 1.0]]]]) * scale
    assert gradient[0].abs().amin() > 0
    lengths = torch.linalg.vector_norm(direction(gradient, "l2").flatten(1), dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0, 1.0]))
    assert direction(gradient, "linf").flatten(1).tolist() == [[1, -1], [0, 0], [0, 1]]


def test_directions_of_what_is_not_a_number():
    gradient = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [torch.nan, torch.nan]])[:, None, None]
    assert direction(gradient, "linf").flatten(1).tolist() == [[0, 1], [1, 1], [0, 0]]
    torch.testing.assert_close(direction(gradient, "l2").flatten(1), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
