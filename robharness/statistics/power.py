"""The smallest fall of an accuracy that a gate finds, from exact binomial sums."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from robharness.statistics.exact import binomial_probabilities
from robharness.statistics.intervals import Floats

POWER = 0.9
"""The probability with which a fall must be found."""


def smallest_fall(
    n: int,
    discordance: float,
    alpha: float,
    *,
    tolerance: float = 0.0,
    design_effect: float = 1.0,
) -> float:
    """Return the smallest fall, a fraction, that a gate finds with probability `POWER`; inf if it finds none.

    The gate finds a fall that is above the tolerance and whose exact one-sided p is at most alpha.
    discordance: the share of examples that change; a larger fall changes at least as many as it loses.
    alpha: the level of the test, divided by the number of tests that are made together.
    tolerance: the fall, a fraction, up to which the gate passes.
    design_effect: n is divided by it; see `PairedDifference`.
    Returns a multiple of 1 / n. The result is inf if even the loss of all n examples is not significant: below 12
    examples at an alpha of 0.01 / 24.
    """
    n = max(1, int(n / design_effect))
    changed = np.arange(n + 1)
    exceeding = np.floor((changed + tolerance * n) / 2 + 1e-9).astype(np.int64) + 1  # lost - gained > tolerance * n
    needed = np.maximum(_significant_losses(n, alpha), exceeding)
    low, high = 0, n
    if _power(needed, discordance, 1.0) < POWER:
        return float("inf")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(needed, discordance, middle / n) >= POWER else (middle, high)
    return high / n


def _power(needed: np.ndarray, discordance: float, fall: float) -> float:
    """Return the probability that at least so many of the changed examples are lost as are needed.

    needed: the number for 0 to n changed examples, (n + 1,) int; it starts above 0, and each step adds 0 or 1.
    fall: of the accuracy, a fraction above 0.
    """
    n, share = len(needed) - 1, max(discordance, fall)
    lost = (1 + fall / share) / 2  # probability that a changed example is lost
    chances = binomial_probabilities(n, share)
    most = int(np.flatnonzero(chances > 1e-14)[-1])
    # P(lost >= needed | changed + 1) from P(lost >= needed | changed), by the last example that changed.
    changed, counts, grows = np.arange(most), needed[:most], np.diff(needed[: most + 1]) > 0
    steps = np.where(
        grows,
        (lost - 1) * _binomial_points(n, changed, counts, lost),
        lost * _binomial_points(n, changed, counts - 1, lost),
    )
    found = np.concatenate([[0.0], np.cumsum(steps)])
    return float(chances[: most + 1] @ found)


def _binomial_points(most: int, n: np.ndarray, k: np.ndarray, p: float) -> Floats:
    """Return the probabilities of k successes in n trials, (m,), 0 if k is above n; n is at most `most`, p above 0."""
    factorials = _log_factorials(most)
    failures = np.maximum(n - k, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(failures > 0, failures * np.log1p(-p), 0.0)
    logarithms = factorials[n] - factorials[np.minimum(k, n)] - factorials[failures] + k * np.log(p) + rest
    points: Floats = np.where(k <= n, np.exp(logarithms), 0.0)
    return points


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


@lru_cache(maxsize=8)
def _significant_losses(n: int, alpha: float) -> np.ndarray:
    """Return how many of 0 to n changed examples must be lost for a one-sided p of at most alpha, (n + 1,) int.

    The number is above that of the changed examples if even the loss of all is not significant.
    """
    needed, tail, below = 1, 0.0, 1.0  # P(lost >= needed) and P(lost = needed - 1) at probability 1/2
    found = np.empty(n + 1, np.int64)
    for changed in range(n + 1):
        found[changed] = needed
        tail += below / 2
        below *= (changed + 1) / (2 * (changed + 2 - needed))
        if tail > alpha:
            below *= (changed + 2 - needed) / needed
            tail -= below
            needed += 1
    return found
