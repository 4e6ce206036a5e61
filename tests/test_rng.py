"""Draws belong to an address, not to a batch."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from robharness.errors import ContractViolation
from robharness.evaluation.rng import ExampleRNG, NoDraws, global_draws, global_seed

IDS = [f"id-{i}" for i in range(50)]


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_an_examples_draws_do_not_depend_on_its_neighbours(draw):
    whole = getattr(ExampleRNG(0, "a", IDS), draw)("start", (3, 4))
    some = getattr(ExampleRNG(0, "a", IDS[30:10:-3]), draw)("start", (3, 4))
    selected = getattr(ExampleRNG(0, "a", IDS).select(torch.arange(30, 10, -3)), draw)("start", (3, 4))
    assert torch.equal(some, whole[torch.arange(30, 10, -3)])
    assert torch.equal(selected, some)
    assert len({row.tobytes() for row in whole.numpy()}) == len(IDS)


def test_every_part_of_the_address_counts():
    first = ExampleRNG(0, "a", ["x"]).uniform("start", (8,))
    others = [
        ExampleRNG(1, "a", ["x"]).uniform("start", (8,)),
        ExampleRNG(0, "b", ["x"]).uniform("start", (8,)),
        ExampleRNG(0, "a", ["y"]).uniform("start", (8,)),
        ExampleRNG(0, "a", ["x"]).uniform("start/1", (8,)),
    ]
    assert all(not torch.equal(first, other) for other in others)
    assert torch.equal(first, ExampleRNG(0, "a", ["x"]).uniform("start", (8,)))


def test_the_numbers_are_pinned():
    """A change of these numbers changes every published result that drew them."""
    rng = ExampleRNG(0, '["attacks/pgd", {}]', ["imagenet_00_243"])
    assert rng.integer("start/0", 0) == 2798613784
    pinned = [0.2930942177772522, 0.8415113687515259, 0.8407670855522156]
    assert rng.uniform("start/0", (3,)).numpy()[0].tolist() == pinned


def test_draws_have_their_distributions():
    rng = ExampleRNG(3, "distribution", IDS)
    uniform, normal = rng.uniform("u", (400,)).flatten().numpy(), rng.normal("n", (400,)).flatten().numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.001
    assert stats.kstest(normal, "norm").pvalue > 0.001
    corners = np.array([rng.integer("k", row, bits=3) for row in range(len(IDS))])
    assert set(corners) <= set(range(8))


def test_frames_share_draws_that_are_not_per_frame():
    rng = ExampleRNG(0, "a", ["x", "y"])
    frames = rng.of_frames([[0, 4, 9], [4, 5, 6]], fresh=("grain",))
    shared, fresh = frames.normal("wind", (5,)), frames.normal("grain", (5,))
    assert torch.equal(shared, rng.normal("wind", (5,)).repeat_interleave(3, 0))
    assert len({row.tobytes() for row in fresh.numpy()}) == 6
    others = ExampleRNG(0, "a", ["y", "x"]).of_frames(torch.tensor([[9, 4], [9, 4]]), fresh=("grain",))
    assert torch.equal(others.select([3, 2]).normal("grain", (5,)), fresh[1:3])
    assert torch.equal(others.select([1]).normal("grain", (5,)), fresh[3:4])
    assert [frames.integer("grain", row) for row in (1, 3)] != [rng.integer("grain", row) for row in (0, 1)]


def test_a_perturbation_without_randomness_cannot_draw():
    with pytest.raises(ContractViolation, match="it draws 'start'"):
        NoDraws(0, "a", IDS).select(torch.tensor([1])).normal("start", (2,))


def test_global_generators_are_seeded_and_restored():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    drawn = []
    for _ in range(2):
        with global_seed(7):
            drawn.append((random.random(), np.random.random_sample(), float(torch.empty(1).uniform_())))
    assert drawn[0] == drawn[1]
    with global_seed(8):
        assert random.random() != drawn[0][0]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("random", random.random),
        ("numpy.random", np.random.random_sample),
        ("numpy.random", np.random.standard_normal),
        ("torch", lambda: torch.empty(1).uniform_()),
    ],
)
def test_draws_from_global_generators_are_detected(name, draw):
    with global_draws() as drawn:
        draw()
    assert drawn == [name]
    with global_draws() as drawn:
        ExampleRNG(0, "a", IDS).uniform("start", (2,))
    assert drawn == []
