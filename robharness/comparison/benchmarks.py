"""Ratios of benchmarks, from a file of pytest-benchmark, and verdicts on them against those of a baseline.

Seconds of two machines are never compared: a ratio has both of its timings from one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from robharness import statistics
from robharness.comparison.records import BenchmarkCheck, Better, Ratio, Verdict
from robharness.errors import UserError, as_path, for_shell, nearest_existing
from robharness.planning.files import json_object
from robharness.reading import read_regular
from robharness.statistics import Interval
from robharness.text import printable

TOLERANCE = 10
"""The percentage by which a ratio may become worse beyond both spreads unless another is given."""
MIN_ROUNDS = 5
"""The smallest number of rounds of a benchmark that is compared within its group; pytest-benchmark makes 5 or more."""
LARGEST_FILE = 2**28
"""Size, in bytes, of the largest file that is read."""
MOST_RATIOS = 10_000
"""The largest number of ratios of a file."""
RECORD = "pytest --benchmark-only --benchmark-json=benchmarks.json"

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class _Stats:
    """The timings of a benchmark in seconds, as pytest-benchmark writes them."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    min: _Seconds
    max: _Seconds
    median: _Seconds
    q1: _Seconds
    q3: _Seconds
    rounds: Annotated[int, Field(gt=0)]
    data: Annotated[list[_Seconds], Field(min_length=1)] | None = None

    @property
    def can_be_compared(self) -> bool:
        """Whether there are enough rounds, and none was too short for the clock."""
        return self.rounds >= MIN_ROUNDS and min([self.min, *(self.data or ())]) > 0


@dataclass(frozen=True, kw_only=True)
class _Benchmark:
    __pydantic_config__ = ConfigDict(extra="ignore")

    fullname: str
    group: str | None = None
    extra_info: dict[str, Any] = field(default_factory=dict)
    stats: _Stats

    @property
    def is_reference(self) -> bool:
        return self.extra_info.get("reference") is True

    @property
    def name(self) -> str:
        """The name without its file."""
        return self.fullname.rpartition("::")[2]


