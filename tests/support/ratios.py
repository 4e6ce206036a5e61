"""Ratios that benches print, and record with their spread for `robharness check --benchmark`."""

from robharness.statistics import median_ratio, minimum_ratio

_OF = {"median": median_ratio, "minimum": minimum_ratio}


def record(benchmark, name, above, below, *, statistic="median", better="lower"):
    """Record the ratio of two lists of seconds in the file of `pytest --benchmark-json`; print and return it.

    statistic: "median" or "minimum", of each list.
    better: "lower" or "higher", the direction that is an improvement.
    """
    ratio, (low, high) = _OF[statistic](above, below)
    print(f"{name:60} {ratio:.3f} (spread {low:.3f} to {high:.3f})")
    benchmark.extra_info[name] = {"ratio": ratio, "low": low, "high": high, "better": better}
    return ratio
