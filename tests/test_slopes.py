"""Slopes and corruption errors against the paper's tables, least squares, plain loops and simulation."""

import math
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from robharness import statistics
from robharness.statistics import (
    EmptySample,
    Interval,
    UndefinedSlope,
    ZeroClean,
    accuracy,
    check_outcomes,
    corruption_errors,
    paired,
    relative_corruption_errors,
    relative_drop,
    relative_drops,
    resampled_accuracies,
    slope,
    slope_interval,
    slope_interval_over_corruptions,
    slopes_without_each,
)
from robharness.suite.baselines import ALEXNET

# Table 6: clean, then 15 corruptions at severity 1; accuracies in percent.
TABLE6_ROWS = yaml.safe_load((Path(__file__).parent / "paper/tables.yaml").read_text())["table6"]["rows"]
TABLE6 = {model: [row["acc"][column] for row in TABLE6_ROWS.values()]
          for column, model in enumerate(("Supervised", "SimCLR", "SwAV"))}  # fmt: skip


class SlopeIntervals(NamedTuple):
    examples: Interval
    corruptions: Interval | None


def slope_intervals(
    clean,
    corrupted,
    reference_clean,
    reference_corrupted,
    *,
    resamples=2000,
    seed=0,
    level=0.95,
    block_values=paired.BLOCK_VALUES,
):
    """The intervals of a slope over examples and over corruptions, from outcomes as a report has them.

    clean, reference_clean: (n,) bool.
    corrupted, reference_corrupted: (corruptions, n) bool.
    """
    for outcomes, dimensions in ((clean, 1), (reference_clean, 1), (corrupted, 2), (reference_corrupted, 2)):
        check_outcomes(outcomes, dimensions=dimensions)
    model, reference = np.vstack([clean, corrupted]), np.vstack([reference_clean, reference_corrupted])
    both = resampled_accuracies(
        np.vstack([reference, model]), resamples=resamples, seed=seed, block_values=block_values
    )
    base, own = (relative_drops(rows.mean(axis=1)) for rows in (reference, model))
    return SlopeIntervals(
        slope_interval(both[:, : len(reference)], both[:, len(reference) :], level),
        slope_interval_over_corruptions(base, own, resamples=resamples, seed=seed, level=level),
    )


# ------------------------------------------------------------------------------------------------------------- slope


def _table6_drops(model: str) -> list[float]:
    clean, *corrupted = TABLE6[model]
    return [relative_drop(clean, a) for a in corrupted]


def _table6_outcomes(model: str) -> tuple[np.ndarray, np.ndarray]:
    """1,000 examples with exactly Table 6's accuracies."""
    right = np.arange(1000) < 10 * np.array(TABLE6[model])[:, None] - 0.5
    return right[0], right[1:]


@pytest.mark.parametrize(("model", "expected"), [("SimCLR", 1.333), ("SwAV", 1.126)])
def test_slopes_of_table_6(model: str, expected: float) -> None:
    assert slope(_table6_drops("Supervised"), _table6_drops(model)) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("group", "simclr", "swav"),
    [("Noise", 1.23, 1.25), ("Digital", 1.17, 0.89), ("Blur", 1.46, 1.11), ("Weather", 1.36, 1.14)],
)
def test_slopes_of_the_groups_of_table_6(group: str, simclr: float, swav: float) -> None:
    """The supervised model's are steeper than SwAV's under digital corruptions alone."""
    rows = [number for number, row in enumerate(list(TABLE6_ROWS.values())[1:]) if row["group"] == group]
    base, *others = (np.array(_table6_drops(model))[rows] for model in ("Supervised", "SimCLR", "SwAV"))
    assert [slope(base, own) for own in others] == pytest.approx([simclr, swav], abs=0.005)


