"""Exact confidence intervals of a proportion, binomial probabilities, and exact tests by random signs."""

from __future__ import annotations

import math
import sys
from functools import lru_cache

import numpy as np

from robharness.statistics.intervals import Floats

MAX_STEPS = 60
"""The largest number of Newton's steps; five are usual from Wilson's interval on."""


def exact_lower(successes: np.ndarray, n: np.ndarray, tail: Floats) -> Floats:
    """Return low ends of one-sided exact intervals: the p at which `successes` or more of n have this probability.

    successes, n: (k,) int64, 0 <= successes <= n, n > 0.
    tail: (k,), in (0, 1/2).
    Returns (k,), 0 without successes. The high end is 1 - exact_lower(n - successes, n, tail).

    The logarithm of the binomial tail is concave in the logit of p, so Newton's steps come from below after the first.
    Source: Clopper and Pearson 1934, Biometrika 26:404.
    """
    k, total = np.maximum(successes, 1).astype(np.float64), n.astype(np.float64)
    coefficient = _log_binomial(k, total) - np.log(tail)
    terms = _later_terms(k, total)
    squared = -2 * np.log(2 * tail)  # of a normal quantile, by the bound tail <= exp(-z * z / 2) / 2
    wilson = (2 * k + squared - np.sqrt(squared * (squared + 4 * k * (1 - k / total)))) / (2 * (total + squared))
    logit = np.log(wilson / (1 - wilson))
    for _ in range(MAX_STEPS):
        odds = np.exp(logit)
        later = 1 + np.cumprod(terms * odds[:, None], axis=1).sum(axis=1)  # P(successes or more) / P(successes)
        value = coefficient + k * logit - total * np.log1p(odds) + np.log(later)
        step = value * later * (1 + odds) / k
        logit = logit - step
        if np.abs(step).max(initial=0) < 1e-7:  # steps are squared each time
            break
    return np.where(successes > 0, 1 / (1 + np.exp(-logit)), 0.0)


@lru_cache(maxsize=8)
def binomial_probabilities(n: int, p: float = 0.5) -> Floats:
    """Return the probabilities of 0 to n successes in n trials, (n + 1,), read-only: callers share the array.

    p: of a success, in [0, 1].
    The ratios of neighbours are multiplied from the mode outwards, so that even a probability of 1e-300 has a relative
    error of about 1e-13; what lies below 1e-308 is 0.
    """
    probabilities: Floats = np.zeros(n + 1)
    if p in (0, 1):
        probabilities[n * int(p)] = 1
        return probabilities
    mode, odds, reach = min(n, int((n + 1) * p)), p / (1 - p), 40 + 20 * math.isqrt(n)  # by Hoeffding, exp(-800) beyond
    below = np.arange(mode, max(0, mode - reach), -1, dtype=np.float64)
    above = np.arange(mode, min(n, mode + reach), dtype=np.float64)
    probabilities[mode] = 1
    probabilities[mode - len(below) : mode] = np.cumprod(below / (n - below + 1) / odds)[::-1]
    probabilities[mode + 1 : mode + 1 + len(above)] = np.cumprod((n - above) / (above + 1) * odds)
    probabilities /= probabilities.sum()
    probabilities.flags.writeable = False
    return probabilities


def binomial_tail(successes: int, n: int) -> float:
    """Return the probability of this many successes or more in n trials of probability 1/2, at least 2e-308."""
    return min(1.0, max(float(binomial_probabilities(n)[successes:].sum()), sys.float_info.min))


def sign_flip_tail(losses: np.ndarray) -> float:
    """Return the probability of a total loss at least as large if each loss has a random sign.

    losses: of independent units, (k,) int; gains are negative.
    With units that lose or gain 1, this is the one-sided exact test of McNemar. The distribution is exact: that of the
    number of positive signs among the units of each size is binomial, and these distributions are convolved.
    Returns at least the smallest normal double, 2e-308.
    """
    total, distribution = int(losses[losses > 0].sum()), np.ones(1)  # of the sum of sizes with a positive sign
    for size, count in enumerate(np.bincount(np.abs(losses)).tolist()):
        if not size or not count:
            continue
        wider = np.zeros(len(distribution) + size * count)
        for start in range(min(size, len(distribution))):
            wider[start::size] = np.convolve(distribution[start::size], binomial_probabilities(count))
        distribution = wider
    return min(1.0, max(float(distribution[total:].sum()), sys.float_info.min))


def _log_binomial(k: Floats, n: Floats) -> Floats:
    """Return the logarithms of binomial coefficients, (k,)."""
    pairs = zip(k.tolist(), n.tolist(), strict=True)
    return np.array([math.lgamma(b + 1) - math.lgamma(a + 1) - math.lgamma(b - a + 1) for a, b in pairs])


def _later_terms(k: Floats, n: Floats) -> Floats:
    """Return P(k + i) / P(k + i - 1) for unit odds, (len(k), terms): as many terms as matter at p up to k / n."""
    widest = 40 + 10 * np.sqrt(k * (n - k) / n)
    count = int(np.minimum(n - k, widest).max(initial=0))
    later = k[:, None] + np.arange(1, count + 1)
    ratios: Floats = np.maximum(n[:, None] - later + 1, 0) / later
    return ratios