@dataclass(frozen=True, kw_only=True)
class RecordedRatio:
    """A ratio as a benchmark records it in its `extra_info`, and as a baseline holds it.

    low, high: its spread; by default the ratio itself.
    better: the direction that is an improvement.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ratio: _Positive
    low: _Positive | None = None
    high: _Positive | None = None
    better: Better = "lower"

    def as_ratio(self) -> Ratio:
        """Return the ratio. Raises ValueError if it is not in its spread."""
        low, high = (self.ratio if bound is None else bound for bound in (self.low, self.high))
        return Ratio(ratio=self.ratio, spread=Interval(low, high), better=self.better)


@dataclass(frozen=True, kw_only=True)
class _File:
    __pydantic_config__ = ConfigDict(extra="ignore")

    benchmarks: list[_Benchmark]


def read_ratios(file: str | Path) -> dict[str, Ratio]:
    """Read the ratios of a file that `pytest --benchmark-json=FILE` wrote, by their names.

    They are those that benchmarks recorded in `extra_info`, as mappings with "ratio", and those of each benchmark of a
    group to the reference of the group: the first with `extra_info["reference"] = True`, else the first of all.
    Raises UserError, with the reason and the next command, for a file that cannot be read or has no ratio.
    """
    path = as_path(file, "`benchmark` is the path of a file", 'benchmark="benchmarks.json"')
    cannot = f"the benchmarks {printable(path)} cannot be read"
    try:
        found = _parse(read_regular(path, LARGEST_FILE))
    except OSError as error:
        place = for_shell(nearest_existing(path))
        raise UserError(f"{cannot}: {error.strerror}. Try: ls -ld {place}") from None
    except ValueError as error:
        raise UserError(f"{cannot}: {error}. To write it: {RECORD}") from None
    if not found:
        raise UserError(
            f"the benchmarks {printable(path)} have no ratio: none is recorded in `extra_info`, and no group has two "
            f"benchmarks of {MIN_ROUNDS} rounds or more. To write it: {RECORD}"
        )
    return found


def ratios_of(records: Mapping[str, RecordedRatio]) -> dict[str, Ratio]:
    """Return the ratios of records by their names. Raises ValueError, with the name, for one outside its spread."""
    found = {}
    for name, record in records.items():
        try:
            found[name] = record.as_ratio()
        except ValueError as error:
            raise ValueError(f"the ratio '{printable(name)}': {error}") from None
    return found


def ratio_records(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    """Return ratios as plain data, sorted by their names."""
    return {
        name: {"ratio": each.ratio, "low": each.spread.low, "high": each.spread.high, "better": each.better}
        for name, each in sorted(ratios.items())
    }


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


# --- the file ------------------------------------------------------------------------------------------------------


def _parse(content: bytes) -> dict[str, Ratio]:
    """Return the ratios of a file by their names. Raises ValueError, with the reason."""
    record = json_object(content)
    if "benchmarks" not in record:
        raise ValueError("it is no file of pytest-benchmark, since it has no `benchmarks`")
    try:
        file = _adapter(_File).validate_python(record)
    except ValidationError as error:
        raise ValueError(_first(error)) from None
    found: dict[str, Ratio] = {}
    for name, ratio in (*_recorded(file.benchmarks), *_within_groups(file.benchmarks)):
        if name in found:
            raise ValueError(f"it has two ratios of the name '{printable(name)}'")
        found[name] = ratio
    if len(found) > MOST_RATIOS:
        raise ValueError(f"it has more than {MOST_RATIOS} ratios")
    return found


def _recorded(benchmarks: list[_Benchmark]) -> Iterator[tuple[str, Ratio]]:
    """Yield the ratios that benchmarks recorded."""
    for benchmark in benchmarks:
        for key, value in benchmark.extra_info.items():
            if isinstance(value, dict) and "ratio" in value:
                try:
                    yield f"{benchmark.fullname}: {key}", _adapter(RecordedRatio).validate_python(value).as_ratio()
                except ValueError as error:
                    reason = _first(error) if isinstance(error, ValidationError) else str(error)
                    raise ValueError(f"the ratio '{printable(key)}' of {printable(benchmark.name)}: {reason}") from None


def _within_groups(benchmarks: list[_Benchmark]) -> Iterator[tuple[str, Ratio]]:
    """Yield the ratios of benchmarks to the reference of their group, of their medians and of their minima."""
    groups: dict[str, list[_Benchmark]] = {}
    for benchmark in benchmarks:
        if benchmark.group is not None and benchmark.stats.can_be_compared:
            groups.setdefault(benchmark.group, []).append(benchmark)
    for group in groups.values():
        reference = next((each for each in group if each.is_reference), group[0])
        for benchmark in group:
            if benchmark is not reference:
                name = f"{benchmark.fullname} / {reference.name}"
                for statistic, (ratio, spread) in _ratios(benchmark.stats, reference.stats):
                    try:
                        yield f"{name}, {statistic}", Ratio(ratio=ratio, spread=spread)
                    except ValueError:
                        raise ValueError(f"the timings of {printable(name)} contradict each other") from None


def _ratios(stats: _Stats, reference: _Stats) -> Iterator[tuple[str, statistics.RatioWithSpread]]:
    """Yield the ratios of medians and of minima by the names of the statistics.

    Files of `--benchmark-save` have the timings of the rounds only with `--benchmark-save-data`.
    """
    if stats.data and reference.data:
        above, below = np.array(stats.data), np.array(reference.data)
        yield "median", statistics.median_ratio(above, below)
        yield "minimum", statistics.minimum_ratio(above, below)
        return
    (low, high), (low_reference, high_reference) = _notch(stats), _notch(reference)
    between = Interval(low / high_reference, high / low_reference)
    yield "median", statistics.RatioWithSpread(stats.median / reference.median, between)
    between = Interval(stats.min / reference.q1, stats.q1 / reference.min)
    yield "minimum", statistics.RatioWithSpread(stats.min / reference.min, between)


def _notch(stats: _Stats) -> Interval:
    """Return the interval of a median from its quartiles, within the range.

    Source: McGill, Tukey and Larsen, Variations of Box Plots, 1978, with 1.57 for 95 % and 1.8 for 97.5 %.
    """
    half = 1.8 * (stats.q3 - stats.q1) / stats.rounds**0.5
    return Interval(max(stats.median - half, stats.min), min(stats.median + half, stats.max))


def _first(error: ValidationError) -> str:
    """Return the place and the reason of the first error."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(printable, first["loc"])), printable(first["msg"]))))


@cache
def _adapter(record: type) -> TypeAdapter[Any]:
    return TypeAdapter(record)
