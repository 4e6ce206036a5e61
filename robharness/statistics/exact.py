"""Exact confidence intervals of a proportion, and tails of the binomial distribution."""

from __future__ import annotations

import math
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


def binomial_tail(successes: int, n: int) -> float:
    """Return the probability of this many successes or more in n trials of probability 1/2."""
    if successes <= 0:
        return 1.0
    reach = 40 + int(10 * math.sqrt(n))  # 20 standard deviations: the terms beyond add nothing in double precision
    k = np.arange(max(successes, n // 2 - reach), min(n, max(successes, n // 2) + reach) + 1)
    factorials = _log_factorials(1 << n.bit_length())
    terms = factorials[n] - factorials[k] - factorials[n - k] - n * math.log(2)
    return min(1.0, float(np.exp(terms).sum()))


@lru_cache(maxsize=32)
def _log_factorials(most: int) -> Floats:
    """Return the logarithms of the factorials of 0 to `most`, read-only: callers share the array."""
    found: Floats = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1, dtype=np.float64)))])
    found.flags.writeable = False
    return found


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
