"""Simulations of the gate: falls that it finds, and false alarms of models of equal accuracy and of rounding.

The counts of many comparisons are judged at once, by the peers' test and adjustment; the gate itself judges some of
them, and both verdicts must be the same. docs/explanation/comparing.md has the figures of the slow forms.
"""

import numpy as np
import pytest
from scipy import stats

from robharness.gate.verdicts import check
from robharness.statistics import smallest_fall
from synthetic_sides import counted, side

N, ALPHA, TOLERANCE, CELLS = 5000, 0.01, 0.005, 22
FORMS = [4000, pytest.param(100_000, marks=pytest.mark.slow)]
"""Numbers of simulated comparisons."""


def drawn(rng, draws, cells, discordance, fall=0.0, shared=0.0):
    """Numbers of lost and gained examples, (draws, cells) each.

    discordance: share of the examples that change, of each cell or of all.
    fall: of the accuracy.
    shared: share of the examples that change in the same way in all cells.
    """
    shares = np.broadcast_to(discordance, cells)
    lost, gained = np.zeros((2, draws, cells), np.int64)
    common = rng.binomial(N, shared, draws)
    for counts, size in ((common[:, None], (draws, 1)), ((N - common)[:, None], (draws, cells))):
        # The share of changes may differ between cells only among examples of their own.
        share = shares.mean() if size[1] == 1 else shares
        first = rng.binomial(counts, (share + fall) / 2, size)
        lost += first
        gained += rng.binomial(counts - first, (share - fall) / 2 / (1 - (share + fall) / 2), size)
    return lost, gained


def regressions(lost, gained):
    """Whether each cell regresses, by Holm's steps for all comparisons at once, (draws, cells)."""
    p = stats.binom.sf(lost - 1, lost + gained, 0.5)
    order = np.argsort(p, axis=1)
    steps = np.take_along_axis(p, order, axis=1) * np.arange(p.shape[1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(steps, axis=1), axis=1)
    return (adjusted <= ALPHA) & ((lost - gained) / N > TOLERANCE + 1e-9)


def agrees(lost, gained):
    """Whether the gate has these verdicts on the comparisons."""
    found = regressions(lost, gained)
    for first, second, regressed in zip(lost, gained, found, strict=True):
        pairs = [counted(f"fog({at})", N, *tally) for at, tally in enumerate(zip(first, second, strict=True))]
        before, after = (side(*cells) for cells in zip(*pairs, strict=True))
        report = check(before, after, tolerance=TOLERANCE, alpha=ALPHA)
        assert [each.verdict == "regressed" for each in report.cells] == regressed.tolist()
    return True


@pytest.mark.parametrize("draws", FORMS)
def test_a_fall_of_one_point_is_found(draws):
    """At 5,000 examples, 3 % discordance and one gated cell: 95.9 % of the time, and 90 % is demanded."""
    lost, gained = drawn(np.random.default_rng(1), draws, 1, 0.03, fall=0.01)
    assert regressions(lost, gained).mean() >= 0.94
    assert smallest_fall(N, 0.03, ALPHA, tolerance=TOLERANCE) <= 0.01
    assert agrees(lost[:20], gained[:20])


@pytest.mark.parametrize("draws", FORMS)
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("discordance", [0.02, 0.2, np.linspace(0.02, 0.2, CELLS)], ids=["2 %", "20 %", "2 to 20 %"])
def test_another_model_of_equal_accuracy_rarely_regresses(draws, shared, discordance):
    """At most 1 % of the comparisons of 22 cells have a cell that regresses, however the cells depend on each other."""
    lost, gained = drawn(np.random.default_rng(2), draws, CELLS, discordance, shared=shared)
    share = regressions(lost, gained).any(axis=1).mean()
    assert share <= ALPHA + 2.5 * np.sqrt(ALPHA * (1 - ALPHA) / draws)
    assert agrees(lost[:3], gained[:3])


def test_the_chance_of_any_false_alarm_is_bounded_exactly():
    """Holm finds something only if one p is at most alpha / 22. The chances of the 22 cells add up to at most 1 %."""
    for discordance in (0.02, 0.05, 0.1, 0.2):
        changed = np.arange(N + 1)
        needed = stats.binom.isf(ALPHA / CELLS, changed, 0.5) + 1  # P(lost >= needed) <= ALPHA / CELLS
        needed = np.maximum(needed, np.floor((changed + TOLERANCE * N) / 2) + 1)
        chance = stats.binom.pmf(changed, N, discordance) @ stats.binom.sf(needed - 1, changed, 0.5)
        assert 0 < CELLS * chance <= ALPHA


@pytest.mark.parametrize("draws", FORMS)
def test_the_same_model_with_the_flips_of_rounding_never_regresses(draws):
    """Up to 0.1 % of the examples change in each of 22 cells, 5 of 5,000, whichever way and in all cells together."""
    rng = np.random.default_rng(3)
    for shared in (0.0, 1.0):
        lost, gained = drawn(rng, draws, CELLS, 0.001, shared=shared)
        assert not regressions(lost, gained)[lost + gained <= N // 1000].any()
        assert not regressions(lost, gained).any()
    worst = np.full((1, CELLS), N // 1000)
    assert not regressions(worst, 0 * worst).any()  # all flips are losses, in every cell
    assert agrees(worst, 0 * worst)


def test_a_fall_of_two_points_is_found_in_its_cell_alone():
    rng = np.random.default_rng(4)
    lost, gained = drawn(rng, 200, CELLS, 0.05)
    worse, better = drawn(rng, 200, 1, 0.05, fall=0.02)
    lost[:, 7], gained[:, 7] = worse[:, 0], better[:, 0]
    found = regressions(lost, gained)
    assert found[:, 7].mean() > 0.95
    assert np.delete(found, 7, axis=1).mean() < 0.001
