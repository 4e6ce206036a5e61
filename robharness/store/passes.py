"""Passes that attacks made: totals of a part, and means per example."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from robharness.planning.files import json_value


@dataclass(frozen=True)
class Passes:
    """Passes that an attack made, without those that judge: of one example each.

    They are a mean per example, or all passes of a fit.

    forwards: forward passes alone.
    gradients: passes that gave a gradient, each one forward and one backward pass.
    """

    forwards: float
    gradients: float

    @property
    def total(self) -> float:
        """The number of forward and backward passes."""
        return self.forwards + 2 * self.gradients


@dataclass(frozen=True, kw_only=True)
class PassTotals:
    """Rows that an attack requested from its model for stored examples, without padding and without the judging passes.

    Values at the clean input that all cells share count as in `Cost`: logits and features for no cell, and a gradient
    once for each cell that uses it. A number does therefore not depend on the cells that are computed together. A row
    that several surrogates see together counts once for each of them.

    examples: the number of examples, attacked or not.
    attacked: the number of examples that were attacked for this cell.
    forwards: rows of forward passes alone.
    gradients: rows of passes that gave a gradient.
    fit_forwards, fit_gradients: rows of the fit of an attack; the same ones for all examples of a cell, so that they
        count once however many parts and processes repeat the fit. 0 if the attack is not fitted, and in parts of
        earlier versions. Of fits on inputs of several shapes, the largest counts.
    """

    examples: float
    attacked: float
    forwards: float
    gradients: float
    fit_forwards: float = 0
    fit_gradients: float = 0

    def __add__(self, other: PassTotals) -> PassTotals:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return PassTotals(**sums, **{name: max(getattr(self, name), getattr(other, name)) for name in _ONCE})

    def scaled(self, share: float) -> PassTotals:
        """Return the expected totals of a share of the examples, from 0 to 1."""
        return replace(self, **{name: share * getattr(self, name) for name in _SUMMED}) if share != 1 else self

    @property
    def per_attacked(self) -> Passes | None:
        """The mean per example that was attacked; None without any."""
        return Passes(self.forwards / self.attacked, self.gradients / self.attacked) if self.attacked else None

    @property
    def per_example(self) -> Passes | None:
        """The mean per example, attacked or not; None without any."""
        return Passes(self.forwards / self.examples, self.gradients / self.examples) if self.examples else None

    @property
    def fit(self) -> Passes | None:
        """The passes of the fit, in all; None if there was no fit, or none is known."""
        return Passes(self.fit_forwards, self.fit_gradients) if self.fit_forwards or self.fit_gradients else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> PassTotals:
        """Parse totals. Raises ValueError for anything else."""
        found = json_value(text)
        names = [*_SUMMED, *(name for name in _ONCE if isinstance(found, dict) and name in found)]
        if not isinstance(found, dict) or not all(_is_total(found.get(name)) for name in names):
            raise ValueError("its passes have another form")
        return cls(**{name: found[name] for name in names})


_SUMMED = ("examples", "attacked", "forwards", "gradients")
_ONCE = ("fit_forwards", "fit_gradients")
"""The totals that add up over examples, and those that all examples share."""


def _is_total(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def total(some: PassTotals | None, more: PassTotals | None) -> PassTotals | None:
    """Return the sum of totals that are known; None if none is."""
    return some + more if some and more else some or more
