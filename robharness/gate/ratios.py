"""Verdicts on ratios of benchmarks against those of a baseline."""

from __future__ import annotations

from collections.abc import Mapping

from robharness.comparison.ratios import Ratio
from robharness.gate.records import BenchmarkCheck, Verdict

TOLERANCE = 10
"""The percentage by which a ratio may become worse beyond both spreads unless another is given."""


def check_ratios(
    before: Mapping[str, Ratio], after: Mapping[str, Ratio], tolerance: float = TOLERANCE
) -> tuple[BenchmarkCheck, ...]:
    """Return a verdict on each ratio.

    A ratio regresses if its whole spread is worse than the whole spread of the baseline by more than the tolerance.
    before: of the baseline.
    after: of the present run.
    tolerance: a percentage; with 10, a ratio of 2.0 without any spread may rise to 2.2.
    """
    return tuple(
        _check(name, before.get(name), after.get(name), tolerance / 100) for name in dict.fromkeys([*after, *before])
    )


def _check(name: str, before: Ratio | None, after: Ratio | None, tolerance: float) -> BenchmarkCheck:
    verdict, reason = _verdict(before, after, tolerance)
    return BenchmarkCheck(
        name=name,
        verdict=verdict,
        reason=reason,
        before=before.ratio if before else None,
        spread_before=before.spread if before else None,
        after=after.ratio if after else None,
        spread_after=after.spread if after else None,
    )


def _verdict(before: Ratio | None, after: Ratio | None, tolerance: float) -> tuple[Verdict, str]:
    if after is None:
        return "missing", "not in the file of benchmarks"
    if before is None:
        return "new", "not in the baseline"
    if before.better != after.better:
        return "incompatible", f"in the baseline, a {before.better} ratio is better"
    is_above = after.spread.low > before.spread.high * (1 + tolerance)
    is_below = after.spread.high * (1 + tolerance) < before.spread.low
    if not (is_above or is_below):
        return "passed", ""
    change = f"it {'rose' if is_above else 'fell'} from {_shown(before)} to {_shown(after)}"
    return "regressed" if is_above == (after.better == "lower") else "improved", change


def _shown(ratio: Ratio) -> str:
    return f"{ratio.ratio:.4g} (spread {ratio.spread.low:.4g} to {ratio.spread.high:.4g})"
