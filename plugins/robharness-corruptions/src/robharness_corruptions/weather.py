"""Weather corruptions: fog, frost, snow and spatter, drawn per example and blended with its image."""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robharness import UserError
from robharness_corruptions.blur import TIE, along_a_line, clipped_zoom, gaussian

if TYPE_CHECKING:
    from robharness import ExampleRNG

PHOTOS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg")
"""Photos of ice. CIFAR-10-C and the published ImageNet-C draw from the first five, `imagecorruptions` from all."""


def fog(x: Tensor, c: tuple[float, float], rng: ExampleRNG) -> Tensor:
    """Add a fractal cloud, and scale so that the brightest value does not change. c: weight and decay of the cloud."""
    weight, decay = c
    height, width = x.shape[2:]
    cloud = plasma(rng, 1 << (max(height, width) - 1).bit_length(), decay, x.device)[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True).float()
    share = brightest / (brightest + 255 * weight)
    return (cloud * (255 * weight * share) + x * share).add_(TIE)


def frost(x: Tensor, c: tuple[float, float], rng: ExampleRNG, *, photos: int = len(PHOTOS)) -> Tensor:
    """Add a crop of a photo of ice. The photo is enlarged by a tenth, or until it is larger than the image.

    c: weights of image and photo.
    photos: number of photos to draw from, the first ones.
    """
    return _add_ice(x, c, rng, photos, None)


def frost_cifar(x: Tensor, c: tuple[float, float], rng: ExampleRNG) -> Tensor:
    """Add a crop of a photo of ice as `frost`, from five photos of a fifth of the size, for 32 pixels."""
    return _add_ice(x, c, rng, 5, 0.2)


def snow(x: Tensor, c: tuple[float, ...], rng: ExampleRNG, *, is_cifar: bool = False) -> Tensor:
    """Add flakes with motion blur, and the same flakes rotated by 180 degrees, to a whitened image.

    c: see `constants`.
    is_cifar: take the centre of the enlarged flakes, and round flakes to 8 bits before the motion blur.
    """
    mean, deviation, zoom, least, radius, sigma, share = c
    height, width = x.shape[2:]
    flakes = rng.normal("flakes", (1, height, width)).to(x.device).mul_(deviation).add_(mean)
    flakes = clipped_zoom(flakes, zoom, is_centred=is_cifar, is_whole=True)
    flakes = flakes.masked_fill_(flakes < least, 0).clamp_(0, 1)
    if is_cifar:
        flakes = flakes.mul_(255).floor_().div_(255)
    angles = rng.uniform("angle", ()).mul(90).sub(135).tolist()
    flakes = along_a_line(flakes, int(radius), sigma, angles).mul_(255).round_()[:, :, :height, :width]
    x = x.float()
    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    whitened = torch.maximum(x, grey.mul_(1.5).add_(127.5))
    return (x * share).add_(whitened, alpha=1 - share).add_(flakes).add_(flakes.flip(2, 3)).add_(TIE)


def spatter(x: Tensor, c: tuple[float, ...], rng: ExampleRNG) -> Tensor:
    """Add drops of water with reflections, or drops of mud. c: see `constants`."""
    mean, deviation, sigma, least, strength, is_mud = c
    drops = rng.normal("drops", (1, *x.shape[2:])).to(x.device).mul_(deviation).add_(mean)
    drops = gaussian(drops, sigma)
    if is_mud:
        mud = gaussian((drops > least).float(), strength)
        mud = mud.masked_fill_(mud < 0.8, 0)
        brown = mud.new_tensor([63.0, 42.0, 20.0]).view(1, 3, 1, 1)
        return (x * (1 - mud)).add_(brown * mud).add_(TIE)
    drops = drops.masked_fill_(drops < least, 0).mul_(255).clamp_(0, 255).floor_()
    water = drops * _reflections(drops)
    most = water.amax((2, 3), keepdim=True)
    water = water.mul_(strength / most.clamp(min=1))  # an image without drops does not change
    pale = water.new_tensor([175.0, 238.0, 238.0]).view(1, 3, 1, 1)
    return (x + (water * pale).clamp_(max=255)).add_(TIE)


# --- fog -------------------------------------------------------------------------------------------------------------


