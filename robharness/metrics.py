"""The numbers of a report, as pure functions over outcomes: accuracy, drop, slope, gap closed, gain, intervals."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.int64]

MIN_SLOPE_EXAMPLES = 1000
"""Slopes from fewer examples carry a flag: noise in the reference's drops pulls them towards 0."""


class UndefinedNumber(ValueError):
    """A number that these inputs do not define; the base of the four below."""


class EmptySample(UndefinedNumber):
    """There is no example (or no attack) to count."""


class ZeroClean(UndefinedNumber):
    """No clean example is right, so nothing can drop."""


class UndefinedSlope(UndefinedNumber):
    """No line can be drawn through these drops."""


class ZeroBase(UndefinedNumber):
    """The accuracy or the gap that a share is taken of is 0."""


class Interval(NamedTuple):
    """Both ends of a confidence interval, in the unit of the number that it belongs to."""

    low: float
    high: float


class SlopeIntervals(NamedTuple):
    """Where a slope would fall with other examples, and with other corruptions (None: fewer than 3 of them)."""

    examples: Interval
    corruptions: Interval | None


def accuracy(correct: Bools) -> float:
    """Share of examples that are right, in [0, 1].

    correct: (n,) bool. Raises EmptySample when n is 0.
    """
    _check_outcomes(correct, dimensions=1)
    return float(correct.mean())


def accuracy_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval with continuity correction for an accuracy; ends in [0, 1], never of zero width.

    successes: how many of the n examples are right. Exactly 0 at the low end when none is, exactly 1 at the high end
    when all are. Corrected, because the plain interval covers only 92.4 % at n = 20 and a true accuracy of 0.05.
    Raises EmptySample when n is 0, ValueError for counts outside 0..n or a level outside (0, 1).
    Source: Newcombe 1998, Statistics in Medicine 17:857, method 4.
    """
    if n == 0:
        raise EmptySample("An accuracy interval needs at least one example.")
    if not 0 <= successes <= n:
        raise ValueError(f"There cannot be {successes} successes among {n} examples.")
    low, high = _wilson(np.asarray(successes), np.asarray(n), np.asarray(_z(level)))
    return Interval(float(low), float(high))


def quantile(values: Numbers, share: float) -> float:
    """The smallest value that at least this share of all values does not exceed; inf counts as a value.

    values: (n,). Raises EmptySample without any.
    """
    if len(values) == 0:
        raise EmptySample("there is no quantile of nothing")
    rank = max(1, math.ceil(share * len(values) - 1e-9))
    return float(np.sort(values)[rank - 1])


def median_interval(values: Numbers, level: float = 0.95) -> Interval:
    """Interval for the median, between two of the values: no assumption of how they are spread.

    As many of n values lie below the median as heads fall in n throws of a coin. inf counts as a value, and is the
    upper bound of samples too small for one. Source: e.g. Conover, Practical Nonparametric Statistics, 3.2.
    Raises EmptySample without any.
    """
    n = len(values)
    if n == 0:
        raise EmptySample("there is no median of nothing")
    chances = np.cumsum([_coin(n, k) for k in range(n)])
    outside = int(np.searchsorted(chances, (1 - level) / 2, side="right"))  # P(heads < outside) is at most that
    ordered = np.sort(values)
    if outside == 0:
        return Interval(-math.inf, math.inf)
    return Interval(float(ordered[outside - 1]), float(ordered[n - outside]))


def _coin(n: int, k: int) -> float:
    """The chance of k heads in n throws."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def relative_drop(clean: float, attacked: float) -> float:
    """Share of the clean accuracy that an attack takes away, in [0, 1] for attacks that hurt, negative for help.

    clean, attacked: top-1 accuracies of one model on the same examples, as fractions.
    Raises ZeroClean when ``clean`` is 0. Source: the down-arrows of the paper's Tables 1-8.
    """
    if clean == 0:
        raise ZeroClean("A relative drop needs a clean accuracy above 0.")
    return (clean - attacked) / clean


def relative_drop_interval(clean_correct: Bools, attacked_correct: Bools, level: float = 0.95) -> Interval:
    """Interval for the relative drop, from the outcomes of the same examples clean and attacked.

    clean_correct, attacked_correct: (n,) bool. The high end is at most 1; the low end is negative where the attack may
    help. Raises EmptySample when n is 0, ZeroClean when no clean example is right. Method: `relative_drop_bounds`.
    """
    _check_outcomes(clean_correct, attacked_correct, dimensions=1)
    low, high = relative_drop_bounds(
        np.count_nonzero(clean_correct & attacked_correct),
        np.count_nonzero(clean_correct & ~attacked_correct),
        np.count_nonzero(~clean_correct & attacked_correct),
        level,
    )
    return Interval(float(low), float(high))


