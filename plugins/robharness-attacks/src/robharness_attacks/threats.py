"""Threat models that are no balls in a norm. This module does not import torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from robharness import Measure

if TYPE_CHECKING:
    from torch import Tensor

LATTICE = 5
"""Shifts are multiples of this many degrees of the budget, angles of one degree."""
LARGEST = 60
"""Largest rotation, in degrees, and largest shift, in the same unit."""
DEGREES_PER_PIXEL = 10
"""The usual price of a shift by one pixel; a measure with another price has another name, since it is another one."""

PATCH = Measure(
    name="patch",
    unit="pixels",
    distance="robharness_attacks.patch:area",
    is_count=True,
    is_batched=True,
    grows=True,
    typical="25",
)
"""Number of pixels of the smallest square that holds all changed pixels."""


def rotation_translation(degrees_per_pixel: float) -> Measure:
    """Return the measure of rotations and translations: the smallest magnitude that gives the perturbed input.

    degrees_per_pixel: degrees of the budget that a shift by one pixel takes.
    """
    name = "rotation-translation"
    return Measure(
        name=name if degrees_per_pixel == DEGREES_PER_PIXEL else f"{name}-{degrees_per_pixel:g}",
        unit="degrees",
        distance=partial(_magnitude, degrees_per_pixel=degrees_per_pixel),
        slack=0.0,
        largest=lambda shape: LARGEST,
        typical="30",
    )


def _magnitude(clean: Tensor, perturbed: Tensor, *, degrees_per_pixel: float) -> Tensor:
    from robharness_attacks.spatial import magnitude

    return magnitude(clean, perturbed, degrees_per_pixel)
