"""Passes that attacks made: totals of a part, and means per example."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from robharness.planning.files import json_value


class Passes(NamedTuple):
    """Passes per example that an attack made, on average, without the one that judges the example.

    forwards: forward passes alone.
    gradients: passes that gave a gradient, each one forward and one backward pass.
    """

    forwards: float
    gradients: float


@dataclass(frozen=True, kw_only=True)
class PassTotals:
    """Rows that an attack requested from its model for stored examples, without padding and without the judging passes.

    Values at the clean input that all cells share count as in `Cost`: logits and features for no cell, and a gradient
    once for each cell that uses it. A number does therefore not depend on the cells that are computed together.

    examples: the number of examples, attacked or not.
    attacked: the number of examples that were attacked for this cell.
    forwards: rows of forward passes alone.
    gradients: rows of passes that gave a gradient.
    """

    examples: float
    attacked: float
    forwards: float
    gradients: float

    def __add__(self, other: PassTotals) -> PassTotals:
        return PassTotals(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def scaled(self, share: float) -> PassTotals:
        """Return the expected totals of a share of the examples, from 0 to 1."""
        return self if share == 1 else PassTotals(**{name: share * value for name, value in asdict(self).items()})

    @property
    def per_attacked(self) -> Passes | None:
        """The mean per example that was attacked; None without any."""
        return Passes(self.forwards / self.attacked, self.gradients / self.attacked) if self.attacked else None

    @property
    def per_example(self) -> Passes | None:
        """The mean per example, attacked or not; None without any."""
        return Passes(self.forwards / self.examples, self.gradients / self.examples) if self.examples else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> PassTotals:
        """Parse totals. Raises ValueError for anything else."""
        found = json_value(text)
        if not isinstance(found, dict) or not all(_is_total(found.get(each.name)) for each in fields(cls)):
            raise ValueError("its passes have another form")
        return cls(**{each.name: found[each.name] for each in fields(cls)})


def _is_total(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def total(some: PassTotals | None, more: PassTotals | None) -> PassTotals | None:
    """Return the sum of totals that are known; None if none is."""
    return some + more if some and more else some or more
