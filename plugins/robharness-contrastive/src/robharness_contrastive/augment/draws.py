"""What pictures draw: numbers that belong to a seed and an example, made on whatever device."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robharness_contrastive.augment.records import Augmentation, Range


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What a batch's pictures draw, each (N,) on one device, float64 or bool.

    angle: radians, counter-clockwise. top, left, height, width: of the crop, in whole pixels. flip, grey: whether.
    brightness, contrast, saturation: factors, 1 where there is no jitter; hue: turns, 0 where there is none. order:
    (N, 4), the places of these four, 0 first. sigma: of the blur, 0 where there is none.
    """

    angle: Tensor
    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    grey: Tensor
    sigma: Tensor

    def of(self, rows: slice) -> Draws:
        """The draws of these rows alone."""
        return Draws(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


ATTEMPTS = 10
"""At a crop that fits, as torchvision makes; then the largest in the middle is taken."""


def draw(augmentation: Augmentation, seed: int, rows: Tensor, height: int, width: int) -> Draws:
    """The draws of the examples `rows`, int64 (N,), for pictures of this size, on the device of `rows`.

    They depend on seed (0 to 2**64 - 1) and example alone, whoever else is in the batch; a field of the augmentation
    changes its own draws only. Nothing waits for the device.
    """
    a = augmentation
    u = uniforms(seed, rows, 2 * ATTEMPTS + 16)
    areas, aspects, u = u[:, :ATTEMPTS], u[:, ATTEMPTS : 2 * ATTEMPTS], u[:, 2 * ATTEMPTS :]
    down, right, flip, angle, jitter, *factors = u[:, :9].unbind(1)
    grey, blur, sigma = u[:, 13:].unbind(1)

    area = _between(areas, a.area) * (height * width)
    aspect = _between(aspects, (math.log(a.aspect[0]), math.log(a.aspect[1]))).exp()
    heights, widths = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first, found = fits.to(torch.uint8).argmax(1, keepdim=True), fits.any(1)
    whole = _largest(a.aspect, height, width)
    h, w = (
        torch.where(found, sides.gather(1, first)[:, 0], side)
        for sides, side in zip((heights, widths), whole, strict=True)
    )
    top = torch.where(found, (down * (height - h + 1)).floor(), (height - whole[0]) // 2)
    left = torch.where(found, (right * (width - w + 1)).floor(), (width - whole[1]) // 2)

    def jittered(value: Tensor, limits: Range, none: float) -> Tensor:
        return torch.where(jitter < a.jitter, _between(value, limits), none)

    def factor(value: Tensor, strength: float) -> Tensor:
        return jittered(value, (max(0.0, 1 - strength), 1 + strength), 1.0)

    places = u[:, 9:13]
    return Draws(
        angle=_between(angle, (-a.rotation, a.rotation)),
        top=top,
        left=left,
        height=h,
        width=w,
        flip=flip < a.flip,
        brightness=factor(factors[0], a.brightness),
        contrast=factor(factors[1], a.contrast),
        saturation=factor(factors[2], a.saturation),
        hue=jittered(factors[3], (-a.hue, a.hue), 0.0),
        order=(places[:, None] < places[..., None]).sum(2),
        grey=grey < a.grayscale,
        sigma=torch.where(blur < a.blur, _between(sigma, a.sigma), 0.0),
    )


def _between(u: Tensor, limits: Range) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * u


def _largest(aspect: Range, height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest crop of such an aspect."""
    if width / height < aspect[0]:
        return round(width / aspect[0]), width
    if width / height > aspect[1]:
        return height, round(height * aspect[1])
    return height, width


def uniforms(seed: int, rows: Tensor, count: int) -> Tensor:
    """(N, count) numbers in [0, 1), float64 of 32 bits, on the device of `rows`: Philox4x32-10, keyed by the seed.

    A counter-based generator, since its numbers are an example's own and any device makes the same, all at once.
    Raises ValueError for seeds outside of 64 bits. Source: Salmon et al. 2011, "Parallel random numbers: as easy as
    1, 2, 3".
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed} must be from 0 to 2**64 - 1")
    low = 0xFFFFFFFF
    a = torch.arange(-(-count // 4), device=rows.device).expand(len(rows), -1)
    b, c, d = torch.zeros_like(a), rows[:, None] & low, rows[:, None] >> 32 & low
    key, other_key = seed & low, seed >> 32
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57  # of 64 bits without a sign; what is taken of them has none
        a, b, c, d = q >> 32 & low ^ b ^ key, q & low, p >> 32 & low ^ d ^ other_key, p & low
        key, other_key = key + 0x9E3779B9 & low, other_key + 0xBB67AE85 & low
    return torch.stack((a, b, c, d), -1).flatten(1)[:, :count].double() * 2.0**-32