def plasma(rng: ExampleRNG, size: int, decay: float, device: torch.device) -> Tensor:
    """Draw clouds in [0, 1], (N, size, size), by the diamond-square algorithm with periodic boundaries.

    On each scale, the centre of a square is the mean of its corners plus a random number. The centre of an edge is the
    mean of its ends and the adjacent square centres plus a random number.

    size: a power of two.
    decay: divisor of the random numbers from scale to scale.
    """
    draws = rng.uniform("cloud", (size * size - 1,)).to(device).mul_(2).sub_(1)
    cloud = torch.zeros(len(draws), 1, 1, device=device)
    wibble, used = 100.0, 0
    while cloud.shape[1] < size:
        n = cloud.shape[1]
        more = draws[:, used : used + 3 * n * n].view(-1, 3, n, n) * wibble**2
        used += 3 * n * n
        pairs = cloud + cloud.roll(-1, 1)
        middles = (pairs + pairs.roll(-1, 2)) / 4 + more[:, 0]
        across = (middles + middles.roll(1, 1) + cloud + cloud.roll(-1, 2)) / 4 + more[:, 1]
        down = (middles + middles.roll(1, 2) + cloud + cloud.roll(-1, 1)) / 4 + more[:, 2]
        finer = cloud.new_empty(len(cloud), 2 * n, 2 * n)
        finer[:, ::2, ::2], finer[:, ::2, 1::2], finer[:, 1::2, ::2], finer[:, 1::2, 1::2] = (
            cloud,
            across,
            down,
            middles,
        )
        cloud = finer
        wibble /= decay
    least = cloud.amin((1, 2), keepdim=True)
    return (cloud - least) / (cloud.amax((1, 2), keepdim=True) - least)


# --- frost -----------------------------------------------------------------------------------------------------------


def _add_ice(x: Tensor, c: tuple[float, float], rng: ExampleRNG, count: int, scale: float | None) -> Tensor:
    draws = rng.uniform("ice", (3,)).tolist()
    height, width = x.shape[2:]
    parts = []
    for which, down, right in draws:
        photo = _ice(int(which * count), height, width, scale, x.device)
        top, left = int(down * (photo.shape[1] - height)), int(right * (photo.shape[2] - width))
        parts.append(photo[:, top : top + height, left : left + width])
    # Sums of integers with these weights are often integers, and in float32 slightly less; hence TIE.
    return (x.float() * c[0]).add_(torch.stack(parts), alpha=c[1]).add_(TIE)


@lru_cache(maxsize=32)
def _ice(index: int, height: int, width: int, scale: float | None, device: torch.device) -> Tensor:
    """Return a photo of ice, (3, at least H, at least W) uint8, resized as by OpenCV, without antialiasing.

    Raises UserError if the photos are not installed.
    """
    photo = torch.from_numpy(_photo(index)).permute(2, 0, 1)[None].float()
    if scale is None:
        least = max(height / photo.shape[2], width / photo.shape[3], 1)
        size = [math.ceil(side * least * 1.1) for side in photo.shape[2:]]
        resized = F.interpolate(photo, size=size, mode="bicubic", align_corners=False)
    else:
        scale = max(scale, (height + 1) / photo.shape[2], (width + 1) / photo.shape[3])
        size = [round(side * scale) for side in photo.shape[2:]]
        resized = F.interpolate(photo, size=size, mode="bilinear", align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8).to(device)


def _photo(index: int) -> np.ndarray:
    """Read a photo, uint8 (H, W, 3), from the files of `imagecorruptions`, without importing that module."""
    from robharness import read_image

    found = importlib.util.find_spec("imagecorruptions")
    folders = [Path(place) / "frost" for place in (found and found.submodule_search_locations) or []]
    for folder in folders:
        if (folder / PHOTOS[index]).is_file():
            return read_image(folder / PHOTOS[index])
    raise UserError(
        "frost needs the photos of ice in the package imagecorruptions, which is not installed. "
        'Try: pip install "imagecorruptions-imaug>=1.1.5"'
    )


# --- spatter ---------------------------------------------------------------------------------------------------------


def _reflections(drops: Tensor) -> Tensor:
    """Return the reflections of water, (N, 1, H, W) in 0 to 255: the embossed distance from the edges of the drops.

    drops: integers in 0 to 255, float32.

    Source: the steps that the reference makes with OpenCV.
    """
    far = _distance(_edges(drops)).clamp_(max=20)
    far = _equalized(_mean_of_nine(far).floor_())
    around = F.pad(far, (1, 1, 1, 1), mode="reflect")
    embossed = sum(
        weight * around[:, :, dy : dy + far.shape[2], dx : dx + far.shape[3]]
        for dy, row in enumerate(((-2, -1, 0), (-1, 1, 1), (0, 1, 2)))
        for dx, weight in enumerate(row)
        if weight
    )
    assert isinstance(embossed, Tensor)
    return _mean_of_nine(embossed.clamp_(0, 255)).round_()


