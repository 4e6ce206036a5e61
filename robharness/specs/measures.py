"""Measures of the size of perturbations: norms, and measures that plugins declare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from robharness.specs.checks import Record
from robharness.specs.lazy import LazyFunction
from robharness.specs.types import Norm
from robharness.text import sized

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Measure(Record):
    """The measure of a threat model: the size of a perturbation, which a budget bounds.

    name: name in suites' cells and in reports, e.g. "patch". Measures of one name are one function.
    unit: plural noun after budgets and sizes, e.g. "pixels", without its s after 1; empty if sizes have no unit.
    distance: (clean, perturbed) -> sizes, (N,) float64, at least 0, and inf for an input that no budget allows. Both
        arguments are (N, *shape) in [0, 1], of the model's floating-point type and device.
    is_count: whether sizes are whole numbers. A budget then is one as well, and bounds the size without a tolerance.
    is_batched: whether the bits of a size do not depend on N. If not, `distance` is called for one example at a time.
    slack: tolerance of a size that is no count, relative to the budget.
    absolute_slack: further tolerance, in the unit of sizes.
    largest: (shape) -> the largest size between two inputs, or None if it is not known. A larger budget is a mistake.
    grows: whether the same budget is a smaller change, per pixel, of a larger input.
    typical: a usual budget for images, as in a suite.
    """

    name: str
    unit: str = ""
    distance: Callable[[Tensor, Tensor], Tensor | np.ndarray] | str
    is_count: bool = False
    is_batched: bool = False
    slack: float = 1e-4
    absolute_slack: float = 0.0
    largest: Callable[[Shape], float | None] | None = None
    grows: bool = False
    typical: str = field(default="1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "/" in self.name:
            raise ValueError(f"Measure: name={self.name!r} must have no slash")

    @property
    def function(self) -> object:
        """The function behind `distance`, without its options; measures of one name have the same one."""
        found: Any = self.distance
        while isinstance(found, partial):
            found = found.func
        if isinstance(found, LazyFunction):
            return found.target
        named = found if hasattr(found, "__qualname__") else type(found)
        is_local = "<" in named.__qualname__  # as of a lambda: the code is one, whoever makes the function
        return getattr(found, "__code__", found) if is_local else f"{named.__module__}:{named.__qualname__}"

    def allowed(self, eps: float) -> float:
        """Return the largest size that a budget allows."""
        return eps if self.is_count else eps * (1 + self.slack) + self.absolute_slack

    def sized(self, size: object) -> str:
        """Return a size or a budget with its unit, e.g. "25 pixels"."""
        return sized(size, self.unit)


def _norm(name: Norm, **fields: object) -> Measure:
    distance = f"robharness.evaluation.distances:{name.replace('-', '_')}"
    return Measure(name=name, distance=distance, is_batched=True, **fields)  # type: ignore[arg-type]


NORMS: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        # a float32 clamp to x + eps exceeds eps by at most 1.5e-8 (measured on attacks in use)
        _norm("linf", slack=0.0, absolute_slack=1e-6, largest=lambda shape: 1, typical="8/255"),
        # float32 projections accumulate rounding over all pixels
        _norm("l2", largest=lambda shape: math.sqrt(math.prod(shape)), grows=True, typical="0.5"),
        _norm("l1", largest=math.prod, grows=True, typical="10"),
        _norm("l0", unit="values", is_count=True, largest=math.prod, grows=True, typical="100"),
        _norm(
            "l0-pixels", unit="pixels", is_count=True, largest=lambda shape: math.prod(shape[1:]), grows=True,
            typical="25",
        ),
    )
}  # fmt: skip
"""The measures that a threat model names by a norm, in the order of reports."""
assert tuple(NORMS) == get_args(Norm)
