"""Calibration: confidences beside accuracies, in bins of equal width."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robharness.statistics.intervals import Bools, EmptySample, Floats, Numbers

BINS = 15
"""The number of bins, as in Guo et al. 2017."""


class Reliability(NamedTuple):
    """Confidences and outcomes of n examples in `BINS` bins of equal width.

    Bin i holds the confidences in (i / BINS, (i + 1) / BINS]; the first bin also holds 0.

    n, right: numbers of examples, and of right predictions among them, (BINS,) int64.
    confidence: sums of the confidences, (BINS,).
    confidence_when_wrong: sums of the confidences of wrong predictions, (BINS,).
    """

    n: np.ndarray
    right: np.ndarray
    confidence: Floats
    confidence_when_wrong: Floats


def reliability(confidence: Numbers, correct: Bools) -> Reliability:
    """Count examples in bins of their confidence.

    confidence: the largest probability of each example, (n,). Examples without one in [0, 1], such as NaN, are left out.
    correct: whether each prediction is right, (n,) bool.
    """
    is_known = (confidence >= 0) & (confidence <= 1)
    if not is_known.all():
        confidence, correct = confidence[is_known], correct[is_known]
    exact = confidence.astype(np.float64)
    place = np.maximum(np.ceil(exact * BINS).astype(np.intp) - 1, 0) + BINS * correct
    (wrong, right), (wrong_sum, right_sum) = (
        np.bincount(place, weights, 2 * BINS).reshape(2, BINS) for weights in (None, exact)
    )
    return Reliability(wrong + right, right, wrong_sum + right_sum, wrong_sum)


def expected_calibration_error(binned: Reliability) -> float:
    """Return the ECE: the mean over examples of the distance between a bin's accuracy and its mean confidence.

    Chance alone makes it positive: the fewer examples, the larger.
    Raises EmptySample without an example. Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, equation 3.
    """
    total = int(binned.n.sum())
    if total == 0:
        raise EmptySample("A calibration error needs at least one example with a confidence.")
    return float(np.abs(binned.right - binned.confidence).sum() / total)