def relative_drop_bounds(
    kept: npt.ArrayLike, lost: npt.ArrayLike, gained: npt.ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Low and high ends of the relative drop's interval, for many tables of counts at once.

    kept, lost, gained: how many examples are right both clean and attacked, only clean, only attacked; any shapes that
    broadcast. Returns two arrays of that shape. Two Wilson intervals, narrowed for the pairing, bound the ratio of the
    accuracies, and a drop is 1 - ratio. With the continuity correction, because the plain form covers only 90.5 % at
    n = 20, a clean accuracy of 0.9, nothing kept and 5 % of the wrong examples gained.
    Raises ZeroClean where kept + lost is 0.
    Source: Bonett and Price 2006, Statistics in Medicine 25:3039; corrected as in Fagerland, Lydersen and Laake 2017,
    Statistical Analysis of Contingency Tables, chapter 8.
    """
    kept, lost, gained = (np.asarray(count, dtype=np.float64) for count in (kept, lost, gained))
    clean, attacked, n = kept + lost, kept + gained, kept + lost + gained
    if np.any(clean == 0):
        raise ZeroClean("The interval of a relative drop needs at least one clean example that is right.")
    # How much narrower than two independent intervals: standard error of log(ratio) over the sum of the two errors.
    error = np.sqrt((lost + gained + 2) / ((clean + 1) * (attacked + 1)))
    z = _z(level) * error / sum(np.sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (clean, attacked))
    clean_low, clean_high = _wilson(clean, n, z)
    attacked_low, attacked_high = _wilson(attacked, n, z)
    return 1 - attacked_high / clean_low, 1 - attacked_low / clean_high


def drop_text(drop: float) -> str:
    """A drop as the paper prints it: a whole percentage, halves upwards (0.502 -> "50%", 0.845 -> "85%")."""
    return f"{_whole_percent(drop)}%"


def slope(reference_drops: npt.ArrayLike, model_drops: npt.ArrayLike) -> float:
    """Slope of the least-squares line through the origin: how many times harder than the reference a model is hit.

    reference_drops, model_drops: (corruptions,) relative drops in the same order.
    Raises UndefinedSlope when there is none, when their numbers differ, when one is not finite or when the reference
    never drops. Source: the paper's Figure 2.
    """
    reference, model = np.asarray(reference_drops, dtype=np.float64), np.asarray(model_drops, dtype=np.float64)
    if reference.ndim != 1 or reference.shape != model.shape:
        raise UndefinedSlope(f"A slope needs two drops per corruption, not shapes {reference.shape} and {model.shape}.")
    if not (np.isfinite(reference).all() and np.isfinite(model).all()):
        raise UndefinedSlope("A slope needs finite drops.")
    if not reference.any():
        raise UndefinedSlope("A slope needs at least one corruption at which the reference drops.")
    return float(_slopes(reference, model))


def slope_intervals(
    clean_correct: Bools,
    corrupted_correct: Bools,
    reference_clean_correct: Bools,
    reference_corrupted_correct: Bools,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> SlopeIntervals:
    """Percentile bootstrap intervals of `slope`, over the examples and over the corruptions.

    clean_correct, reference_clean_correct: (n,) bool; corrupted_correct, reference_corrupted_correct: (corruptions, n)
    bool; the same examples in all four. One resample of the examples serves both models and all corruptions.
    A resample without a slope (a model with no clean example right, a reference that never drops) is dropped; when that
    leaves half of them or less, the interval is (-inf, inf): the sample says nothing.
    Raises EmptySample, ZeroClean or UndefinedSlope when the sample itself has no slope.
    """
    _check_outcomes(clean_correct, reference_clean_correct, dimensions=1)
    _check_outcomes(corrupted_correct, reference_corrupted_correct, dimensions=2)
    model = np.vstack([clean_correct, corrupted_correct])
    reference = np.vstack([reference_clean_correct, reference_corrupted_correct])
    if not (model[0].any() and reference[0].any()):
        raise ZeroClean("A slope needs two models that each have a clean example right.")
    model_drops, reference_drops = _drops(model.sum(axis=1)), _drops(reference.sum(axis=1))
    slope(reference_drops, model_drops)

    rng = np.random.Generator(np.random.Philox(seed))
    right = np.vstack([model, reference]).T.astype(np.float32)
    counts = np.vstack([weights @ right for weights in _resampled_weights(len(right), resamples, rng)])
    over_examples = _slopes(_drops(counts[:, len(model) :]), _drops(counts[:, : len(model)]))
    examples = _percentile_interval(over_examples, level)
    corruptions = len(model_drops)
    if corruptions < 3:
        return SlopeIntervals(examples, None)
    drawn = rng.integers(0, corruptions, (resamples, corruptions))
    over_corruptions = _slopes(reference_drops[drawn], model_drops[drawn])
    return SlopeIntervals(examples, _percentile_interval(over_corruptions, level))


def gap_closed(method: float, self_supervised: float, supervised: float) -> float:
    """Share of the way from the self-supervised to the supervised model that a method covers; 1 is all of it.

    method, self_supervised, supervised: unrounded attacked accuracies. Beyond [0, 1] for methods outside the two.
    Raises ZeroBase when the two are equal. Source: the up-arrows of the paper's Table 4, see `gap_closed_printed`.
    """
    if supervised == self_supervised:
        raise ZeroBase("There is no gap to close between two equal numbers.")
    return (method - self_supervised) / (supervised - self_supervised)


def gap_closed_printed(method_drop: float, self_supervised_drop: float, supervised_drop: float) -> float:
    """`gap_closed` as the paper's Table 4 computes it: from relative drops rounded to whole percentages first.

    With a gap of 7 points of drop, one unit of rounding is 14 points of this. Raises ZeroBase as `gap_closed` does.
    """
    return gap_closed(*map(_whole_percent, (method_drop, self_supervised_drop, supervised_drop)))


def gain(method: float, base: float) -> float:
    """Relative improvement of a method's attacked accuracy over a base method's: 0.05 is 5 % better.

    Raises ZeroBase when ``base`` is 0. Source: the up-arrows of the paper's Table 5.
    """
    if base == 0:
        raise ZeroBase("A gain needs a base accuracy above 0.")
    return (method - base) / base


def worst_case(correct: Bools) -> Bools:
    """Which examples are right under every one of the attacks.

    correct: (attacks, n) bool; returns (n,) bool. Raises EmptySample without an attack or an example.
    """
    _check_outcomes(correct, dimensions=2)
    return np.asarray(correct.all(axis=0))


# Doubles of memory for one block of resamples: about 50 MB, whatever the number of examples.
_BLOCK = 2**21


def _check_outcomes(*arrays: Bools, dimensions: int) -> None:
    for array in arrays:
        if array.dtype != np.bool_ or array.ndim != dimensions or array.shape != arrays[0].shape:
            raise ValueError(
                f"Outcomes are bool arrays of one shape with {dimensions} dimension(s), not {array.dtype}{array.shape}."
            )
        if array.size == 0:
            raise EmptySample("There is no outcome to count.")


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"A confidence level lies between 0 and 1, unlike {level}.")
    return (1 - level) / 2


def _z(level: float) -> float:
    return NormalDist().inv_cdf(1 - _tail(level))


def _wilson(successes: Numbers, n: Numbers, z: Numbers) -> tuple[Floats, Floats]:
    """Low and high ends of the corrected Wilson interval, broadcast; n > 0."""
    return _wilson_low(successes, n, z), 1 - _wilson_low(n - successes, n, z)


def _wilson_low(successes: Numbers, n: Numbers, z: Numbers) -> Floats:
    # The formula holds from one success on, where the root's argument is at least z * z + 1.
    x = np.maximum(successes, 1)
    root = np.sqrt(z * z - 2 - 1 / n + 4 * x / n * (n - x + 1))
    return np.where(successes > 0, (2 * x + z * z - 1 - z * root) / (2 * (n + z * z)), 0.0)


def _whole_percent(drop: float) -> int:
    # 9 decimals forget the error of binary fractions (0.285 * 100 is 28.499999999999996) and nothing else.
    return math.floor(round(100 * drop, 9) + 0.5)


def _drops(right: Numbers) -> Floats:
    """(..., 1 + corruptions) counts of right examples, clean first, to (..., corruptions) drops; nan without clean."""
    clean, corrupted = right[..., :1].astype(np.float64), right[..., 1:]
    return 1 - corrupted / np.where(clean > 0, clean, np.nan)


def _slopes(reference: Floats, model: Floats) -> Floats:
    """(..., corruptions) drops to (...) slopes through the origin; nan where there is none."""
    squares = (reference * reference).sum(axis=-1)
    slopes: Floats = (reference * model).sum(axis=-1) / np.where(squares > 0, squares, np.nan)
    return slopes


def _resampled_weights(n: int, resamples: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.float32]]:
    """How often each of n examples is drawn in each resample, in blocks (rows, n) of bounded memory."""
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = rng.integers(0, n, (block, n)) + n * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n).astype(np.float32)


def _percentile_interval(resampled: Floats, level: float) -> Interval:
    defined = resampled[np.isfinite(resampled)]
    if 2 * defined.size <= resampled.size:
        return Interval(-math.inf, math.inf)
    tail = _tail(level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))
