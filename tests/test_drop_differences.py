"""The interval for the difference of two models' relative drops on the same examples: coverage, symmetry, limits."""

from itertools import product

import numpy as np
import pytest

from robharness.statistics import EmptySample, ZeroClean, drop_difference_interval

COVERED = 0.93


def outcomes(rng, n, clean, survival, dependence):
    """Outcomes of two models, (clean, attacked) of (n,) bool each.

    clean: their accuracies. survival: shares of the right examples that stay right; 5 % of the wrong ones turn right.
    dependence: how much the models have the same right examples: "none", "same", or "opposite".
    """

    def uniform():
        first = rng.random(n)
        return first, {"none": rng.random(n), "same": first, "opposite": 1 - first}[dependence]

    right = tuple(u < rate for u, rate in zip(uniform(), clean, strict=True))
    kept = tuple(np.where(c, u < s, u < 0.05) for c, u, s in zip(right, uniform(), survival, strict=True))
    return right, kept


def truth(clean, survival):
    drops = [1 - (c * s + (1 - c) * 0.05) / c for c, s in zip(clean, survival, strict=True)]
    return drops[0] - drops[1]


@pytest.mark.parametrize(("n", "draws"), [(20, 800), (200, 500), (5000, 300)])
def test_the_interval_covers(n, draws):
    """Over models that lose nothing, half, or nearly all, and that are right on the same examples or on others."""
    rng = np.random.default_rng(1)
    coverages = {}
    for clean, survival, dependence in product(
        [(0.9, 0.9), (0.9, 0.6)], [(0.0, 0.05), (0.05, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)],
        ["none", "same", "opposite"] if n == 20 else ["none", "same"],
    ):  # fmt: skip
        expected, hits = truth(clean, survival), 0
        for _ in range(draws):
            low, high = drop_difference_interval(*outcomes(rng, n, clean, survival, dependence))
            hits += low - 1e-12 <= expected <= high + 1e-12
        coverages[clean, survival, dependence] = hits / draws
    margin = 2.5 * np.sqrt(COVERED * (1 - COVERED) / draws)  # of the simulation itself
    assert min(coverages.values()) >= COVERED - margin, coverages
    assert np.mean(list(coverages.values())) >= 0.95


def test_the_interval_has_a_width_where_a_bootstrap_has_none():
    """Both models lose everything: every resample has the same drops, and another 20 examples may differ."""
    right = np.ones(20, bool)
    low, high = drop_difference_interval((right, right), (~right, ~right))
    assert low < -0.05 and high > 0.05 and low == pytest.approx(-high)


def test_many_examples_give_the_interval_of_the_delta_method():
    (clean, other_clean), (left, other_left) = outcomes(
        np.random.default_rng(2), 50_000, (0.8, 0.7), (0.5, 0.3), "none"
    )
    ratios = left.mean() / clean.mean(), other_left.mean() / other_clean.mean()
    influence = (left - ratios[0] * clean) / clean.mean() - (other_left - ratios[1] * other_clean) / other_clean.mean()
    reach = 1.959964 * influence.std() / np.sqrt(50_000)
    low, high = drop_difference_interval((clean, other_clean), (left, other_left))
    difference = ratios[1] - ratios[0]
    assert (low, high) == pytest.approx((difference - reach, difference + reach), abs=0.02 * reach)


def test_equal_failures_make_the_interval_narrower():
    rng = np.random.default_rng(3)
    widths = {}
    for dependence in ("same", "none", "opposite"):
        clean, left = outcomes(rng, 2000, (0.9, 0.9), (0.5, 0.45), dependence)
        low, high = drop_difference_interval(clean, left)
        widths[dependence] = high - low
    assert widths["same"] < 0.6 * widths["none"] < 0.6 * widths["opposite"]


def test_the_models_can_be_swapped_and_the_level_changed():
    (a, b), (left_a, left_b) = outcomes(np.random.default_rng(4), 100, (0.9, 0.7), (0.5, 0.2), "none")
    low, high = drop_difference_interval((a, b), (left_a, left_b))
    assert drop_difference_interval((b, a), (left_b, left_a)) == pytest.approx((-high, -low))
    wider = drop_difference_interval((a, b), (left_a, left_b), level=0.999)
    assert wider.low < low and wider.high > high


def test_undefined_differences_are_refused():
    right, none = np.ones(5, bool), np.zeros(0, bool)
    with pytest.raises(ZeroClean):
        drop_difference_interval((right, ~right), (right, right))
    with pytest.raises(EmptySample):
        drop_difference_interval((none, none), (none, none))
    with pytest.raises(ValueError, match="one shape"):
        drop_difference_interval((right, right), (right, right[:3]))
