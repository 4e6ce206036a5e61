"""Gains against the paper's Table 5, and their intervals against Fieller and simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import t as student

from robharness.statistics import EmptySample, Interval, ZeroBase, gain, gain_interval

TABLE5 = yaml.safe_load((Path(__file__).parent / "paper" / "tables.yaml").read_text())["table5"]
GAINS = {
    (model, column["id"]): (percent, row["acc"][at], TABLE5["rows"][row["base"]]["acc"][at])
    for model, row in TABLE5["rows"].items() if "base" in row
    for at, (column, percent) in enumerate(zip(TABLE5["columns"], row["gain"], strict=True)) if percent is not None
}  # fmt: skip
MISPRINT = ("A-RoCL-static", "pgd_l2_0.25")
"""3.4 is printed where the table's accuracies give 2.0."""
ROUNDED = {
    ("A-ACL-static", "aa_8"), ("A-ACL-static", "aa_16"), ("A-ACL-dynamic", "pgd_linf_8"),
    ("A-ACL-dynamic", "pgd_linf_16"), ("A-ACL-dynamic", "aa_8"), ("A-ACL-dynamic", "aa_16"),
}  # fmt: skip
"""Gains that the table's accuracies, which have one decimal, give only within their rounding."""


def test_table_5_has_24_gains():
    assert len(GAINS) == 24 and {MISPRINT} | ROUNDED < {*GAINS}


@pytest.mark.parametrize("key", sorted(GAINS))
def test_gains_of_table_5(key):
    """The printed gain follows in exactly the 17 cells that are neither misprinted nor rounded."""
    printed, ours, base = GAINS[key]
    found = 100 * gain(ours, base)
    assert (abs(round(found, 1) - printed) < 1e-9) == (key not in {MISPRINT} | ROUNDED)
    low, high = 100 * gain(ours - 0.05, base + 0.05), 100 * gain(ours + 0.05, base - 0.05)
    assert (low - 0.05 <= printed <= high + 0.05) == (key != MISPRINT)


def test_the_medians_and_the_mean_of_table_5():
    """The medians in the caption of the table are over the columns of the dynamic rows; "about 5 %" is the mean of all
    24 gains."""
    for base, printed, median in (("RoCL", 5.5, 5.45), ("ACL", 4.4, 4.35)):
        own = [values[0] for (model, _), values in GAINS.items() if model == f"A-{base}-dynamic"]
        assert np.median(own) == pytest.approx(median) and TABLE5["printed_medians"][base] == printed
    assert np.mean([printed for printed, *_ in GAINS.values()]) == pytest.approx(5.26, abs=0.005)
    assert np.mean([100 * gain(ours, base) for _, ours, base in GAINS.values()]) == pytest.approx(5.22, abs=0.005)


def test_a_gain_is_relative_to_the_base():
    assert gain(0.42, 0.4) == pytest.approx(0.05) and gain(0.2, 0.4) == -0.5 and gain(0.4, 0.4) == 0
    with pytest.raises(ZeroBase):
        gain(0.4, 0.0)


def test_the_interval_of_a_gain_is_fiellers():
    """Written out again: the gains g for which ours - (1 + g) base is not surely other than 0."""
    ours, base = [0.46, 0.44, 0.47], [0.41, 0.43, 0.4, 0.42]
    found = gain_interval(ours, base, paired=False)
    variances = [np.var(values, ddof=1) / len(values) for values in (ours, base)]
    parts = np.array([variances[0], (np.mean(ours) / np.mean(base)) ** 2 * variances[1]])
    freedom = parts.sum() ** 2 / (parts**2 / [2, 3]).sum()
    for bound in found:
        deviation = math.sqrt(variances[0] + (1 + bound) ** 2 * variances[1])
        distance = abs(np.mean(ours) - (1 + bound) * np.mean(base)) / deviation
        assert distance == pytest.approx(student.ppf(0.975, freedom), rel=1e-6)
    assert found.low < gain(np.mean(ours), np.mean(base)) < found.high


@pytest.mark.parametrize("truth", [(0.46, 0.44), (0.13, 0.11), (0.02, 0.01), (0.98, 0.9), (0.5, 0.8)])
def test_intervals_of_gains_over_examples_have_their_coverage(truth):
    """In 95 % of 2,000 at least, to three standard errors, where accuracies are near 0 or 1, too."""
    rng, held = np.random.Generator(np.random.Philox(5)), []
    for _ in range(2000):
        hard = rng.random(500)  # outcomes of one example depend on each other
        samples = [np.where(rng.random(500) < 0.5, hard, rng.random(500)) < p for p in truth]
        interval = gain_interval(*samples, paired=True)
        held.append(interval.low <= gain(*truth) <= interval.high)
    assert np.mean(held) > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)
    assert np.mean(held) < 0.965 or min(truth) < 0.3 or max(truth) > 0.9


@pytest.mark.parametrize("runs", [3, 5])
def test_intervals_of_gains_over_runs_have_their_coverage(runs):
    """In 95 % of 2,000, to two points, where both vary alike, and not much less where one does alone."""
    for deviations, least in (((0.02, 0.02), 0.93), ((0.03, 0.01), 0.92)):
        rng, held = np.random.Generator(np.random.Philox(5)), []
        for _ in range(2000):
            samples = (rng.normal(p, spread, runs) for p, spread in zip((0.46, 0.44), deviations, strict=True))
            interval = gain_interval(*samples, paired=False)
            held.append(interval.low <= gain(0.46, 0.44) <= interval.high)
        assert least < np.mean(held) < 0.975


def test_a_base_that_may_be_zero_has_no_interval():
    nothing = Interval(-math.inf, math.inf)
    assert gain_interval([1, 0, 1, 0], [0, 0, 0, 0], paired=True) == nothing
    assert gain_interval([0.3, 0.4], [0.1, 0.0], paired=False) == nothing
    with pytest.raises(EmptySample):
        gain_interval([0.5], [0.3], paired=False)
    with pytest.raises(EmptySample):
        gain_interval([0.5, 0.5], [0.3, 0.4], paired=False)
