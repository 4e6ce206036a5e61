"""Calibration: closed forms, a plain second implementation, a calibrated model, and the numbers of a report."""

import math

import numpy as np
import pytest
from scipy import stats

from plain_calibration import plain_ece
from robharness import statistics

RNG = np.random.default_rng(0)


def test_a_closed_form():
    """Ten at 0.9 of which five are right, ten at 0.3 of which five are right: |0.9 - 0.5| / 2 + |0.3 - 0.5| / 2."""
    confidence = np.repeat(np.float32([0.9, 0.3]), 10)
    correct = np.tile(np.repeat([True, False], 5), 2)
    binned = statistics.reliability(confidence, correct)
    assert statistics.expected_calibration_error(binned) == pytest.approx(0.3, abs=1e-7)
    assert binned.n[4] == binned.n[13] == 10 and binned.n.sum() == 20
    assert binned.right.sum() == 10
    assert binned.confidence_when_wrong.sum() == pytest.approx(5 * 0.9 + 5 * 0.3, abs=1e-6)


def test_the_definition_written_out():
    for n in (1, 7, 400):
        confidence, correct = RNG.random(n).astype(np.float32), RNG.random(n) < 0.6
        found = statistics.expected_calibration_error(statistics.reliability(confidence, correct))
        assert found == pytest.approx(plain_ece(confidence, correct), abs=1e-12)


def test_ends_of_bins_belong_to_the_bin_below_and_zero_to_the_first():
    ends = np.arange(16) / 15
    binned = statistics.reliability(ends, np.ones(16, bool))
    assert binned.n.tolist() == [2] + 14 * [1]


@pytest.mark.parametrize("strange", [math.nan, -0.1, 1.1, math.inf, -math.inf])
def test_values_that_are_no_confidences_are_left_out(strange):
    binned = statistics.reliability(np.float32([0.5, strange, 0.7]), np.array([True, False, True]))
    assert binned.n.sum() == binned.right.sum() == 2
    assert binned.confidence.sum() == pytest.approx(1.2, abs=1e-6) and binned.confidence_when_wrong.sum() == 0
    with pytest.raises(statistics.EmptySample):
        statistics.expected_calibration_error(statistics.reliability(np.float32([strange]), np.array([True])))


@pytest.mark.parametrize("n", [300, 3000, 30_000])
def test_a_calibrated_model_has_the_error_that_chance_gives(n):
    """Its ECE is the mean distance of binomial shares from their probability, sqrt(2 p (1 - p) / (pi n)) per bin."""
    found = []
    for _ in range(200):
        confidence = RNG.uniform(0.5, 1, n)
        correct = RNG.random(n) < confidence
        found.append(statistics.expected_calibration_error(statistics.reliability(confidence, correct)))
    edges = np.clip(np.arange(16) / 15, 0.5, 1)
    widths, middle = np.diff(edges) / 0.5, (edges[1:] + edges[:-1]) / 2
    variances = middle * (1 - middle)
    expected = np.sqrt(2 * widths * variances / (np.pi * n)).sum()
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


# --- exact intervals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [0.4, 0.025, 2.5e-5, 1e-8])
@pytest.mark.parametrize("n", [1, 2, 20, 300, 50_000, 10**6])
def test_exact_ends_are_those_of_scipy(tail, n):
    successes = np.unique([0, 1, 2, n // 3, n // 2, n - 2, n - 1, n])
    successes = successes[(successes >= 0) & (successes <= n)]
    found = statistics.exact_lower(successes, np.full(len(successes), n), np.full(len(successes), tail))
    expected = [stats.beta.ppf(tail, k, n - k + 1) if k else 0 for k in successes.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-8)
