"""Accuracies, drops and worst cases against closed forms, published examples, other implementations and simulation."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial
from statsmodels.stats.proportion import proportion_confint

from robharness.statistics import (
    EmptySample,
    Interval,
    UndefinedNumber,
    UndefinedSlope,
    ZeroBase,
    ZeroClean,
    accuracy,
    accuracy_interval,
    drop_text,
    relative_drop,
    relative_drop_bounds,
    relative_drop_interval,
)

# Table 1: clean, then six attacks; accuracies and drops in percent, as printed.
TABLE1 = {
    "Supervised": ([76.71, 38.20, 22.56, 11.53, 28.22, 0.65, 11.3], [50, 71, 85, 63, 99, 85]),
    "SwAV": ([75.34, 23.35, 11.47, 5.95, 11.73, 0.20, 4.1], [69, 85, 92, 84, 100, 95]),
    "SimCLR": ([68.95, 24.33, 14.43, 8.85, 10.89, 0.24, 5.2], [65, 79, 87, 84, 100, 92]),
}
COVERED = 0.93  # the least coverage that a 95 % interval may have here
SIZES = (20, 200, 5000)
RATES = (0.0, 0.05, 0.5, 1.0)


# ---------------------------------------------------------------------------------------------------------- accuracy


def test_accuracy_is_the_share_of_right_examples() -> None:
    assert accuracy(np.array([True, False, True, True])) == 0.75
    with pytest.raises(EmptySample):
        accuracy(np.array([], dtype=bool))
    with pytest.raises(ValueError, match="bool"):
        accuracy(np.array([0.9, 0.8]))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2535, 0.3682), (15, 148, 0.0598, 0.1644), (0, 20, 0.0, 0.2005), (1, 29, 0.0018, 0.1963)],
)
def test_accuracy_interval_gives_newcombes_examples(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, Table I, method 4."""
    assert accuracy_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 3000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_accuracy_interval_agrees_with_scipy(n: int, data: st.DataObject, level: float) -> None:
    successes = data.draw(st.integers(0, n))
    theirs = binomtest(successes, n).proportion_ci(level, method="wilsoncc")
    ours = accuracy_interval(successes, n, level)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= successes / n <= ours.high
    assert ours.low < ours.high
    assert (ours.low == 0) == (successes == 0)
    assert (ours.high == 1) == (successes == n)


def test_accuracy_interval_rises_with_the_successes() -> None:
    lows, highs = np.array([accuracy_interval(k, 200) for k in range(201)]).T
    assert np.all(np.diff(lows) > 0)
    assert np.all(np.diff(highs) > 0)


@pytest.mark.parametrize("n", SIZES)
def test_accuracy_interval_covers(n: int) -> None:
    """Exactly, by summing the binomial over all outcomes, at the four rates and along the whole range."""
    outcomes = np.arange(n + 1)
    lows, highs = np.array([accuracy_interval(k, n) for k in outcomes]).T
    assert min(_coverage(lows, highs, n, rate) for rate in (*RATES, *np.linspace(0, 1, 101))) >= COVERED


def test_accuracy_interval_is_corrected_because_the_plain_one_does_not_cover() -> None:
    lows, highs = proportion_confint(np.arange(21), 20, method="wilson")
    assert _coverage(lows, highs, 20, 0.05) == pytest.approx(0.924, abs=1e-3)
    lows, highs = np.array([accuracy_interval(k, 20) for k in range(21)]).T
    assert _coverage(lows, highs, 20, 0.05) >= COVERED


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_accuracy_interval_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes among {n}"):
        accuracy_interval(successes, n)


