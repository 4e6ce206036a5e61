"""Augmentation of whole batches, where the pictures are.

It is held against torchvision step by step and in distribution (tests/test_augment.py). It differs in what
is between the steps: torchvision cuts to 8 bits after each, which makes pictures 1.3 levels darker in all; here values
stay float. Cropping, resizing, flipping and blurring are products with a matrix a side, made for each picture, so that
shrinking is antialiased by the same triangles as torchvision's, at any size. Two trade-offs: where TF32 is on, these
products keep ten bits; and of large pictures (224) most products are with zeros, which a GPU does not mind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from robharness_contrastive.augment.draws import Draws, draw
from robharness_contrastive.augment.records import Augmentation, blur_radius

PIECE = 2**16
"""Pixels that a CPU's thread works on at a time: intermediate values stay near its core, their memory is used again."""


class Batched:
    """An augmentation of whole batches, where the pictures are: called with (x, seed, rows), see `__call__`."""

    def __init__(self, augmentation: Augmentation, size: int) -> None:
        self.augmentation, self.size = augmentation, size

    def __repr__(self) -> str:
        return f"Batched({self.augmentation!r}, {self.size})"

    def __call__(self, x: Tensor, seed: int, rows: Tensor) -> Tensor:
        """Pictures (N, C, H, W) or clips (N, C, T, H, W), augmented: float32, `size` x `size`, in [0, 1], x's device.

        x: uint8, or float in [0, 1]; C 1 or 3. seed: of this view in this step; rows: the examples' numbers, int64
        (N,), anywhere. The frames of a clip share its draws. Raises ValueError for other shapes.
        """
        height, width = x.shape[-2:]
        return self.apply(x, draw(self.augmentation, seed, rows.to(x.device, non_blocking=True), height, width))

    def apply(self, x: Tensor, draws: Draws) -> Tensor:
        """What the call returns, of these draws."""
        if x.ndim not in (4, 5) or x.shape[1] not in (1, 3):
            raise ValueError(f"pictures are (N, C, H, W), clips (N, C, T, H, W), of 1 or 3 channels; got {(*x.shape,)}")
        augmented = torch.empty((*x.shape[:-2], self.size, self.size), device=x.device)

        def render(rows: slice) -> None:
            with torch.no_grad(), _in_full_precision(x.device):
                augmented[rows] = self._steps(x[rows], draws.of(rows))

        pixels = max(x.shape[-2] * x.shape[-1], self.size**2) * math.prod(x.shape[2:-2])
        if x.device.type == "cpu":
            at_once = max(1, PIECE // pixels)
            with _threads() as threads:
                list(threads.map(render, (slice(start, start + at_once) for start in range(0, len(x), at_once))))
        else:
            render(slice(None))
        return augmented

    def _steps(self, x: Tensor, draws: Draws) -> Tensor:
        a = self.augmentation
        scale = 1 / 255 if x.dtype == torch.uint8 else 1.0
        y = x.float().flatten(1, -3)  # (N, channels and frames, H, W): geometry treats them alike
        if a.rotation:
            y = _rotated(y, draws.angle)
        y = _resampled(y, draws, self.size, scale).clamp_(0, 1)
        if a.jitter or a.grayscale:
            self._colour(y.view(len(x), x.shape[1], -1, self.size**2), draws)
        if a.blur:
            y = _blurred(y, draws.sigma).clamp_(0, 1)
        return y.view(*x.shape[:-2], self.size, self.size)

    def _colour(self, x: Tensor, draws: Draws) -> None:
        """Jitter and grayscale in place; x: (N, C, T, pixels).

        Each of the four jitters comes once in every order, so three places before the hue and three behind it hold all
        orders: a picture's brightness, contrast and saturation take three of the six, and 1 and 0 leave it as it is.
        """
        a, is_coloured = self.augmentation, x.shape[1] == 3
        has_hue = is_coloured and a.jitter > 0 and a.hue > 0
        blends = _blends(draws, has_hue) if a.jitter else []
        if has_hue:
            for blend in blends[:3]:
                _blend(x, *blend)
            _turn_hue(x, _column(draws.hue))
            blends = blends[3:]
        for blend in blends:
            _blend(x, *blend)
        if a.grayscale and is_coloured:
            share = _column(draws.grey)
            grey = _grey(x).mul_(share)
            x.mul_(1 - share[:, None]).add_(grey[:, None])


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch may use, whose operations have one thread each.

    A step is some hundred operations of some ten microseconds; two threads that share one wait for each other, and
    where a core is busy, a hundred times as long. Trade-off: torch knows one number for the whole process, which
    threads take over that begin meanwhile.
    """
    allowed = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(allowed) as threads:
            yield threads
    finally:
        torch.set_num_threads(allowed)


def _in_full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Without the eight bits of whoever's autocast."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _column(values: Tensor) -> Tensor:
    """(N,) -> float32 (N, 1, 1), a number for all frames and pixels of a channel (N, T, pixels)."""
    return values.float()[:, None, None]


def _rotated(x: Tensor, angle: Tensor) -> Tensor:
    """x: (N, C, H, W), turned about its middle, black where there was nothing."""
    height, width = x.shape[-2:]
    right = torch.arange(width, device=x.device) - (width - 1) / 2
    down = (torch.arange(height, device=x.device) - (height - 1) / 2)[:, None]
    cos, sin = _column(angle.cos()), _column(angle.sin())
    places = torch.stack(((cos * right - sin * down) * (2 / width), (sin * right + cos * down) * (2 / height)), -1)
    return torch.nn.functional.grid_sample(x, places, align_corners=False)


def _resampled(x: Tensor, draws: Draws, size: int, scale: float) -> Tensor:
    """The crops of x, (N, C, H, W), resized and flipped, (N, C, size, size), times scale."""
    n, channels, height, width = x.shape
    rows = _lines(draws.top, draws.height, torch.zeros_like(draws.flip), height, size)
    columns = _lines(draws.left, draws.width, draws.flip, width, size).mul_(scale)
    x = torch.bmm(x.reshape(n, channels * height, width), columns.mT).view(n, channels, height, size)
    return rows[:, None] @ x


def _lines(start: Tensor, length: Tensor, flip: Tensor, extent: int, size: int) -> Tensor:
    """(N, size, extent): what each line of the result takes of each line of the picture.

    A triangle about the line's place, as wide as a line of the picture or, where the crop shrinks, of the result; it
    ends at the crop. This is antialiased bilinear interpolation.
    """
    start, length = _column(start), _column(length)
    line = (torch.arange(size, device=start.device)[:, None] + 0.5) / size
    centre = start + length * torch.where(flip[:, None, None], 1 - line, line)
    taken = torch.arange(extent, device=start.device) + 0.5
    is_inside = ((taken > start) & (taken < start + length)).float()
    weight = (taken - centre).abs_().mul_(-1 / (length / size).clamp(min=1)).add_(1).clamp_(min=0).mul_(is_inside)
    return weight.div_(weight.sum(-1, keepdim=True))


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """x: (N, C, size, size) blurred by sigma (N,); the kernel ends at its radius, beyond its edges x is mirrored."""
    n, channels, size, _ = x.shape
    distance = torch.arange(2 * size - 1, device=x.device)
    bell = torch.exp(-0.5 * (distance / sigma.float().clamp(min=1e-3)[:, None]) ** 2) * (distance <= blur_radius(size))
    line = torch.arange(size, device=x.device)
    here, there = line[:, None], line
    lines = bell[:, (here - there).abs()]
    lines += bell[:, here + there] * (there > 0)
    lines += bell[:, 2 * (size - 1) - here - there] * (there < size - 1)
    lines /= lines.sum(-1, keepdim=True)
    x = torch.bmm(x.reshape(n, channels * size, size), lines.mT).view(n, channels, size, size)
    return lines[:, None] @ x


def _blends(draws: Draws, has_hue: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Place by place, what a picture keeps of itself and takes of its grey version and of its mean grey."""
    factors = torch.stack((draws.brightness, draws.contrast, draws.saturation), 1)
    order, order_of_hue = draws.order[:, :3], draws.order[:, 3:]
    place = order + 2 * (order > order_of_hue) if has_hue else order - (order > order_of_hue).long()
    blends = []
    for at in range(6 if has_hue else 3):
        factor = torch.where(place == at, factors, 1.0)
        blends.append((_column(factor.prod(1)), _column(1 - factor[:, 2]), _column(1 - factor[:, 1])))
    return blends


def _blend(x: Tensor, keep: Tensor, to_grey: Tensor, to_mean: Tensor) -> None:
    grey = _grey(x)
    grey_mean = grey.mean(-1, keepdim=True)
    x.mul_(keep[:, None]).add_(grey.mul_(to_grey).add_(grey_mean.mul_(to_mean))[:, None]).clamp_(0, 1)


def _grey(x: Tensor) -> Tensor:
    """(N, C, T, pixels) -> (N, T, pixels), a new tensor; torchvision's weights."""
    if x.shape[1] == 1:
        return x[:, 0].clone()
    red, green, blue = x.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _turn_hue(x: Tensor, turns: Tensor) -> None:
    """In place; x: (N, 3, T, pixels). What HSV does, without its cases.

    With the channels scaled to 0 for the least and 1 for the most, the hue is |red - green - blue + 2| sixths of the
    circle away from cyan, on the side of the larger of green and blue; and each channel is a trapezoid of the hue.
    """
    red, green, blue = x.unbind(1)
    most, least = torch.maximum(red, green), torch.minimum(red, green)
    torch.maximum(most, blue, out=most)
    torch.minimum(least, blue, out=least)
    chroma = most.sub_(least)
    from_cyan = (red - green).sub_(blue).add_(least).div_(chroma.clamp(min=1e-9)).add_(2)
    side = (green - blue).add_(1e-30).sign_()  # of red and of cyan either is right, but not 0
    hue = from_cyan.mul_(side).mul_(-1 / 6).add_(turns + 1.5).frac_()
    for channel, centre, slope, offset in ((red, 1 / 2, 6, -1), (green, 1 / 3, -6, 2), (blue, 2 / 3, -6, 2)):
        share = (hue - centre).abs_().mul_(slope).add_(offset).clamp_(0, 1)
        torch.addcmul(least, share, chroma, out=channel)
