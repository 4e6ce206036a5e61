"""Inputs of a network as PNG files of a bounded size: an image, its perturbation magnified, the perturbed image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from robharness.evaluation.images import encode_png

MOST_SIDE = 224
"""The largest side of an image in pixels."""
MOST_BYTES = 3_000_000
"""The most bytes that the three images of all examples take."""


def largest_side(examples: int) -> int:
    """Return the side of images in pixels with which those of so many examples stay within `MOST_BYTES`.

    An incompressible PNG file takes three bytes per pixel, one per row, and less than 100 more.
    """
    each = MOST_BYTES // (3 * max(1, examples))
    return max(1, min(MOST_SIDE, math.isqrt(max(0, each - 100 - MOST_SIDE) // 3)))


def visible(x: Tensor, *, is_bgr: bool = False) -> Tensor:
    """Return an input of a network, (C, H, W) or (C, T, H, W), as a grey or a colour image, (1 or 3, H, W), on the CPU.

    Of a video it is the middle frame that the network sees, and of other numbers of channels their mean.
    is_bgr: whether blue is the first channel.
    """
    image = (x if x.ndim == 3 else x[:, x.shape[1] // 2]).cpu()
    if len(image) not in (1, 3):
        return image.mean(0, keepdim=True)
    return image.flip(0) if is_bgr and len(image) == 3 else image


def fitted(image: Tensor, side: int, *, by_mean: bool = True) -> Tensor:
    """Return an image, (C, H, W), whose longer side is at most `side` pixels.

    A small image is enlarged by a whole factor, every pixel to a square.
    by_mean: whether a pixel of a shrunk image is the mean of those that it covers, or else one of them.
    """
    longer = max(image.shape[1:])
    if longer <= side:
        factor = side // longer
        return image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    size = [max(1, round(length * side / longer)) for length in image.shape[1:]]
    shrunk: Tensor = interpolate(image[None], size, mode="area" if by_mean else "nearest-exact")[0]
    return shrunk


def png(image: Tensor) -> bytes:
    """Return the PNG file of an image, (1 or 3, H, W) float32 in [0, 1], whose pixels are round(255 * image)."""
    pixels: np.ndarray = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return encode_png(pixels)


def magnified(difference: Tensor, factor: float) -> Tensor:
    """Return an image of a perturbation: grey where it is 0, `factor` times as large elsewhere."""
    return (0.5 + factor * difference).clamp(0, 1)


def magnification(largest: Sequence[float]) -> float:
    """Return the factor, 1, 2 or 5 times a power of ten, with which perturbations span at most half of the range.

    largest: the largest absolute value of each perturbation.
    """
    most = max(largest, default=0.0)
    if not most > 0:
        return 1.0
    exact = 0.5 / most
    power = 10.0 ** math.floor(math.log10(exact))
    return next(step * power for step in (5, 2, 1) if step * power <= exact * (1 + 1e-6))
