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


@dataclass(frozen=True, kw_only=True)
class FrostParams(CorruptionParams):
    """What frost may be told beside.

    compat: the suite's, unless it is given. `imagenet-c` draws from five photos of ice, as the published files do,
    where `imagecorruptions` draws from all six.
    """

    compat: Literal["none", "imagenet-c"] = "none"
