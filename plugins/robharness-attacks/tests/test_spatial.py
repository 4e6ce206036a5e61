"""Rotations and translations against NumPy and SciPy, and their measure against the transformation that was applied."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from robharness_attacks.spatial import Transformation, magnitude, transform
from robharness_attacks.threats import rotation_translation

SCALE = 10.0


def test_quarter_turns_and_whole_shifts_are_exact(uniform):
    x = uniform(0, 2, 3, 8, 8)
    assert torch.equal(transform(x, [Transformation(90, 0, 0)] * 2, SCALE), torch.rot90(x, 1, (-2, -1)))
    shifted = transform(x, [Transformation(0, 2, -4)] * 2, SCALE)  # 1 pixel down, 2 to the left
    assert torch.equal(shifted[..., 1:, :6], x[..., :7, 2:])
    assert not shifted[..., 0, :].any() and not shifted[..., 6:].any()


@pytest.mark.parametrize("angle", [-30, 7, 45])
def test_rotations_are_those_of_scipy_inside(uniform, angle):
    x = uniform(1, 1, 1, 17, 20)
    ours = transform(x, [Transformation(angle, 0, 0)], SCALE)[0, 0].double().numpy()
    theirs = ndimage.rotate(x[0, 0].double().numpy(), angle, reshape=False, order=1, mode="grid-constant")
    inside = np.s_[5:-5, 6:-6]
    assert np.abs(ours - theirs)[inside].max() < 2e-3  # coordinates are rounded to 1 / 1024 of a pixel


@pytest.mark.parametrize("step", [(0, 0, 0), (3, 0, 0), (-30, 6, -3), (2, -2, 1)])
def test_the_measure_recovers_the_transformation(uniform, step):
    x = uniform(2, 2, 2, 6, 8, 8)  # clips
    moved = transform(x, [Transformation(*step), Transformation(5, 0, 0)], SCALE)
    expected = max(abs(step[0]), 5 * abs(step[1]), 5 * abs(step[2]))
    assert magnitude(x, moved, SCALE).tolist() == [expected, 5]
    moved[0].flatten()[3] = 1 - moved[0].flatten()[3]
    assert magnitude(x, moved, SCALE).tolist() == [math.inf, 5]


def test_a_flat_image_has_magnitude_zero_under_any_rotation():
    x = torch.zeros(1, 1, 8, 8)
    assert magnitude(x, transform(x, [Transformation(30, 3, 2)], SCALE), SCALE).tolist() == [0]


class Blob(torch.nn.Module):
    """Class 1 if the light of the left half exceeds that of the right half."""

    def forward(self, x):
        half = x.shape[-1] // 2
        left, right = x[..., :half].flatten(1).sum(1), x[..., half:].flatten(1).sum(1)
        return torch.stack([torch.zeros_like(left), left - right], 1)


def one_pixel(row, column, size=11):
    x = torch.zeros(1, 1, size, size)
    x[0, 0, row, column] = 1
    return x


@pytest.mark.parametrize("search", ["grid", "random"])
def test_a_model_of_positions_is_fooled_from_the_known_magnitude_on(attack, batch_of, search):
    batch = batch_of(one_pixel(5, 2), [1])  # at 20 degrees, 2 pixels, most of its light stays in the left half
    options = {"search": search, "queries": 200}
    net = Blob()
    for eps, fooled in ((20, False), (30, True)):
        found = attack("spatial", net, batch, eps, **options)
        assert (int(net(found.x).argmax(1)) == 0) == fooled
        assert magnitude(batch.x, found.x, SCALE).item() <= eps


def test_a_model_that_sees_orientation_is_fooled_by_a_rotation_alone(attack, batch_of):
    class Upright(torch.nn.Module):
        def forward(self, x):
            score = x[:, 0, :, 4].sum(1) - 6.5  # a vertical bar of length 9
            return torch.stack([torch.zeros_like(score), score], 1)

    x = torch.zeros(1, 1, 9, 9)
    x[..., 4] = 1
    batch = batch_of(x, [1])
    assert int(Upright()(attack("spatial", Upright(), batch, 4, shifts=1).x).argmax(1)) == 1
    found = attack("spatial", Upright(), batch, 30, shifts=1)
    assert int(Upright()(found.x).argmax(1)) == 0
    assert found.notes["down"].item() == found.notes["right"].item() == 0
    assert 4 < abs(found.notes["angle"].item()) <= 30


def test_the_order_of_passes_does_not_matter(attack, batch_of, conv_net, uniform):
    net, x = conv_net(), uniform(4, 12, 3, 8, 8)
    batch = batch_of(x, net(x).argmax(1))
    found = [attack("spatial", net, batch, 20, rows=rows, angles=5, shifts=3) for rows in (4, 16)]
    assert torch.equal(found[0].x, found[1].x)
    assert all(torch.equal(found[0].notes[name], found[1].notes[name]) for name in found[0].notes)


def test_another_price_of_shifts_is_another_measure():
    assert rotation_translation(10).name == "rotation-translation"
    assert rotation_translation(1.25).name == "rotation-translation-1.25"