@pytest.mark.parametrize(("model", "expected"), [("SimCLR", 1.344), ("SwAV", 1.053)])
def test_slopes_of_table_6_without_impulse_noise(model: str, expected: float) -> None:
    """SwAV's slope above 1 owes more to this corruption than to any other."""
    base, own = _table6_drops("Supervised"), _table6_drops(model)
    without = dict(zip(list(TABLE6_ROWS)[1:], slopes_without_each(base, own), strict=True))
    assert without["Impulse"] == pytest.approx(expected, abs=5e-4)
    plain = {name: slope(np.delete(base, row), np.delete(own, row)) for row, name in enumerate(without)}
    assert without == pytest.approx(plain, abs=1e-12)
    if model == "SwAV":
        assert min(without.values()) == without["Impulse"]


def test_a_corruption_is_left_out_and_drawn_with_all_its_severities() -> None:
    """Two severities of the same drops say no more of other corruptions than one does."""
    base, own = np.array([0.1, 0.3, 0.4, 0.2]), np.array([0.2, 0.3, 0.6, 0.1])
    twice, which = np.repeat(base, 2), np.repeat(range(4), 2)
    assert slopes_without_each(twice, np.repeat(own, 2), which) == pytest.approx(slopes_without_each(base, own))
    apart = [slope_interval_over_corruptions(*drops, corruption)
             for *drops, corruption in ((base, own, None), (twice, np.repeat(own, 2), which))]  # fmt: skip
    assert apart[0] == pytest.approx(apart[1])
    naive = slope_interval_over_corruptions(twice, np.repeat(own, 2))
    assert naive.high - naive.low < 0.8 * (apart[0].high - apart[0].low)


def test_a_slope_needs_a_corruption_that_affects_the_reference() -> None:
    assert np.isnan(slopes_without_each([0.2, 0.0], [0.1, 0.1])[0])
    with pytest.raises(UndefinedSlope):
        slopes_without_each([0.0, 0.0], [0.1, 0.1])


drops = st.floats(-1, 1).map(lambda drop: round(drop, 3))


@given(st.lists(st.tuples(drops, drops), min_size=1, max_size=15).filter(lambda pairs: any(x for x, _ in pairs)))
def test_slope_is_what_least_squares_finds(pairs: list[tuple[float, float]]) -> None:
    reference, model = np.array(pairs).T
    (expected,), *_ = np.linalg.lstsq(reference[:, None], model)
    assert slope(reference, model) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("reference", "model"),
    [([], []), ([0.1], [0.1, 0.2]), ([0.0, 0.0], [0.1, 0.2]), ([0.1, math.nan], [0.1, 0.2]), ([0.1], [math.inf])],
)
def test_slope_refuses_drops_without_a_line(reference: list[float], model: list[float]) -> None:
    with pytest.raises(UndefinedSlope):
        slope(reference, model)


@pytest.mark.parametrize(("model", "low", "high"), [("SimCLR", 1.22, 1.45), ("SwAV", 0.98, 1.25)])
def test_slope_intervals_over_the_corruptions_of_table_6(model: str, low: float, high: float) -> None:
    """Against another bootstrap of Table 6, made with other random numbers."""
    over = slope_intervals(*_table6_outcomes(model), *_table6_outcomes("Supervised"), resamples=4000).corruptions
    assert over == pytest.approx((low, high), abs=0.015)


def test_slope_intervals_are_those_of_a_plain_loop() -> None:
    """Blocks of every size give the intervals of one resample at a time, drawn by indexing."""
    n, corruptions, resamples, seed, level = 300, 4, 60, 7, 0.9
    outcomes = _outcomes(n, corruptions, seed=1)
    clean, corrupted, reference_clean, reference_corrupted = outcomes
    rng = np.random.Generator(np.random.Philox(seed))

    def drops_of(clean: np.ndarray, corrupted: np.ndarray) -> list[float]:
        return [relative_drop(accuracy(clean), accuracy(row)) for row in corrupted]

    over_examples = []
    for _ in range(resamples):
        i = rng.integers(0, n, n)
        reference = drops_of(reference_clean[i], reference_corrupted[:, i])
        over_examples.append(slope(reference, drops_of(clean[i], corrupted[:, i])))
    over_corruptions, rng = [], np.random.Generator(np.random.Philox(seed))
    for _ in range(resamples):
        c = rng.integers(0, corruptions, corruptions)
        reference = drops_of(reference_clean, reference_corrupted[c])
        over_corruptions.append(slope(reference, drops_of(clean, corrupted[c])))
    expected = [np.quantile(s, [0.05, 0.95]) for s in (over_examples, over_corruptions)]

    for block in (1, 7 * n, paired.BLOCK_VALUES):
        ours = slope_intervals(*outcomes, resamples=resamples, seed=seed, level=level, block_values=block)
        assert ours.examples == pytest.approx(expected[0], abs=1e-12)
        assert ours.corruptions == pytest.approx(expected[1], abs=1e-12)


