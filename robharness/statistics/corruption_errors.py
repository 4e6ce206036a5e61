"""Corruption errors relative to a baseline (CE, mCE)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robharness.statistics.intervals import Floats, ratio


def corruption_errors(errors: npt.ArrayLike, baseline: npt.ArrayLike) -> Floats:
    """CE of each corruption: a model's error relative to a baseline's; 1 is as many errors. Their mean is the mCE.

    errors, baseline: (..., corruptions) error rates, means over the same severities (of published tables: all five).
    Returns (..., corruptions), nan where the baseline is never wrong.
    Source: Hendrycks and Dietterich 2019, section 4, where sums over the severities stand for the means.
    """
    return ratio(np.asarray(errors, dtype=np.float64), np.asarray(baseline, dtype=np.float64))


def relative_corruption_errors(
    errors: npt.ArrayLike, clean: npt.ArrayLike, baseline: npt.ArrayLike, baseline_clean: npt.ArrayLike
) -> Floats:
    """Relative CE of each corruption: what it adds to the clean error, relative to what it adds to the baseline's.

    errors, baseline: as in `corruption_errors`. clean, baseline_clean: (...) error rates without a corruption.
    Returns (..., corruptions), nan where the corruption adds nothing to the baseline's error. Their mean is the
    relative mCE. Source: the same.
    """
    return corruption_errors(
        np.asarray(errors) - np.asarray(clean)[..., None], np.asarray(baseline) - np.asarray(baseline_clean)[..., None]
    )
