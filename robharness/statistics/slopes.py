"""Slopes of a model's relative drops on a reference's, with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robharness.statistics.accuracy import relative_drops
from robharness.statistics.intervals import Floats, Interval, UndefinedSlope, percentile_interval, ratio

MIN_SLOPE_EXAMPLES = 1000
"""Slopes from fewer examples carry a flag: noise in the reference's drops biases slopes towards 0."""


def slope(reference_drops: npt.ArrayLike, model_drops: npt.ArrayLike) -> float:
    """Return the least-squares slope through the origin: relative drop of a model per drop of the reference.

    reference_drops, model_drops: (corruptions,) relative drops in the same order.
    Raises UndefinedSlope for no drops, for different numbers of drops, for a drop that is not finite, and if the
    reference never drops. Source: the paper's Figure 2.
    """
    reference, model = _as_drops(reference_drops, model_drops)
    if reference.ndim != 1 or reference.shape != model.shape:
        raise UndefinedSlope(f"A slope needs two drops per corruption, not shapes {reference.shape} and {model.shape}.")
    if not (np.isfinite(reference).all() and np.isfinite(model).all()):
        raise UndefinedSlope("A slope needs finite drops.")
    if not reference.any():
        raise UndefinedSlope("A slope needs at least one corruption at which the reference drops.")
    return float(_slopes(reference, model))


def slopes_without_each(
    reference_drops: npt.ArrayLike, model_drops: npt.ArrayLike, corruption: npt.ArrayLike | None = None
) -> Floats:
    """Return the slopes without each corruption in turn, which shows the influence of a single one.

    reference_drops, model_drops: (drops,) as for `slope`.
    corruption: (drops,) int, the number from 0 of each drop's corruption, whose severities are left out together. By
        default each drop is a corruption of its own.
    Returns (corruptions,), nan if the reference drops at none of the other corruptions.
    Raises the errors of `slope`.
    """
    slope(reference_drops, model_drops)
    squares, products = _sums(*_as_drops(reference_drops, model_drops), corruption)
    others = 1 - np.eye(len(squares))
    return ratio(others @ products, others @ squares)


def slope_interval(reference: Floats, model: Floats, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of `slope` over examples.

    reference, model: (resamples, 1 + drops) accuracies in the same resamples, the clean one first.
    A resample without a slope (a model with no clean example right, a reference that never drops) is dropped; see
    `percentile_interval`.
    """
    return percentile_interval(_slopes(relative_drops(reference), relative_drops(model)), level)


def slope_interval_over_corruptions(
    reference_drops: npt.ArrayLike,
    model_drops: npt.ArrayLike,
    corruption: npt.ArrayLike | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Percentile bootstrap interval of `slope` over corruptions; None for fewer than 3 of them.

    The severities of a corruption are drawn together, because they are not independent.
    Arguments and errors as in `slopes_without_each`.
    """
    slope(reference_drops, model_drops)
    squares, products = _sums(*_as_drops(reference_drops, model_drops), corruption)
    if len(squares) < 3:
        return None
    drawn = np.random.Generator(np.random.Philox(seed)).integers(0, len(squares), (resamples, len(squares)))
    return percentile_interval(ratio(products[drawn].sum(axis=1), squares[drawn].sum(axis=1)), level)


def _as_drops(reference: npt.ArrayLike, model: npt.ArrayLike) -> tuple[Floats, Floats]:
    return np.asarray(reference, dtype=np.float64), np.asarray(model, dtype=np.float64)


def _slopes(reference: Floats, model: Floats) -> Floats:
    """Map (..., drops) to (...) slopes through the origin; nan for an undefined slope."""
    return ratio((reference * model).sum(axis=-1), (reference * reference).sum(axis=-1))


def _sums(reference: Floats, model: Floats, corruption: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """Return, per corruption, (corruptions,): the reference's squared drops, and its drops times the model's."""
    which = np.arange(len(reference)) if corruption is None else np.asarray(corruption)
    squares, products = np.bincount(which, reference * reference), np.bincount(which, reference * model)
    return squares.astype(np.float64), products.astype(np.float64)
