"""Common corruptions of pictures (Hendrycks and Dietterich, 2019), rendered while the suite runs.

The 15 of ImageNet-C and its 4 extra ones: batched, where the model is; and as the library `imagecorruptions` renders
them, a picture at a time on the CPU, which is what the former are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from robharness import CorruptionSpec, hookimpl
from robharness_corruptions.params import CorruptionParams, FrostParams

if TYPE_CHECKING:
    from robharness import Corruption

# The names are those of `imagecorruptions`. The groups are the paper's (Table 6): ImageNet-C and `imagecorruptions`
# file brightness under weather, the paper under digital, and a slope per group depends on it. The last four are no
# part of the benchmark, but meant for validation; they stand apart, so that corruptions/* asks for the 15 alone.
CORRUPTIONS = (
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
    ("extra/speckle_noise", "extra", "example", "Gaussian noise that grows with the value"),
    ("extra/gaussian_blur", "extra", "none", "Blurred with a Gaussian"),
    ("extra/spatter", "extra", "example", "Drops of water or mud"),
    ("extra/saturate", "extra", "none", "Paler, or more colourful: another saturation in HSV"),
)


def _batched(name: str, params: CorruptionParams) -> Corruption:
    from robharness_corruptions.kernels import BatchedCorruption

    compat = params.compat if isinstance(params, FrostParams) else "none"
    return BatchedCorruption(name.removeprefix("extra/"), params.constants, compat)


def _reference(name: str, draws: bool, params: None) -> Corruption:
    from robharness_corruptions.reference import CommonCorruption

    return CommonCorruption(name.removeprefix("extra/"), draws=draws)


@hookimpl
def robharness_corruptions() -> Iterator[CorruptionSpec]:
    for name, group, randomness, summary in CORRUPTIONS:
        yield CorruptionSpec(
            name=name,
            summary=summary,
            group=group,
            build=partial(_batched, name),
            params=FrostParams if name == "frost" else CorruptionParams,
            inputs=frozenset({"image", "video"}),
            randomness=randomness,  # type: ignore[arg-type]
            revision=2,  # 1 was what reference/ renders
        )
        yield CorruptionSpec(
            name=f"reference/{name}",
            summary=f"{summary}, by imagecorruptions",
            group=group,
            build=partial(_reference, name, randomness == "example"),
            randomness=randomness,  # type: ignore[arg-type]
        )