def test_intervals_refuse_impossible_levels_and_empty_samples() -> None:
    with pytest.raises(EmptySample):
        accuracy_interval(0, 0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            accuracy_interval(1, 2, level)


def _coverage(lows: np.ndarray, highs: np.ndarray, n: int, rate: float) -> float:
    covered = (lows <= rate) & (rate <= highs)
    return float(binom.pmf(np.arange(n + 1), n, rate) @ covered)


# -------------------------------------------------------------------------------------------------------------- drop


@pytest.mark.parametrize("model", TABLE1)
def test_drops_of_table_1(model: str) -> None:
    (clean, *attacked), printed = TABLE1[model]
    assert [drop_text(relative_drop(clean / 100, a / 100)) for a in attacked] == [f"{drop}%" for drop in printed]


def test_relative_drop_is_negative_for_an_accuracy_gain_and_undefined_at_accuracy_0() -> None:
    assert relative_drop(0.5, 0.6) == pytest.approx(-0.2)
    with pytest.raises(ZeroClean):
        relative_drop(0.0, 0.0)


def test_drop_text_rounds_exact_halves_up() -> None:
    """Every drop between two counts out of 200, against exact fractions."""
    for clean, attacked in product(range(1, 201), range(201)):
        exact = 100 * Fraction(clean - attacked, clean)
        assert drop_text(relative_drop(clean / 200, attacked / 200)) == f"{math.floor(exact + Fraction(1, 2))}%"


@pytest.mark.parametrize(
    ("drop", "text"), [(0.502, "50%"), (0.285, "29%"), (0.845, "85%"), (1.0, "100%"), (-0.03, "-3%"), (-0.004, "0%")]
)
def test_drop_text(drop: float, text: str) -> None:
    assert drop_text(drop) == text


@pytest.mark.parametrize(
    ("kept", "lost", "gained", "low", "high"),
    [
        (59, 16, 6, 0.7475, 1.0058),  # Cavo et al. 2012
        (0, 1, 0, 0.0, 17.3081),
        (9, 7, 0, 0.3330, 0.9625),
        (9, 0, 8, 1.0926, 3.2321),
    ],
)
def test_drop_bounds_give_published_ratios(kept: int, lost: int, gained: int, low: float, high: float) -> None:
    """Ratios printed by the R package contingencytables, Bonett-Price with continuity correction."""
    drop_low, drop_high = relative_drop_bounds(kept, lost, gained)
    assert (1 - drop_high, 1 - drop_low) == pytest.approx((low, high), abs=5e-5)


def test_plain_bonett_price_of_these_tests_gives_the_published_ratio() -> None:
    """`_plain_bounds` below is the right opponent: the example of statpsych's ci.ratio.prop.ps."""
    low, high = _plain_bounds(6, 4, 26)
    assert (1 - high, 1 - low) == pytest.approx((1.766544, 5.796628), abs=1e-6)


def test_drop_interval_counts_its_examples_in_pairs() -> None:
    clean = np.repeat([True, True, False, False], [59, 16, 6, 80])
    attacked = np.repeat([True, False, True, False], [59, 16, 6, 80])
    low, high = relative_drop_bounds(59, 16, 6)
    assert relative_drop_interval(clean, attacked) == Interval(float(low), float(high))
    narrow = relative_drop_interval(clean, attacked, level=0.5)
    assert low < narrow.low < 16 / 75 - 6 / 75 < narrow.high < high


def test_drop_interval_where_all_none_or_one_are_fooled() -> None:
    right = np.ones(20, dtype=bool)
    all_fooled, none_fooled = relative_drop_interval(right, ~right), relative_drop_interval(right, right)
    assert all_fooled.high == 1
    assert 0.7 < all_fooled.low < 0.9  # 0 of 20 kept: an accuracy of up to 0.2005 by itself
    assert none_fooled.low < 0 < none_fooled.high < 0.2
    one = relative_drop_interval(right[:1], ~right[:1])
    assert one.high == 1
    assert -math.inf < one.low < -1
    with pytest.raises(ZeroClean):
        relative_drop_interval(~right, right)
    with pytest.raises(EmptySample):
        relative_drop_interval(right[:0], right[:0])
    with pytest.raises(ValueError, match="one shape"):
        relative_drop_interval(right, right[:1])


counts = st.integers(0, 5000)


@given(counts, counts, counts, st.sampled_from([0.5, 0.95, 0.999]))
def test_drop_bounds_contain_the_drop(kept: int, lost: int, gained: int, level: float) -> None:
    lost += kept + lost == 0
    low, high = relative_drop_bounds(kept, lost, gained, level)
    assert low <= relative_drop(kept + lost, kept + gained) <= high <= 1
    assert low < high


@given(counts, counts, counts, st.sampled_from([0.5, 0.95, 0.999]))
def test_high_end_of_a_drop_falls_with_what_is_kept(kept: int, lost: int, gained: int, level: float) -> None:
    """The low end need not: fewer discordant pairs also narrow the interval (0 of 1 kept against 1 of 1)."""
    _, highs = relative_drop_bounds([kept, kept + 1], [lost + 1, lost], gained, level)
    assert highs[1] < highs[0]


PAIRED = list(product((0.6, 0.9, 1.0), RATES, (0.0, 0.05)))


@pytest.mark.parametrize("n", SIZES)
def test_drop_bounds_cover(n: int) -> None:
    coverages = {case: _paired_coverage(relative_drop_bounds, n, *case) for case in PAIRED}
    assert min(coverages.values()) >= COVERED, coverages


def test_drop_bounds_are_corrected_because_the_plain_ones_do_not_cover() -> None:
    assert _paired_coverage(_plain_bounds, 20, 0.9, 0.0, 0.05) == pytest.approx(0.905, abs=1e-3)
    assert _paired_coverage(relative_drop_bounds, 20, 0.9, 0.0, 0.05) >= COVERED
    assert _paired_coverage(_plain_bounds, 20, 1.0, 0.05, 0.0) < COVERED
    assert _paired_coverage(_plain_bounds, 5000, 0.6, 0.5, 0.05) == pytest.approx(0.95, abs=0.01)


def _paired_coverage(bounds, n: int, clean: float, survival: float, flips: float) -> float:
    """Coverage given a clean example right; exact up to 20 examples, else of 20,000 draws.

    clean: accuracy; survival: share of the right examples that stay right; flips: share of the wrong that turn right.
    """
    cells = np.array([clean * survival, clean * (1 - survival), (1 - clean) * flips])
    cells = np.append(cells, 1 - cells.sum())
    if n <= 20:
        tables = np.array([t for t in product(range(n + 1), repeat=3) if sum(t) <= n])
        weights = multinomial.pmf(np.column_stack([tables, n - tables.sum(axis=1)]), n, cells)
    else:
        tables = np.random.Generator(np.random.Philox(0)).multinomial(n, cells, 20_000)[:, :3]
        weights = np.ones(len(tables))
    possible = tables[:, 0] + tables[:, 1] > 0
    kept, lost, gained = tables[possible].T
    low, high = bounds(kept, lost, gained)
    truth = 1 - (cells[0] + cells[2]) / clean
    covered = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    return float(np.average(covered, weights=weights[possible]))


def _plain_bounds(kept, lost, gained):
    """Bonett-Price 2006 as published: `relative_drop_bounds` without its correction."""
    n, clean, attacked = kept + lost + gained, kept + lost, kept + gained
    a = np.sqrt((lost + gained + 2) / ((clean + 1) * (attacked + 1)))
    b, c = (np.sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (clean, attacked))
    z = 1.959963984540054 * a / (b + c)
    ends = []
    for x in (clean, attacked):
        centre, reach = 2 * x + z**2, z * np.sqrt(z**2 + 4 * x * (1 - x / n))
        ends.append(((centre - reach) / (2 * (n + z**2)), (centre + reach) / (2 * (n + z**2))))
    return 1 - ends[1][1] / ends[0][0], 1 - ends[1][0] / ends[0][1]


def test_undefined_numbers_can_be_caught_together() -> None:
    for error in (EmptySample, ZeroClean, UndefinedSlope, ZeroBase):
        assert issubclass(error, UndefinedNumber)
