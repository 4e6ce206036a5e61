"""Differences of accuracies and of relative drops: exact tests, adjusted p values, intervals, and a gate's power."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from robharness.statistics import (
    EmptySample,
    ZeroClean,
    difference_bounds,
    drop_difference,
    holm,
    paired_difference,
    percentile_interval,
    relative_drops,
    resampled_accuracies,
    sign_flip_tail,
    smallest_fall,
)

TALLIES = [(0, 0), (1, 0), (0, 1), (3, 7), (30, 12), (200, 260), (1000, 0), (20_000, 21_000)]
"""Numbers of lost and of gained examples."""


def outcomes(lost, gained, right=5, wrong=5):
    """Outcomes before and after."""
    before = np.repeat([True, False, True, False], [lost, gained, right, wrong])
    return before, np.repeat([False, True, True, False], [lost, gained, right, wrong])


# --- tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "gained"), TALLIES)
def test_the_test_of_independent_examples_is_mcnemars(lost, gained):
    found = paired_difference(*outcomes(lost, gained))
    assert (found.lost, found.gained, found.n, found.units) == (lost, gained, lost + gained + 10, found.n)
    assert found.difference == (gained - lost) / found.n
    peer = mcnemar([[5, lost], [gained, 5]], exact=True).pvalue
    assert found.p == pytest.approx(peer, rel=1e-9, abs=1e-300)
    fall = stats.binomtest(lost, lost + gained, 0.5, "greater").pvalue if lost + gained else 1.0
    assert found.p_fall == pytest.approx(fall, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("lost", "gained"), TALLIES)
def test_clusters_of_one_example_change_nothing(lost, gained):
    before, after = outcomes(lost, gained)
    assert paired_difference(before, after, np.arange(len(before))[::-1]) == paired_difference(before, after)


@pytest.mark.parametrize("losses", [[3], [1, 1, -1], [3, -1, 2, 2, -5, 1, 1, 4], [-2, -2, 2, 0, 0, 7], [0, 0]])
def test_the_test_of_clusters_tries_all_signs(losses):
    losses = np.array(losses)
    signs = np.array(list(product([-1, 1], repeat=len(losses))))
    assert sign_flip_tail(losses) == np.mean(signs @ np.abs(losses) >= losses.sum())


def test_the_test_of_clusters_counts_net_losses():
    """Two clusters lose 2, one gains 1, and one loses as much as it gains."""
    before = np.array([1, 1, 0, 1, 1, 0, 0, 1, 0], bool)
    after = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1], bool)
    found = paired_difference(before, after, np.array([0, 0, 0, 1, 1, 1, 2, 3, 3]))
    assert (found.lost, found.gained, found.units) == (5, 2, 4)
    assert (found.p_fall, found.p) == (2 / 8, 4 / 8)  # the signs +++ and ++-
    assert paired_difference(before, after).p_fall == pytest.approx(29 / 128)


def test_tiny_p_values_are_above_0():
    assert 0 < sign_flip_tail(np.ones(50_000, np.int64)) < 1e-300
    assert sign_flip_tail(np.ones(1000, np.int64)) == pytest.approx(2.0**-1000, rel=1e-12)
    assert sign_flip_tail(np.repeat([1, -1], [30_000, 20_000])) > 0


@pytest.mark.parametrize("number", [0, 1, 2, 22])
def test_holm_is_that_of_statsmodels(number):
    p_values = np.random.default_rng(number).random(number) ** 3
    adjusted = holm(p_values)
    if number:
        assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-14)
    assert len(adjusted) == number


# --- intervals of accuracies -----------------------------------------------------------------------------------------


def trinomial(n, lost, gained):
    """Numbers of lost and gained examples with a probability that matters, and their probabilities."""

    def likely(p):
        reach = 8 * np.sqrt(n * p * (1 - p)) + 20
        return np.arange(max(0, int(n * p - reach)), min(n, int(n * p + reach)) + 1)

    first, second = np.meshgrid(likely(lost), likely(gained), indexing="ij")
    whole = stats.binom.pmf(first, n, lost)
    whole *= stats.binom.pmf(second, np.maximum(n - first, 0), gained / (1 - lost))
    chosen = whole > 1e-9
    return first[chosen], second[chosen], whole[chosen]


@pytest.mark.parametrize(("n", "least"), [(20, 0.92), (200, 0.94), (5000, 0.94)])
def test_the_interval_of_a_difference_covers(n, least):
    """Exact coverage at a discordance of 0, 2 and 20 %, with falls from none to all of it."""
    coverages = {}
    for discordance, fall in product([0.0, 0.02, 0.2], [0.0, 0.5, 0.9, 1.0]):
        shares = discordance * (1 + fall) / 2, discordance * (1 - fall) / 2
        lost, gained, chances = trinomial(n, *shares)
        low, high = difference_bounds(lost, gained, n, 1.959964)
        covered = (low <= shares[1] - shares[0] + 1e-12) & (shares[1] - shares[0] <= high + 1e-12)
        coverages[discordance, fall] = float(chances[covered].sum())
    assert min(coverages.values()) >= least, coverages
    assert max(coverages.values()) < 1 + 1e-6


def test_the_interval_is_of_these_bounds_and_has_a_width_without_changes():
    same = np.ones(200, bool)
    low, high = paired_difference(same, same).interval
    assert low == -high and 0.01 < high < 0.02
    found = paired_difference(*outcomes(30, 12))
    assert found.interval == pytest.approx(difference_bounds(30, 12, 52, 1.959964), abs=1e-6)
    assert found.interval.low < found.difference < found.interval.high
    assert paired_difference(*outcomes(30, 12), level=0.99).interval.low < found.interval.low


def test_an_interval_of_many_examples_is_walds():
    lost, gained, n = 900, 700, 50_000
    deviation = np.sqrt(lost + gained - (gained - lost) ** 2 / n) / n
    low, high = difference_bounds(lost, gained, n, 1.959964)
    assert (low, high) == pytest.approx(
        ((gained - lost) / n - 1.96 * deviation, (gained - lost) / n + 1.96 * deviation), abs=1e-5
    )


def clustered_losses(rng, clusters, size, discordance, fall, together):
    """Losses of examples, 1, 0 or -1, and the numbers of their clusters.

    together: share of the examples that change as their cluster does.
    """
    chances = (discordance + fall) / 2, (discordance - fall) / 2, 1 - discordance
    numbers = np.repeat(np.arange(clusters), size)
    own, shared = (rng.choice([1, -1, 0], p=chances, size=count) for count in (clusters * size, clusters))
    return np.where(rng.random(clusters * size) < together, shared[numbers], own), numbers


@pytest.mark.parametrize(("discordance", "fall"), [(0.02, 0.0), (0.02, 0.02), (0.2, 0.0), (0.2, 0.1), (0.2, 0.2)])
@pytest.mark.parametrize("together", [0.0, 0.7, 1.0])
def test_the_interval_of_clusters_covers(discordance, fall, together):
    """100 clusters of 3 examples. If they change together, the interval of independent examples covers at most 84 %."""
    rng, hits, plain, rejected, draws = np.random.default_rng(5), 0, 0, 0, 400
    for _ in range(draws):
        losses, numbers = clustered_losses(rng, 100, 3, discordance, fall, together)
        found = paired_difference(losses >= 0, losses <= 0, numbers)
        hits += found.interval.low <= -fall <= found.interval.high
        low, high = paired_difference(losses >= 0, losses <= 0).interval
        plain += low <= -fall <= high
        rejected += found.p_fall <= 0.05
    assert hits / draws >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / draws)
    if together == 1 and fall != 0.02:
        assert plain / draws < 0.85
    if fall == 0:
        assert rejected / draws <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / draws)


# --- relative drops --------------------------------------------------------------------------------------------------


def test_the_bootstrap_over_clusters_is_that_of_all_resamples():
    """Four clusters: the 256 resamples, each as likely as the others, give the same percentiles."""
    rng = np.random.default_rng(0)
    clusters = np.array([7, 3, 7, 1, 1, 1, 9, 3, 9, 9, 7])
    rows = rng.random((3, len(clusters))) < 0.6
    drawn = resampled_accuracies(rows, clusters=clusters, resamples=40_000)
    members = [np.flatnonzero(clusters == cluster) for cluster in (7, 3, 1, 9)]
    every = np.array([
        rows[:, np.concatenate([members[number] for number in chosen])].mean(axis=1)
        for chosen in product(range(4), repeat=4)
    ])  # fmt: skip
    assert drawn.mean(axis=0) == pytest.approx(every.mean(axis=0), abs=0.005)
    for row in range(3):
        values, chances = np.unique(np.round(every[:, row], 6), return_counts=True)
        found, counts = np.unique(np.round(drawn[:, row], 6), return_counts=True)
        assert found.tolist() == values.tolist()
        assert counts / 40_000 == pytest.approx(chances / 256, abs=0.01)
    differences = [each[:, 1] - each[:, 0] for each in (drawn, every)]
    for level in (0.5, 0.9):
        one, other = (percentile_interval(each, level) for each in differences)
        assert one == pytest.approx(other, abs=0.02)


def test_the_bootstrap_of_examples_is_that_of_clusters_of_one():
    rows = np.random.default_rng(1).random((2, 300)) < 0.7
    alone = resampled_accuracies(rows, resamples=50)
    assert (alone == resampled_accuracies(rows, resamples=50, clusters=np.random.default_rng(2).permutation(300))).all()
    grouped = resampled_accuracies(rows, resamples=50, clusters=np.arange(300), most_drawn=40)
    assert (grouped == resampled_accuracies(rows, resamples=50, most_drawn=40)).all()


def test_many_clusters_are_drawn_in_groups():
    rng = np.random.default_rng(3)
    clusters, order = np.repeat(np.arange(3000), 2), rng.permutation(6000)
    rows = (rng.random(3000) < 0.5)[clusters][order][None]
    whole = resampled_accuracies(rows, resamples=1000, clusters=clusters[order])
    grouped = resampled_accuracies(rows, resamples=1000, clusters=clusters[order], most_drawn=500)
    assert grouped.std() == pytest.approx(whole.std(), rel=0.15)
    assert whole.std() == pytest.approx(np.sqrt(0.25 / 3000), rel=0.1)


def drawn_drops(rng, units, size, discordance, fall, together):
    """Outcomes (clean before, attacked before, clean after, attacked after), the true difference of drops, clusters."""
    patterns = np.array(list(product([False, True], repeat=4)))
    clean, kept, gained = 0.9, 0.5, 0.05
    attacked = clean * kept + (1 - clean) * gained

    def changes(accuracy):
        return np.array([(discordance - fall) / 2 / (1 - accuracy), (discordance + fall) / 2 / accuracy])

    first, second = changes(clean), changes(attacked)
    chances = []
    for a, b, c, d in patterns.astype(int):
        share = (clean if a else 1 - clean) * np.abs((1 - b) - (kept if a else gained))
        chances.append(share * np.abs((a == c) - first[a]) * np.abs((b == d) - second[b]))
    chances = np.array(chances)
    means = chances @ patterns
    truth = (1 - means[3] / means[2]) - (1 - means[1] / means[0])
    numbers = np.repeat(np.arange(units), size)
    own, shared = (rng.choice(16, p=chances, size=count) for count in (units * size, units))
    return patterns[np.where(rng.random(units * size) < together, shared[numbers], own)].T, truth, numbers


@pytest.mark.parametrize(("n", "draws"), [(200, 300), (5000, 150)])
@pytest.mark.parametrize(("discordance", "fall"), [(0.0, 0.0), (0.02, 0.0), (0.02, 0.02), (0.1, 0.1)])
def test_the_interval_of_a_difference_of_drops_covers(n, draws, discordance, fall):
    rng, hits = np.random.default_rng(6), 0
    for _ in range(draws):
        rows, truth, _ = drawn_drops(rng, n, 1, discordance, fall, 0.0)
        found = drop_difference((rows[0], rows[2]), (rows[1], rows[3]))
        hits += found.interval.low - 1e-12 <= truth <= found.interval.high + 1e-12
    assert hits / draws >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / draws)


def test_the_interval_of_a_difference_of_drops_with_clusters_covers():
    """100 clusters of 3 of which few change, all together: the bootstrap alone covers 84 %."""
    rng, hits, bootstrap, draws = np.random.default_rng(7), 0, 0, 150
    for _ in range(draws):
        rows, truth, numbers = drawn_drops(rng, 100, 3, 0.02, 0.02, 1.0)
        found = drop_difference((rows[0], rows[2]), (rows[1], rows[3]), numbers)
        drops = relative_drops(resampled_accuracies(rows, clusters=numbers).reshape(-1, 2, 2))[..., 0]
        low, high = percentile_interval(drops[:, 1] - drops[:, 0])
        assert found.interval.low <= low and high <= found.interval.high
        hits, bootstrap = (
            hits + (found.interval.low <= truth <= found.interval.high),
            bootstrap + (low <= truth <= high),
        )
    assert hits / draws >= 0.95 > 0.9 > bootstrap / draws


def test_a_difference_of_drops_has_its_sides_in_order():
    rows, _, numbers = drawn_drops(np.random.default_rng(8), 100, 3, 0.2, 0.1, 0.5)
    clean, attacked = (rows[0], rows[2]), (rows[1], rows[3])
    drops = [1 - kept.sum() / right.sum() for right, kept in zip(clean, attacked, strict=True)]
    for clusters in (None, numbers):
        found = drop_difference(clean, attacked, clusters)
        assert (found.before, found.after) == pytest.approx(drops)
        assert found.difference == pytest.approx(drops[1] - drops[0])
        assert found.interval.low < found.difference < found.interval.high
        assert found == drop_difference(clean, attacked, clusters)  # the seed is fixed
    wide, narrow = (drop_difference(clean, attacked, each).interval for each in (numbers, None))
    assert wide.low < narrow.low and narrow.high < wide.high
    assert drop_difference(clean, attacked, np.arange(300)) == drop_difference(clean, attacked)


def test_undefined_differences_are_refused():
    right, none = np.ones(4, bool), np.zeros(0, bool)
    with pytest.raises(ZeroClean):
        drop_difference((right, ~right), (right, right))
    with pytest.raises(EmptySample):
        paired_difference(none, none)
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(right, right[:2])


def test_one_cluster_shows_nothing():
    before, after = outcomes(5, 0)
    found = paired_difference(before, after, np.zeros(15, int))
    assert (found.units, found.p_fall, found.interval) == (1, 0.5, (-1, 1))
    drops = drop_difference((before, before), (after, after), np.zeros(15, int))
    assert drops.interval == (-np.inf, np.inf)


# --- the smallest fall -----------------------------------------------------------------------------------------------


def found_share(n, discordance, fall, alpha, tolerance, draws=100_000):
    """Share of simulated pairs of results for which a gate finds the fall."""
    rng, share = np.random.default_rng(9), max(discordance, fall)
    changed = rng.binomial(n, share, draws)
    lost = rng.binomial(changed, (1 + fall / share) / 2)
    p = stats.binom.sf(lost - 1, changed, 0.5)
    return np.mean((p <= alpha) & ((2 * lost - changed) / n > tolerance))


@pytest.mark.parametrize("n", [20, 200, 5000])
@pytest.mark.parametrize("discordance", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("tolerance", [0.0, 0.005])
def test_a_gate_finds_the_smallest_fall_and_no_smaller_one(n, discordance, tolerance):
    alpha = 0.01 / 22
    fall = smallest_fall(n, discordance, alpha, tolerance=tolerance)
    assert fall * n == pytest.approx(round(fall * n))
    assert found_share(n, discordance, fall, alpha, tolerance) > 0.9 - 0.003
    assert found_share(n, discordance, fall - 1 / n, alpha, tolerance) < 0.9 + 0.003


def test_the_smallest_fall_of_few_examples():
    alpha = 0.01 / 24
    assert smallest_fall(11, 0.0, alpha) == float("inf")  # 2**-11 is above alpha
    assert smallest_fall(12, 0.0, alpha) == 1
    assert smallest_fall(20, 0.0, alpha) == 0.75
    assert smallest_fall(1, 0.0, 0.5) == 1


def test_a_larger_tolerance_level_or_discordance_and_clusters_hide_more():
    base = smallest_fall(5000, 0.03, 0.01)
    assert smallest_fall(5000, 0.1, 0.01) > base
    assert smallest_fall(5000, 0.03, 0.001) > base
    assert smallest_fall(5000, 0.03, 0.01, tolerance=0.02) > 0.02 > base
    assert smallest_fall(5000, 0.03, 0.01, design_effect=2.0) == smallest_fall(2500, 0.03, 0.01) > base
