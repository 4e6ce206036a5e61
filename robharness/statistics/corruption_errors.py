"""Corruption errors relative to a baseline (CE, mCE)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import Floats, ratio


def corruption_errors(errors: npt.ArrayLike, baseline: npt.ArrayLike) -> Floats:
    """Return the CE of each corruption: a model's error divided by a baseline's. Their mean is the mCE.

    errors, baseline: (..., corruptions) error rates, means over the same severities (of published tables: all five).
    Returns (..., corruptions), nan if the baseline is never wrong.
    Source: Hendrycks and Dietterich 2019, section 4, where sums over the severities stand for the means.
    """
    return ratio(np.asarray(errors, dtype=np.float64), np.asarray(baseline, dtype=np.float64))


def relative_corruption_errors(
    errors: npt.ArrayLike, clean: npt.ArrayLike, baseline: npt.ArrayLike, baseline_clean: npt.ArrayLike
) -> Floats:
    """Return the relative CE of each corruption: the added error of a model divided by that of a baseline.

    errors, baseline: as in `corruption_errors`.
    clean, baseline_clean: (...) error rates without a corruption.
    Returns (..., corruptions), nan if the corruption adds nothing to the baseline's error. Their mean is the
    relative mCE.
    Source: as for `corruption_errors`.
    """
    return corruption_errors(
        np.asarray(errors) - np.asarray(clean)[..., None], np.asarray(baseline) - np.asarray(baseline_clean)[..., None]
    )
