"""Ratios of timings, and their form in files: a baseline holds those of the benchmarks that it was made with.

Seconds of two machines are never compared: a ratio has both of its timings from one run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from robharness.statistics import Interval
from robharness.text import printable

Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of timings that a benchmark measured within one run.

    spread: of the ratio within this run; it contains the ratio.
    better: the direction that is an improvement.
    Raises ValueError for a ratio that is not positive, or outside its spread.
    """

    ratio: float
    spread: Interval
    better: Better = "lower"

    def __post_init__(self) -> None:
        if not (0 < self.spread.low <= self.ratio <= self.spread.high < math.inf):
            raise ValueError("it is not positive, or not between `low` and `high`")


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
