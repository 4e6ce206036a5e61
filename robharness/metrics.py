"""The numbers of a report, as pure functions over outcomes: accuracy, drop, slope, mCE, gap closed, gain, intervals."""

import itertools
import math
from collections.abc import Iterator, Sequence
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


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation (n - 1), None of a single value. Raises EmptySample without any."""
    if not len(values):
        raise EmptySample("no values")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


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
    """The slopes with one corruption left out, each in turn: how much the slope owes to a single one.

    reference_drops, model_drops: (drops,) as for `slope`, which also says what is raised. corruption: (drops,) int, the
    number from 0 of the corruption that a drop is of; each is one by itself if not given, and all severities of a
    corruption go together. Returns (corruptions,), nan where the reference never drops in what is left.
    """
    slope(reference_drops, model_drops)
    squares, products = _sums(*_as_drops(reference_drops, model_drops), corruption)
    others = 1 - np.eye(len(squares))
    return _ratio(others @ products, others @ squares)


def slope_intervals(
    clean_correct: Bools,
    corrupted_correct: Bools,
    reference_clean_correct: Bools,
    reference_corrupted_correct: Bools,
    *,
    corruption: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> SlopeIntervals:
    """Percentile bootstrap intervals of `slope`, over the examples and over the corruptions.

    clean_correct, reference_clean_correct: (n,) bool; corrupted_correct, reference_corrupted_correct: (drops, n) bool;
    the same examples in all four. One resample of the examples serves both models and all corruptions.
    corruption: (drops,) int, as in `slopes_without_each`.
    Raises EmptySample, ZeroClean or UndefinedSlope when the sample itself has no slope.
    """
    _check_outcomes(clean_correct, reference_clean_correct, dimensions=1)
    _check_outcomes(corrupted_correct, reference_corrupted_correct, dimensions=2)
    model = np.vstack([clean_correct, corrupted_correct])
    reference = np.vstack([reference_clean_correct, reference_corrupted_correct])
    both = resampled_accuracies(np.vstack([reference, model]), resamples=resamples, seed=seed)
    return SlopeIntervals(
        slope_interval(both[:, : len(reference)], both[:, len(reference) :], level),
        slope_interval_over_corruptions(
            relative_drops(reference.mean(axis=1)),
            relative_drops(model.mean(axis=1)),
            corruption,
            resamples=resamples,
            seed=seed,
            level=level,
        ),
    )


def relative_drops(accuracies: Floats) -> Floats:
    """(..., 1 + corruptions) accuracies, the clean one first, to (..., corruptions) drops.

    Raises ZeroClean where no clean accuracy at all is above 0; where only some are not, their drops are nan.
    """
    clean, corrupted = accuracies[..., :1], accuracies[..., 1:]
    if not (clean > 0).any():
        raise ZeroClean("Relative drops need a clean accuracy above 0.")
    drops: Floats = 1 - corrupted / np.where(clean > 0, clean, np.nan)
    return drops


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

    The severities of a corruption are drawn together: they tell less of other corruptions than as many others would.
    Arguments and errors as in `slopes_without_each`.
    """
    slope(reference_drops, model_drops)
    squares, products = _sums(*_as_drops(reference_drops, model_drops), corruption)
    if len(squares) < 3:
        return None
    drawn = np.random.Generator(np.random.Philox(seed)).integers(0, len(squares), (resamples, len(squares)))
    return percentile_interval(_ratio(products[drawn].sum(axis=1), squares[drawn].sum(axis=1)), level)


def resampled_accuracies(correct: Bools, *, resamples: int = 2000, seed: int = 0) -> Floats:
    """The accuracy of each row in each bootstrap resample of the examples, the same resample for all rows.

    correct: (rows, n) bool; returns (resamples, rows). What is drawn depends on n and the seed alone, so rows of
    several calls belong together. Raises EmptySample without any outcome.
    """
    _check_outcomes(correct, dimensions=2)
    n = correct.shape[1]
    right = np.ascontiguousarray(correct.T, dtype=np.float32)
    rng = np.random.Generator(np.random.Philox(seed))
    counts = np.vstack([weights @ right for weights in _resampled_weights(n, resamples, rng)])
    accuracies: Floats = counts.astype(np.float64) / n
    return accuracies


def percentile_interval(resampled: Floats, level: float = 0.95) -> Interval:
    """Between the percentiles of a number over resamples, (resamples,), of which some may be nan.

    When half of them or more are, the interval is (-inf, inf): the sample says nothing.
    """
    defined = resampled[np.isfinite(resampled)]
    if 2 * defined.size <= resampled.size:
        return Interval(-math.inf, math.inf)
    tail = _tail(level)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high))


def corruption_errors(errors: npt.ArrayLike, baseline: npt.ArrayLike) -> Floats:
    """CE of each corruption: a model's error relative to a baseline's; 1 is as many errors. Their mean is the mCE.

    errors, baseline: (..., corruptions) error rates, means over the same severities (of published tables: all five).
    Returns (..., corruptions), nan where the baseline is never wrong.
    Source: Hendrycks and Dietterich 2019, section 4, where sums over the severities stand for the means.
    """
    return _ratio(np.asarray(errors, dtype=np.float64), np.asarray(baseline, dtype=np.float64))


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


