"""Accuracy, relative drop and worst case."""

from __future__ import annotations

import math

import numpy as np

from robharness.statistics.intervals import (
    Bools,
    EmptySample,
    Floats,
    Interval,
    ZeroClean,
    check_outcomes,
    normal_quantile,
    wilson_bounds,
)


def accuracy(correct: Bools) -> float:
    """Return the share of examples that are right, in [0, 1].

    correct: (n,) bool. Raises EmptySample when n is 0.
    """
    check_outcomes(correct, dimensions=1)
    return float(correct.mean())


def accuracy_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval with continuity correction for an accuracy; ends in [0, 1], never of zero width.

    successes: number of right examples among the n.
    n: number of examples.
    level: confidence level, in (0, 1).
    The low end is exactly 0 if no example is right, the high end exactly 1 if all are. The correction is needed because
    the plain interval covers only 92.4 % at n = 20 and a true accuracy of 0.05.
    Raises EmptySample when n is 0, ValueError for counts outside 0..n or a level outside (0, 1).
    Source: Newcombe 1998, Statistics in Medicine 17:857, method 4.
    """
    if n == 0:
        raise EmptySample("An accuracy interval needs at least one example.")
    if not 0 <= successes <= n:
        raise ValueError(f"There cannot be {successes} successes among {n} examples.")
    low, high = wilson_bounds(np.asarray(successes), np.asarray(n), np.asarray(normal_quantile(level)))
    return Interval(float(low), float(high))


def relative_drop(clean: float, attacked: float) -> float:
    """Share of the clean accuracy that an attack takes away, in [0, 1] for attacks that hurt, negative for help.

    clean, attacked: top-1 accuracies of one model on the same examples, as fractions.
    Raises ZeroClean when ``clean`` is 0. Source: the down-arrows of the paper's Tables 1-8.
    """
    if clean == 0:
        raise ZeroClean("A relative drop needs a clean accuracy above 0.")
    return (clean - attacked) / clean


def drop_text(drop: float) -> str:
    """A drop as the paper prints it: a whole percentage, halves upwards (0.502 -> "50%", 0.845 -> "85%")."""
    return f"{whole_percent(drop)}%"


def relative_drops(accuracies: Floats) -> Floats:
    """(..., 1 + corruptions) accuracies, the clean one first, to (..., corruptions) drops.

    Raises ZeroClean if no clean accuracy is above 0. If only some are 0, their drops are nan.
    """
    clean, corrupted = accuracies[..., :1], accuracies[..., 1:]
    if not (clean > 0).any():
        raise ZeroClean("Relative drops need a clean accuracy above 0.")
    drops: Floats = 1 - corrupted / np.where(clean > 0, clean, np.nan)
    return drops


def whole_percent(drop: float) -> int:
    # 9 decimals remove the error of binary fractions (0.285 * 100 is 28.499999999999996) and nothing else.
    return math.floor(round(100 * drop, 9) + 0.5)
