"""The 15 common corruptions of ImageNet-C (Hendrycks and Dietterich, 2019), rendered while the suite runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from robharness import CorruptionSpec, hookimpl

if TYPE_CHECKING:
    from robharness import Corruption

# The names are those of `imagecorruptions`. The groups are the paper's (Table 6): ImageNet-C and `imagecorruptions`
# file brightness under weather, the paper under digital, and a slope per group depends on it.
_COMMON = (
    ("gaussian_noise", "noise", "example", "Gaussian noise"),
    ("shot_noise", "noise", "example", "Poisson noise, as of few photons"),
    ("impulse_noise", "noise", "example", "Salt and pepper: values set to black or white"),
    ("brightness", "digital", "none", "Brighter: a higher value in HSV"),
    ("contrast", "digital", "none", "Less contrast around the picture's mean colour"),
    ("pixelate", "digital", "none", "Coarse pixels"),
    ("elastic_transform", "digital", "example", "Small regions stretched and shifted"),
    ("jpeg_compression", "digital", "none", "JPEG of low quality"),
    ("defocus_blur", "blur", "none", "Out of focus: blurred with a disk"),
    ("motion_blur", "blur", "example", "Blurred along a random direction"),
    ("glass_blur", "blur", "example", "Frosted glass: near pixels swapped between two blurs"),
    ("zoom_blur", "blur", "none", "Mean over growing zooms"),
    ("fog", "weather", "example", "Fog: a fractal cloud"),
    ("frost", "weather", "example", "Frost: a crop of a photo of ice"),
    ("snow", "weather", "example", "Snowflakes with motion blur"),
)


def _build(name: str, draws: bool, params: Any) -> Corruption:
    from robharness_corruptions.common import CommonCorruption

    return CommonCorruption(name, draws=draws)


@hookimpl
def robharness_corruptions() -> Iterator[CorruptionSpec]:
    for name, group, randomness, summary in _COMMON:
        yield CorruptionSpec(
            name=name,
            summary=summary,
            group=group,
            severities=(1, 2, 3, 4, 5),
            build=partial(_build, name, randomness == "example"),
            randomness=randomness,  # type: ignore[arg-type]
        )
