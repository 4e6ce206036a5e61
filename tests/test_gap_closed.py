"""Gap closed against the paper's tables, and the intervals of a gap against Fieller and simulation."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import t as student

from robharness.statistics import (
    EmptySample,
    Interval,
    ZeroBase,
    gap_closed,
    gap_closed_interval,
    gap_closed_printed,
)

# Table 4: FGSM 8/255, FGSM 16/255, AutoAttack 1/255, AutoAttack 2/255; accuracies, drops, gap closed as printed.
TABLE4_SUPERVISED = ([38.8, 31.8, 24.3, 11.5], [59, 67, 74, 88])
TABLE4_SELF_SUPERVISED = ([26.8, 13.4, 13.7, 4.3], [71, 86, 85, 95])
TABLE4 = {
    "Frequency Prior": ([30.1, 21.3, 17.4, 7.5], [68, 77, 81, 92], [25, 53, 25, 43]),
    "Clustering": ([28.9, 18.7, 18.1, 7.8], [69, 80, 80, 91], [18, 32, 18, 57]),
    "Precision": ([33.6, 24.9, 19.3, 8.7], [64, 73, 79, 90], [58, 68, 57, 72]),
    "Recall": ([31.3, 21.6, 19.1, 8.6], [66, 76, 79, 90], [42, 53, 55, 70]),
}
# The 9 of Table 4's 16 cells that its own rounded drops reproduce.
TABLE4_EXACT = {
    ("Frequency Prior", 0),
    ("Frequency Prior", 3),
    ("Clustering", 1),
    ("Clustering", 3),
    ("Precision", 0),
    ("Precision", 1),
    ("Recall", 0),
    ("Recall", 1),
    ("Recall", 2),
}


@pytest.mark.parametrize(("method", "column"), sorted(product(TABLE4, range(4))))
def test_gap_closed_of_table_4(method: str, column: int) -> None:
    """The printed definition gives the printed figure in exactly the 9 cells known to follow it."""
    drops = (TABLE4[method][1][column], TABLE4_SELF_SUPERVISED[1][column], TABLE4_SUPERVISED[1][column])
    percent = 100 * gap_closed_printed(*(drop / 100 for drop in drops))
    assert (round(percent) == TABLE4[method][2][column]) == ((method, column) in TABLE4_EXACT)


def test_gap_closed_of_unrounded_accuracies() -> None:
    def closed(method: str, column: int) -> float:
        return gap_closed(TABLE4[method][0][column], TABLE4_SELF_SUPERVISED[0][column], TABLE4_SUPERVISED[0][column])

    assert closed("Frequency Prior", 0) == pytest.approx(0.275)
    assert max(closed(*cell) for cell in product(TABLE4, range(4))) == pytest.approx(0.625, abs=1e-9)
    assert gap_closed(0.2, 0.2, 0.5) == 0
    assert gap_closed(0.5, 0.2, 0.5) == 1
    assert gap_closed(0.1, 0.2, 0.4) == pytest.approx(-0.5)


def test_gap_closed_as_printed_rounds_its_drops_first() -> None:
    assert gap_closed_printed(0.704, 0.7449, 0.66) == 0.5  # 70, 74 and 66 %
    with pytest.raises(ZeroBase):
        gap_closed_printed(0.7, 0.704, 0.699)
    with pytest.raises(ZeroBase):
        gap_closed(0.5, 0.4, 0.4)


def test_the_interval_of_a_gap_is_fiellers() -> None:
    """Written out again: the ratios g for which (method - self) - g (supervised - self) is not surely other than 0."""
    method, below, above = [0.3, 0.34, 0.29], [0.2, 0.24], [0.5, 0.47, 0.52, 0.5]
    found = gap_closed_interval(method, below, above, paired=False)
    variances = [np.var(values, ddof=1) / len(values) for values in (method, below, above)]
    closed = gap_closed(np.mean(method), np.mean(below), np.mean(above))
    parts = np.array([variances[0], (1 - closed) ** 2 * variances[1], closed**2 * variances[2]])
    freedom = parts.sum() ** 2 / (parts**2 / [2, 1, 3]).sum()
    for bound in found:
        difference = np.mean(method) - np.mean(below) - bound * (np.mean(above) - np.mean(below))
        deviation = math.sqrt(variances[0] + (1 - bound) ** 2 * variances[1] + bound**2 * variances[2])
        assert abs(difference) / deviation == pytest.approx(student.ppf(0.975, freedom), rel=1e-6)
    assert found.low < closed < found.high


@pytest.mark.parametrize("truth", [(0.45, 0.3, 0.6), (0.005, 0.002, 0.02), (0.01, 0.002, 0.05), (0.9, 0.85, 0.98)])
def test_intervals_of_gaps_over_examples_have_their_coverage(truth: tuple[float, float, float]) -> None:
    """In 95 % of 2,000 at least, to three standard errors, where accuracies are near 0 or 1, too."""
    rng, held = np.random.Generator(np.random.Philox(5)), []
    for _ in range(2000):
        hard = rng.random(500)  # outcomes of one example depend on each other
        samples = [np.where(rng.random(500) < 0.5, hard, rng.random(500)) < p for p in truth]
        interval = gap_closed_interval(*samples, paired=True)
        held.append(interval.low <= gap_closed(*truth) <= interval.high)
    assert np.mean(held) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)
    assert np.mean(held) < 0.965 or min(truth) < 0.3 or max(truth) > 0.9


def test_intervals_of_gaps_over_runs_have_their_coverage() -> None:
    """In 95 % of 2,000, to two points, of five runs each."""
    rng, held = np.random.Generator(np.random.Philox(5)), []
    for _ in range(2000):
        interval = gap_closed_interval(*(rng.normal(p, 0.04, 5) for p in (0.45, 0.3, 0.6)), paired=False)
        held.append(interval.low <= 0.5 <= interval.high)
    assert abs(np.mean(held) - 0.95) < 0.02


def test_a_gap_that_may_be_zero_has_no_interval() -> None:
    assert gap_closed_interval([0.5, 0.4], [0.3, 0.5], [0.5, 0.3], paired=False) == Interval(-math.inf, math.inf)
    assert gap_closed_interval([0, 0, 0], [0, 0, 0], [1, 0, 0], paired=True) == Interval(-math.inf, math.inf)
    with pytest.raises(EmptySample):
        gap_closed_interval([0.5], [0.3], [0.4], paired=False)
    with pytest.raises(EmptySample):
        gap_closed_interval([0, 0], [0, 0], [0.3, 0.4], paired=False)
