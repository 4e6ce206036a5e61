"""Accuracy per class: intervals that hold for the lowest accuracy of all classes, and for all classes together."""

import numpy as np
import pytest
from scipy import stats

from robharness import statistics

ROUNDS = 400
ENOUGH = 0.95 - 3 * np.sqrt(0.95 * 0.05 / ROUNDS)
"""A share of rounds below which a coverage of 95 % has a probability of 1 in 1,000."""


def simulate(accuracies, n, seed=0):
    """Return the shares of rounds whose intervals hold for the lowest accuracy, and for all classes."""
    rng, of_worst, of_all = np.random.default_rng(seed), 0, 0
    accuracies, n = np.broadcast_arrays(np.asarray(accuracies, float), n)
    every = np.arange(len(n))
    for _ in range(ROUNDS):
        found = statistics.class_intervals(rng.binomial(n, accuracies), n, every)
        of_worst += found.worst.low <= accuracies.min() <= found.worst.high
        of_all += bool(((found.low <= accuracies) & (accuracies <= found.high)).all())
    return of_worst / ROUNDS, of_all / ROUNDS


@pytest.mark.parametrize("n", [1, 5, 50])
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("accuracy", [0, 0.02, 0.5, 0.9, 0.9995, 1])
def test_coverage_of_equal_classes(classes, n, accuracy):
    """The hardest case for the high end: any class may seem the worst."""
    of_worst, of_all = simulate(np.full(classes, accuracy), n)
    assert min(of_worst, of_all) >= ENOUGH


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("n", [5, 50])
def test_coverage_of_unequal_classes(classes, n):
    for accuracies in (np.linspace(0.3, 0.99, classes), [0.4] + [0.95] * (classes - 1), [0.9] + [1.0] * (classes - 1)):
        of_worst, of_all = simulate(accuracies, n)
        assert min(of_worst, of_all) >= ENOUGH


def test_coverage_of_classes_with_unequal_numbers_of_examples():
    n = np.resize([3, 10, 40, 200], 60)
    for accuracies in (np.full(60, 0.8), np.where(n == 3, 0.5, 0.9), np.where(n == 200, 0.5, 0.9)):
        of_worst, of_all = simulate(accuracies, n)
        assert min(of_worst, of_all) >= ENOUGH


def test_intervals_are_those_of_clopper_and_pearson_at_levels_for_all_classes():
    right, n = np.array([3, 40, 7, 3]), np.array([10, 50, 10, 12])
    found = statistics.class_intervals(right, n, np.array([1, 3]))
    lows = stats.beta.ppf(0.025, right, n - right + 1)
    highs = stats.beta.ppf(0.975 ** (1 / 4), right + 1, n - right)
    assert found.worst == pytest.approx((lows.min(), highs.min()))
    tail = (1 - 0.95 ** (1 / 4)) / 2
    assert found.low.tolist() == pytest.approx(stats.beta.ppf(tail, right, n - right + 1)[[1, 3]].tolist())
    assert found.high.tolist() == pytest.approx(stats.beta.ppf(1 - tail, right + 1, n - right)[[1, 3]].tolist())


def test_one_class_has_the_usual_interval():
    found = statistics.class_intervals(np.array([8]), np.array([10]), np.array([0]))
    expected = stats.binomtest(8, 10).proportion_ci(method="exact")
    assert found.worst == pytest.approx((expected.low, expected.high))
    assert (found.low[0], found.high[0]) == pytest.approx((expected.low, expected.high))
    with pytest.raises(statistics.EmptySample):
        statistics.class_intervals(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
