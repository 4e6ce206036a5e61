"""Starts are uniform in the ball, projections are the nearest points, directions have length one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from robharness import ExampleRNG
from robharness_attacks.norms import direction, length, project, random_start, rescale, sparse_step, unit

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


def test_l1_starts_fill_the_ball():
    values = starts("l1") / 0.5
    radius = abs(values).sum(1)
    assert radius.max() <= 1
    assert stats.kstest(radius**SIZE, "uniform").pvalue > 0.01
    # a share of a point that is uniform on a simplex has a beta distribution, whatever the share
    for share in (values / radius[:, None]).T:
        assert stats.kstest(abs(share), stats.beta(1, SIZE - 1).cdf).pvalue > 0.001
        assert 240 < (share > 0).sum() < 360
    assert abs(np.corrcoef(np.sign(values).T) - np.eye(SIZE)).max() < 0.2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_belong_to_example_and_restart(norm):
    first = starts(norm)
    assert np.array_equal(first, starts(norm))
    assert not np.array_equal(first, starts(norm, "start 1"))
    assert len(np.unique(first, axis=0)) == 600
    np.testing.assert_allclose(2 * first, starts(norm, eps=1.0), rtol=1e-6)


def test_projections():
    x = torch.tensor([[0.8, 0.1], [0.53, 0.46], [0.5, 0.5]])[:, None, None]
    origin = torch.full_like(x, 0.5)
    delta = {norm: (project(x, origin, 0.1, norm) - origin)[:, 0, 0] for norm in ("linf", "l2", "l1")}
    torch.testing.assert_close(delta["linf"], torch.tensor([[0.1, -0.1], [0.03, -0.04], [0, 0]]))
    torch.testing.assert_close(delta["l2"], torch.tensor([[0.06, -0.08], [0.03, -0.04], [0, 0]]))
    torch.testing.assert_close(delta["l1"], torch.tensor([[0, -0.1], [0.03, -0.04], [0, 0]]))
    dense = (rescale(x, origin, 0.1, "l1") - origin)[:, 0, 0]
    torch.testing.assert_close(
        dense, torch.tensor([[0.3, -0.4], [0.21, -0.28], [0, 0]]) / torch.tensor([[7], [7], [1]])
    )


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_row_may_have_a_radius_of_its_own(uniform, norm):
    x, origin = 3 * uniform(0, 6, 3, 4, 4) - 1, uniform(1, 6, 3, 4, 4)
    eps = torch.tensor([0.05, 0.1, 1.0, 5.0, 100.0, torch.inf])
    both = project(x, origin, eps, norm)
    for row in range(6):
        assert torch.equal(both[row], project(x[row : row + 1], origin[row : row + 1], float(eps[row]), norm)[0])
    assert torch.equal(both[5], x[5].clamp(0, 1)) or norm != "l1"
    assert (length(both.double() - origin, norm)[:4] <= eps[:4] * (1 + 1e-4)).all()


def cases(size, draws, dtype):
    """Origins with a third of the pixels at 0 or 1, and points outside ball and box; some with ties, some inside."""
    origin = draws.random((12, size)).astype(dtype)
    origin[draws.random(origin.shape) < 1 / 6] = 0
    origin[draws.random(origin.shape) < 1 / 6] = 1
    scale = np.resize([1e-5, 0.01, 0.3, 3.0], (12, 1))
    x = origin + scale * draws.normal(size=origin.shape).astype(dtype)
    x[8] = origin[8] + 0.25 * np.sign(draws.normal(size=size))  # all as large as each other
    x[9] = origin[9]
    return torch.from_numpy(x.astype(dtype)), torch.from_numpy(origin)


@pytest.mark.parametrize(("size", "eps"), [(1, 0.1), (5, 0.5), (192, 6.0), (192, 0.01), (3000, 12.0), (3000, 2000.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(size, eps, dtype):
    x, origin = cases(size, np.random.default_rng(size), dtype)
    found = project(x, origin, eps, "l1")
    delta, wanted = (found - origin).double(), (x - origin).double()
    slack = 1e-12 if dtype == np.float64 else 1e-6
    assert (delta.abs().sum(1) <= eps * (1 + slack)).all()
    assert ((found >= 0) & (found <= 1)).all()
    room = torch.where(wanted > 0, 1 - origin, origin).double()
    low, high = torch.zeros(len(x)).double(), wanted.abs().amax(1)  # bisection for the same cut, in float64
    for _ in range(100):
        cut = (low + high) / 2
        over = (wanted.abs() - cut[:, None]).clamp_min(0).minimum(room).sum(1) > eps
        low, high = torch.where(over, cut, low), torch.where(over, high, cut)
    high[wanted.abs().minimum(room).sum(1) <= eps] = 0
    exact = wanted.sign() * (wanted.abs() - high[:, None]).clamp_min(0).minimum(room)
    torch.testing.assert_close(delta, exact, rtol=0, atol=2 * slack)
    is_inside = exact.abs().sum(1) < 0.999 * eps
    assert torch.equal(found[is_inside], x[is_inside].clamp(0, 1)) or dtype == np.float32


def test_the_l1_projection_of_many_pixels_does_not_round_out_of_the_ball(uniform):
    """All pixels move by the same fraction of a last place; to the nearest, they would round outward together."""
    origin = uniform(0, 2, 3, 200, 200)
    x = origin + 1e-4 * (2 * uniform(1, 2, 3, 200, 200) - 1)
    sizes = (project(x, origin, 1.0, "l1").double() - origin.double()).abs().flatten(1).sum(1)
    assert (sizes <= 1 + 1e-6).all()
    assert (sizes >= 1 - 2e-3).all()


def test_the_l1_projection_reaches_the_edge_of_the_box_itself(uniform):
    origin = uniform(0, 4, 50)
    x = torch.where(uniform(1, 4, 50) < 0.5, -1.0, 2.0)
    assert set(project(x, origin, 100.0, "l1").flatten().tolist()) == {0.0, 1.0}


def test_a_sparse_step_shares_its_length_among_the_largest():
    x = torch.full((4, 1, 2, 3), 0.5)
    x[2, 0, 0, 0], x[3, 0, 0, 0] = 1.0, 0.95
    gradient = torch.tensor([[5.0, -4, 3, -2, 1, 0]]).repeat(4, 1).view(4, 1, 2, 3)
    gradient[1] = torch.tensor([0, 0, torch.nan, -7, 0, 0]).view(1, 2, 3)
    step = sparse_step(x, gradient, 0.2, 2).flatten(1)
    wanted = [[0.1, -0.1, 0, 0, 0, 0], [0, 0, 0, -0.1, 0, 0], [0, -0.1, 0.1, 0, 0, 0], [0.05, -0.1, 0.05, 0, 0, 0]]
    torch.testing.assert_close(step, torch.tensor(wanted))
    assert torch.equal(sparse_step(x, 0 * gradient, 0.2, 2), torch.zeros_like(x))
    assert sparse_step(x[:1], gradient[:1].sign(), 0.2, 1).flatten().tolist() == pytest.approx([0.2, 0, 0, 0, 0, 0])
    assert float(sparse_step(x[:1], gradient[:1], 100.0, 1).abs().sum()) == 2.5


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1, 1e20, 1e38])
def test_directions_have_length_one_at_any_scale(scale):
    gradient = torch.tensor([[[[3.0, -2.0]]], [[[0.0, 0.0]]], [[[0.0, 1.0]]]]) * scale
    assert gradient[0].abs().amin() > 0
    for norm, order in (("l2", 2), ("l1", 1), ("linf", torch.inf)):
        lengths = torch.linalg.vector_norm(unit(gradient, norm).flatten(1), order, dim=1)
        torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(direction(gradient, "l2"), unit(gradient, "l2"))
    assert direction(gradient, "linf").flatten(1).tolist() == [[1, -1], [0, 0], [0, 1]]


def test_directions_of_what_is_not_a_number():
    gradient = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [torch.nan, torch.nan]])[:, None, None]
    assert direction(gradient, "linf").flatten(1).tolist() == [[0, 1], [1, 1], [0, 0]]
    torch.testing.assert_close(direction(gradient, "l2").flatten(1), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))
