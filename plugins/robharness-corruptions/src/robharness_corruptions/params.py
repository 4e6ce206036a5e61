"""What a suite may tell a corruption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CorruptionParams:
    """What all corruptions may be told.

    constants: those of ImageNet-C, or those of CIFAR-10-C, which was made for 32 x 32 pixels with numbers, and in five
    corruptions with steps, of its own. By default CIFAR's for pictures whose shorter side is below 64 pixels.
    """

    constants: Literal["imagenet", "cifar"] | None = None