def test_slope_intervals_depend_on_the_seed_alone() -> None:
    outcomes = _outcomes(200, 3, seed=2)
    first = slope_intervals(*outcomes, resamples=50)
    np.random.random()  # the global state must not matter
    assert slope_intervals(*outcomes, resamples=50, seed=0) == first
    assert slope_intervals(*outcomes, resamples=50, seed=1) != first


def test_slope_interval_of_a_model_with_itself_is_one() -> None:
    """One resample serves both models: nothing is left to vary."""
    clean, corrupted, *_ = _outcomes(200, 3, seed=3)
    intervals = slope_intervals(clean, corrupted, clean, corrupted, resamples=50)
    assert intervals.examples == pytest.approx((1, 1), abs=1e-12)
    assert intervals.corruptions == pytest.approx((1, 1), abs=1e-12)


def test_slope_interval_over_examples_covers_from_1000_examples_on() -> None:
    covered = []
    for seed in range(200):
        low, high = slope_intervals(*_outcomes(statistics.MIN_SLOPE_EXAMPLES, 5, seed), resamples=300).examples
        covered.append(low <= 1.25 <= high)
    assert np.mean(covered) >= 0.91  # 95 % but for the noise of 200 draws (1.5 points) and 300 resamples


def test_slopes_from_few_examples_are_pulled_towards_zero() -> None:
    """Why MIN_SLOPE_EXAMPLES: at drops of 2 to 10 % a tenth of it loses 6.5 % of the slope, all of it 1.4 %."""

    def mean_slope(n: int) -> float:
        tables = [_outcomes(n, 5, seed, strongest=0.1) for seed in range(500)]
        return float(np.mean([slope(1 - R.sum(1) / r.sum(), 1 - M.sum(1) / m.sum()) for m, M, r, R in tables]))

    assert mean_slope(statistics.MIN_SLOPE_EXAMPLES // 10) < 1.25 * 0.95
    assert mean_slope(statistics.MIN_SLOPE_EXAMPLES) == pytest.approx(1.25, rel=0.02)


def test_slope_interval_over_fewer_than_three_corruptions_is_none() -> None:
    clean, corrupted, *reference = _outcomes(200, 3, seed=4)
    assert slope_intervals(clean, corrupted, *reference, resamples=20).corruptions is not None
    two = slope_intervals(clean, corrupted[:2], reference[0], reference[1][:2], resamples=20)
    assert two.corruptions is None
    assert two.examples.low < two.examples.high


def test_slope_interval_drops_resamples_without_a_slope() -> None:
    """One clean example right of 20: 0.95**20 = 36 % of the resamples miss it; of 2 such, in two models, 59 %."""
    first, second = np.arange(20) == 0, np.arange(20) == 1
    nothing = np.zeros((1, 20), dtype=bool)
    assert slope_intervals(first, nothing, first, nothing).examples == (1, 1)
    assert slope_intervals(first, nothing, second, nothing).examples == (-math.inf, math.inf)


def test_slope_intervals_refuse_a_sample_without_a_slope() -> None:
    right = np.ones(30, dtype=bool)
    with pytest.raises(ZeroClean):
        slope_intervals(~right, ~right[None], right, ~right[None])
    with pytest.raises(ZeroClean):
        slope_intervals(right, ~right[None], ~right, ~right[None])
    with pytest.raises(UndefinedSlope):
        slope_intervals(right, ~right[None], right, right[None])
    with pytest.raises(EmptySample):
        slope_intervals(right, np.empty((0, 30), dtype=bool), right, np.empty((0, 30), dtype=bool))


def test_slope_intervals_stay_small_at_50000_examples() -> None:
    outcomes = _outcomes(50_000, 3, seed=5)
    tracemalloc.start()
    interval = slope_intervals(*outcomes, resamples=200).examples
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # the draws alone would take 80 MB, their counts as much again
    assert 0 < interval.high - interval.low < 0.05


def _outcomes(n: int, corruptions: int, seed: int, strongest: float = 0.5) -> tuple[np.ndarray, ...]:
    """Clean and corrupted outcomes of a model and a reference whose true slope is 1.25."""
    rng = np.random.Generator(np.random.Philox(seed))
    ability, nudge = rng.random(n), rng.normal(0, 0.1, n)
    reference_clean, clean = ability < 0.75, ability + nudge < 0.7
    fooled = strongest * np.linspace(0.2, 1, corruptions)[:, None]
    reference_corrupted = reference_clean & (rng.random((corruptions, n)) > fooled)
    corrupted = clean & (rng.random((corruptions, n)) > 1.25 * fooled)
    return clean, corrupted, reference_clean, reference_corrupted


# ------------------------------------------------------------------------------------------------- corruption errors


def test_alexnet_itself_has_an_mce_of_one() -> None:
    errors = np.array(list(ALEXNET.errors.values()))
    assert corruption_errors(errors, errors).mean() == 1
    assert relative_corruption_errors(errors, ALEXNET.clean, errors, ALEXNET.clean) == pytest.approx(np.ones(15))
    assert len(errors) == 15 and corruption_errors(errors / 2, errors) == pytest.approx(np.full(15, 0.5))


def test_a_corruption_error_without_a_baseline_to_divide_by_is_not_a_number() -> None:
    assert np.isnan(corruption_errors([0.1, 0.2], [0.0, 0.2])).tolist() == [True, False]
    found = relative_corruption_errors([0.3, 0.4], 0.2, [0.1, 0.4], 0.2)
    assert np.isnan(found[0]) and found[1] == pytest.approx(1)


def test_resamples_of_separate_calls_draw_the_same_examples() -> None:
    rows = np.random.Generator(np.random.Philox(1)).random((4, 50)) < 0.5
    whole = resampled_accuracies(rows, resamples=30)
    apart = [resampled_accuracies(rows[part], resamples=30) for part in (slice(0, 1), slice(1, 4))]
    assert (np.hstack(apart) == whole).all()


def test_groups_of_examples_give_the_spread_of_single_examples() -> None:
    """From more than `most_drawn` examples on, groups of neighbours are drawn; their sizes differ by at most one."""
    rng = np.random.Generator(np.random.Philox(2))
    hard, n = rng.random(20_100), 20_100
    rows = np.stack([hard < 0.8, hard < 0.5, rng.random(n) < 0.5])
    grouped = resampled_accuracies(rows, resamples=4000, most_drawn=1000)
    assert grouped.mean(axis=0) == pytest.approx(rows.mean(axis=1), abs=3e-4)
    covariance = np.cov(rows.astype(float)) / n
    error = 0.15 * np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))  # 1000 groups: 3 standard errors
    assert (np.abs(np.cov(grouped.T) - covariance) < error).all()
    sums = [rows[:, i * n // 1000 : (i + 1) * n // 1000].sum(axis=1) for i in range(1000)]
    drawn = np.random.Generator(np.random.Philox(0)).integers(0, 1000, (2, 1000))
    sizes = np.diff(np.arange(1001) * n // 1000)
    first = np.array(sums)[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]
    assert grouped[:2] == pytest.approx(first, abs=1e-12)
