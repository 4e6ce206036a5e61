"""Common corruptions of images (Hendrycks and Dietterich, 2019), computed while the suite runs.

These are the 15 corruptions of ImageNet-C and its 4 extra ones in two implementations. One is batched and runs on the
model's device. The other calls the library `imagecorruptions` for one image at a time on the CPU, as a reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from robharness import CorruptionSpec, hookimpl
from robharness.specs.conventions import CORRUPTION_GROUPS
from robharness_corruptions.params import CorruptionParams, FrostParams

if TYPE_CHECKING:
    from robharness import Corruption

# Name, randomness and summary. Names and groups are those of `CORRUPTION_GROUPS`; corruptions/* does not match the last
# four, whose names begin with "extra/".
CORRUPTIONS = (
    ("gaussian_noise", "example", "Gaussian noise"),
    ("shot_noise", "example", "Poisson noise of few photons"),
    ("impulse_noise", "example", "Salt-and-pepper noise: values set to black or white"),
    ("brightness", "none", "Brighter: larger value in HSV"),
    ("contrast", "none", "Lower contrast around the mean of each channel"),
    ("pixelate", "none", "Low resolution: resized down and up"),
    ("elastic_transform", "example", "Pixels displaced along a smooth random field"),
    ("jpeg_compression", "none", "JPEG compression of low quality"),
    ("defocus_blur", "none", "Defocus: blurred with a disk"),
    ("motion_blur", "example", "Motion blur in a random direction"),
    ("glass_blur", "example", "Frosted glass: nearby pixels exchanged between two blurs"),
    ("zoom_blur", "none", "Mean over increasing zooms"),
    ("fog", "example", "Fog: a fractal cloud added"),
    ("frost", "example", "Frost: a crop of a photo of ice added"),
    ("snow", "example", "Snowflakes with motion blur"),
    ("speckle_noise", "example", "Gaussian noise proportional to the value"),
    ("gaussian_blur", "none", "Gaussian blur"),
    ("spatter", "example", "Drops of water or mud"),
    ("saturate", "none", "Lower or higher saturation in HSV"),
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
    for corruption, randomness, summary in CORRUPTIONS:
        group = CORRUPTION_GROUPS[corruption]
        name = f"extra/{corruption}" if group == "extra" else corruption
        yield CorruptionSpec(
            name=name,
            summary=summary,
            group=group,
            smallest=32,
            channels=frozenset({3}),
            build=partial(_batched, name),
            params=FrostParams if name == "frost" else CorruptionParams,
            inputs=frozenset({"image", "video"}),
            randomness=randomness,  # type: ignore[arg-type]
            revision=2,  # 1 was the implementation of reference/
        )
        yield CorruptionSpec(
            name=f"reference/{name}",
            summary=f"{summary}, by imagecorruptions",
            group=group,
            smallest=32,
            channels=frozenset({3}),
            build=partial(_reference, name, randomness == "example"),
            randomness=randomness,  # type: ignore[arg-type]
        )
