"""Options of the corruptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CorruptionParams:
    """Options that all corruptions share.

    constants: "imagenet" for the numbers of ImageNet-C, or "cifar" for those of CIFAR-10-C, which was made for 32 x 32
        pixels and has other steps in five corruptions. None for "cifar" if the shorter side of an image is below 64
        pixels, else "imagenet".
    """

    constants: Literal["imagenet", "cifar"] | None = None


@dataclass(frozen=True, kw_only=True)
class FrostParams(CorruptionParams):
    """Options of frost.

    compat: by default that of the suite. "imagenet-c" draws from five photos of ice, as in the published files, and
        "none" from all six, as in `imagecorruptions`.
    """

    compat: Literal["none", "imagenet-c"] = "none"