def _edges(grey: Tensor, low: float = 50, high: float = 150) -> Tensor:
    """Detect edges by Canny's method in integers of 0 to 255. Returns (N, 1, H, W) bool."""
    height, width = grey.shape[2:]

    def beside(values: Tensor, dy: int, dx: int) -> Tensor:
        return values[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    columns = {dx: beside(padded, -1, dx) + 2 * beside(padded, 0, dx) + beside(padded, 1, dx) for dx in (-1, 1)}
    rows = {dy: beside(padded, dy, -1) + 2 * beside(padded, dy, 0) + beside(padded, dy, 1) for dy in (-1, 1)}
    right, down = columns[1] - columns[-1], rows[1] - rows[-1]
    size = right.abs() + down.abs()
    around = F.pad(size, (1, 1, 1, 1))
    steep, flat = math.tan(math.radians(67.5)), math.tan(math.radians(22.5))
    along_x = down.abs() < flat * right.abs()
    along_y = down.abs() > steep * right.abs()
    same_sign = (right < 0) == (down < 0)

    def peak(dy: int, dx: int, *, strictly: bool) -> Tensor:
        after = beside(around, dy, dx)
        return (size > beside(around, -dy, -dx)) & (size > after if strictly else size >= after)

    on_diagonal = torch.where(same_sign, peak(1, 1, strictly=True), peak(1, -1, strictly=True))
    is_peak = torch.where(
        along_x, peak(0, 1, strictly=False), torch.where(along_y, peak(1, 0, strictly=False), on_diagonal)
    )
    weak = is_peak & (size > low)
    edges = weak & (size > high)
    while True:  # weak edges count if they are connected with strong ones
        grown = (F.max_pool2d(edges.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def _distance(edges: Tensor, most: int = 21) -> Tensor:
    """Return OpenCV's distance from the nearest edge, (N, 1, H, W), with steps of 1, 1.4 and 2.1969 pixels.

    In one row, this distance increases with the horizontal distance, so only a row's nearest edge counts.

    most: limit of the distances, approximately.
    """
    height, width = edges.shape[2:]
    at = torch.arange(float(width), device=edges.device)
    left = at - torch.where(edges, at, float(-most)).cummax(3).values
    right = torch.where(edges, at, float(width + most)).flip(3).cummin(3).values.flip(3) - at
    in_row = torch.minimum(left, right).clamp_(max=most)
    nearest = in_row.clone()
    rows = F.pad(in_row, (0, 0, most, most), value=float(most))
    for step in range(1, most):
        across = torch.minimum(rows[:, :, most - step :][:, :, :height], rows[:, :, most + step :][:, :, :height])
        short, long = across.clamp(max=step), across.clamp_(min=step)
        knights = long.add(short, alpha=2.1969 - 2)
        diagonals = long.mul_(2.1969 - 1.4).add_(short, alpha=2 * 1.4 - 2.1969)
        nearest = torch.minimum(nearest, torch.maximum(knights, diagonals))
    return nearest


def _mean_of_nine(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    across = padded[..., :width] + padded[..., 1 : 1 + width] + padded[..., 2:]
    return (across[:, :, :height] + across[:, :, 1 : 1 + height] + across[:, :, 2:]) / 9


def _equalized(x: Tensor) -> Tensor:
    """Equalise the histogram of integers of 0 to 255, as OpenCV's equalizeHist."""
    n, total = len(x), x.shape[2] * x.shape[3]
    levels = x.flatten(1).long()
    counts = torch.zeros(n, 256, dtype=torch.int64, device=x.device).scatter_add_(1, levels, torch.ones_like(levels))
    least = levels.amin(1, keepdim=True)
    of_least = counts.gather(1, least)
    rank = (counts.cumsum(1) - of_least).clamp(min=0)
    new = (rank * (255 / (total - of_least).clamp(min=1).double())).round().float()
    new = torch.where(of_least == total, torch.arange(256.0, device=x.device), new)
    return new.gather(1, levels).view_as(x)