def gap_closed(method: float, self_supervised: float, supervised: float) -> float:
    """Share of the way from the self-supervised to the supervised model that a method covers; 1 is all of it.

    method, self_supervised, supervised: unrounded attacked accuracies. Beyond [0, 1] for methods outside the two.
    Raises ZeroBase when the two are equal. Source: the up-arrows of the paper's Table 4, see `gap_closed_printed`.
    """
    if supervised == self_supervised:
        raise ZeroBase("There is no gap to close between two equal numbers.")
    return (method - self_supervised) / (supervised - self_supervised)


def gap_closed_interval(
    method: npt.ArrayLike,
    self_supervised: npt.ArrayLike,
    supervised: npt.ArrayLike,
    *,
    paired: bool,
    level: float = 0.95,
) -> Interval:
    """Interval for `gap_closed` of means, (-inf, inf) where the gap itself may well be none.

    method, self_supervised, supervised: (n,) each. paired: outcomes of the same n examples under three models, or else
    attacked accuracies of independent runs, as many of each as there are, two at least.
    Raises EmptySample for fewer, and where runs of one kind do not differ: those say nothing of how they would.
    Source: Fieller 1954, the ratio g for which method - self - g (supervised - self) is not surely other than 0, with
    Student's t; its degrees of freedom are Satterthwaite's (1946) at the estimate. Of outcomes the variances are those
    with one more example of every kind, as Agresti and Min (2005) have it: few may have no variance by chance.
    """
    samples = [np.asarray(values, dtype=np.float64) for values in (method, self_supervised, supervised)]
    if min(map(len, samples)) < 2 or (not paired and min(map(np.ptp, samples)) == 0):
        raise EmptySample("An interval for a gap needs two examples, or two runs of each kind that differ.")
    means = np.array([values.mean() for values in samples])
    if paired:
        kinds = np.array(list(itertools.product((0.0, 1.0), repeat=3))).T
        covariance = np.cov(np.hstack([samples, kinds])) / len(samples[0])
    else:
        covariance = np.diag([values.var(ddof=1) / len(values) for values in samples])
    way, gap = np.array([1, -1, 0]), np.array([0, -1, 1])
    freedom = float(len(samples[0]) - 1)
    if not paired and means @ gap:
        parts = np.diag(covariance) * (way - means @ way / (means @ gap) * gap) ** 2
        terms = parts**2 / [len(values) - 1 for values in samples]
        freedom = float(parts.sum() ** 2 / terms.sum()) if terms.sum() else math.inf
    t = _t(level, freedom)
    a = (means @ gap) ** 2 - t**2 * (gap @ covariance @ gap)
    b = (means @ way) * (means @ gap) - t**2 * (way @ covariance @ gap)
    c = (means @ way) ** 2 - t**2 * (way @ covariance @ way)
    if a <= 0:
        return Interval(-math.inf, math.inf)
    root = math.sqrt(max(0.0, b**2 - a * c))
    return Interval(float((b - root) / a), float((b + root) / a))


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


def _t(level: float, freedom: float) -> float:
    """Student's t that both tails beyond have 1 - level of: with t = sqrt(freedom) tan(a), a's density is a power of
    cos(a)."""
    if freedom > 1e6:
        return _z(level)
    angles = np.linspace(-math.pi / 2, math.pi / 2, 2**16 + 1)
    mass = np.cumsum(np.cos((angles[1:] + angles[:-1]) / 2) ** (freedom - 1))
    angle = np.interp(1 - _tail(level), mass / mass[-1], angles[1:])
    return math.sqrt(freedom) * math.tan(angle)


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


def _as_drops(reference: npt.ArrayLike, model: npt.ArrayLike) -> tuple[Floats, Floats]:
    return np.asarray(reference, dtype=np.float64), np.asarray(model, dtype=np.float64)


def _slopes(reference: Floats, model: Floats) -> Floats:
    """(..., drops) to (...) slopes through the origin; nan where there is none."""
    return _ratio((reference * model).sum(axis=-1), (reference * reference).sum(axis=-1))


def _sums(reference: Floats, model: Floats, corruption: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """Of each corruption, (corruptions,): the reference's squared drops, and its drops times the model's."""
    which = np.arange(len(reference)) if corruption is None else np.asarray(corruption)
    squares, products = np.bincount(which, reference * reference), np.bincount(which, reference * model)
    return squares.astype(np.float64), products.astype(np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    """nan where what is below is not above 0."""
    ratio: Floats = above / np.where(below > 0, below, np.nan)
    return ratio


def _resampled_weights(n: int, resamples: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.float32]]:
    """How often each of n examples is drawn in each resample, in blocks (rows, n) of bounded memory."""
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        drawn = rng.integers(0, n, (block, n)) + n * np.arange(block)[:, None]
        yield np.bincount(drawn.ravel(), minlength=block * n).reshape(block, n).astype(np.float32)
