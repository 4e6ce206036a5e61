"""Blur corruptions: sums of shifted images; glass blur exchanges pixels between two blurs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from robharness import ExampleRNG

TIE = 2e-4
"""Addend before truncation: a blurred flat region equals its level up to rounding, and must not fall below it."""
DOUBLINGS = 5
"""Doublings in which `glass_blur` follows its chains of copies."""


def gaussian_blur(x: Tensor, sigma: float, rng: ExampleRNG) -> Tensor:
    """Blur by a Gaussian of sigma pixels."""
    return gaussian(x, sigma).add_(TIE)


def glass_blur(x: Tensor, c: tuple[float, int, int], rng: ExampleRNG) -> Tensor:
    """Blur by a Gaussian, replace pixels by nearby ones, and blur again.

    A sweep of the reference goes from the last pixel to the first. It is meant to exchange a pixel with a nearby one,
    but its two assignments only copy the nearby one's current value. So the draws alone give the source of a pixel: the
    nearby pixel if the sweep has not visited it yet, else the source of that pixel. All such chains are followed
    together by doubling, for 2 ** DOUBLINGS hops; a hop is followed by another with a probability below 0.44.

    c: sigma, largest shift, number of sweeps.
    """
    sigma, reach, sweeps = c
    height, width = x.shape[2:]
    blurred = gaussian(x, sigma).add_(TIE).to(torch.uint8)
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    tall, wide = ((at > reach) & (at <= len(at) - reach) for at in (row, column))
    moves, source = (tall[:, None] & wide).flatten(), None
    own = torch.arange(height * width, device=x.device)
    for sweep in range(sweeps):
        step = rng.uniform(f"sweep {sweep}", (2, height * width)).to(x.device).mul_(2 * reach).floor_().sub_(reach)
        near = step[:, 0].add_(step[:, 1], alpha=width).mul_(moves).long().add_(own)
        if reach > 1:  # with reach 1, a source is never a visited pixel
            comes_from = torch.maximum(near, own)
            for _ in range(DOUBLINGS):
                comes_from = comes_from.gather(1, comes_from)
            near = near.gather(1, comes_from)
        source = near if source is None else source.gather(1, near)
    assert source is not None
    moved = blurred.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1))
    return gaussian(moved.view(x.shape), sigma).add_(TIE)


def defocus_blur(x: Tensor, c: tuple[float, float], rng: ExampleRNG) -> Tensor:
    """Blur by a disk.

    A row of the disk has few levels, so it is a sum of few runs of ones. The sum over a run is the difference of two
    prefix sums.

    c: radius of the disk, and sigma of its edge.
    """
    runs = _runs(*c)
    most = len(runs) - 1
    height, width = x.shape[2:]
    prefix = F.pad(_padded(_floats(x), most, most, "reflect").cumsum(3), (1, 0))
    rows = [prefix[:, :, most : most + height]]
    for dy in range(1, most + 1):
        rows.append(prefix[:, :, most - dy : most - dy + height] + prefix[:, :, most + dy : most + dy + height])
    out = torch.zeros(x.shape, device=x.device)
    for half in range(most + 1):
        sums = torch.zeros_like(rows[0])
        for row, steps in zip(rows, runs, strict=True):
            if half in steps:
                sums.add_(row, alpha=steps[half])
        out.add_(sums[..., most + half + 1 :][..., :width]).sub_(sums[..., most - half :][..., :width])
    return out.add_(TIE)


def motion_blur(x: Tensor, c: tuple[int, float], rng: ExampleRNG) -> Tensor:
    """Blur along a line whose angle is drawn per example, up to 45 degrees from the horizontal. c: radius, sigma."""
    angles = rng.uniform("angle", ()).mul(90).sub(45).tolist()
    return along_a_line(x, c[0], c[1], angles).add_(TIE)


def zoom_blur(x: Tensor, c: tuple[float, float], rng: ExampleRNG, *, is_centred: bool = False) -> Tensor:
    """Return the mean of the image and its zooms.

    c: upper limit of the zooms, which is excluded, and their step.
    is_centred: take the centre of a zoomed image, as in CIFAR-10-C, instead of its top left part.
    """
    zooms = np.arange(1, *c)
    channels = _floats(x).flatten(0, 1)[:, None]  # torch enlarges images of one channel in half the time
    out = channels.clone()
    for zoom in zooms.tolist():
        out.add_(clipped_zoom(channels, zoom, is_centred=is_centred))
    return out.view(x.shape).div_(len(zooms) + 1).add_(TIE)


# --- filters that other corruptions use -----------------------------------------------------------------------------


def gaussian(
    x: Tensor,
    sigma: float | tuple[float, float],
    *,
    truncate: float = 4,
    edge: Literal["replicate", "symmetric"] = "replicate",
) -> Tensor:
    """Blur images (N, C, H, W) by a Gaussian in float32.

    sigma: in pixels, for both axes, or for rows and columns.
    truncate: radius of the filter in sigmas.
    edge: values beyond the edge: the last pixel ("replicate"), or the mirrored image ("symmetric").
    """
    x = _floats(x)
    for axis, of_axis in (
        ((2, sigma), (3, sigma)) if isinstance(sigma, (int, float)) else zip((2, 3), sigma, strict=True)
    ):
        radius = int(truncate * of_axis + 0.5)
        if not radius:
            continue
        weights = np.exp(-0.5 * (np.arange(radius + 1) / of_axis) ** 2)
        weights /= weights.sum() * 2 - weights[0]
        padded = _padded(x, radius if axis == 2 else 0, radius if axis == 3 else 0, edge)
        size = x.shape[axis]
        x = padded.narrow(axis, radius, size) * float(weights[0])
        both = torch.empty_like(x)
        for step, weight in enumerate(weights[1:].tolist(), 1):
            before, after = padded.narrow(axis, radius - step, size), padded.narrow(axis, radius + step, size)
            x.add_(torch.add(before, after, out=both), alpha=weight)
    return x


def along_a_line(x: Tensor, radius: int, sigma: float, angles: Sequence[float]) -> Tensor:
    """Blur images (N, C, H, W) by half a Gaussian along a line, in float32.

    Shifts are whole pixels; values beyond the edge equal the last pixel. If the line is longer than the image, the
    remaining weights are dropped, as in the reference.

    radius, sigma: in pixels along the line.
    angles: per image, in degrees.
    """
    height, width = x.shape[2:]
    lines = [list(_line(radius, sigma, angle, height, width)) for angle in angles]
    out = torch.zeros(x.shape, device=x.device)
    for image, blurred, line in zip(x, out, lines, strict=True):
        tall, wide = (max(abs(shift[axis]) for shift, _ in line) for axis in (0, 1))
        padded = _padded(_floats(image[None]), tall, wide, "replicate")[0]
        for (dy, dx), weight in line:
            blurred.add_(padded[:, tall - dy : tall - dy + height, wide - dx : wide - dx + width], alpha=weight)
    return out


def clipped_zoom(x: Tensor, zoom: float, *, is_centred: bool, is_whole: bool = False) -> Tensor:
    """Enlarge the centre of float images, (N, C, H, W), as scipy's zoom of order 1, with aligned corners.

    is_centred: return the central H x W pixels instead of the top left ones.
    is_whole: unless is_centred, return also the pixels on the right and below.
    """
    sides = x.shape[2:]
    crop = [math.ceil(side / zoom) for side in sides]
    top, left = ((side - part) // 2 for side, part in zip(sides, crop, strict=True))
    middle = x[:, :, top : top + crop[0], left : left + crop[1]]
    size = [round(part * zoom) for part in crop]
    zoomed = F.interpolate(middle, size=size, mode="bilinear", align_corners=True)
    if is_whole and not is_centred:
        return zoomed
    y0, x0 = ((large - side) // 2 if is_centred else 0 for large, side in zip(size, sides, strict=True))
    return zoomed[:, :, y0 : y0 + sides[0], x0 : x0 + sides[1]]


def _floats(x: Tensor) -> Tensor:
    """Convert to float32 with contiguous channels."""
    return x.to(torch.float32).contiguous()


def _padded(x: Tensor, rows: int, columns: int, edge: Literal["replicate", "reflect", "symmetric"]) -> Tensor:
    """Pad rows and columns on both sides by the last one, or mirrored without it ("reflect") or with it."""
    if edge != "symmetric":
        return F.pad(x, (columns, columns, rows, rows), mode=edge)
    for axis, more in ((2, rows), (3, columns)):
        if more:
            first, last = x.narrow(axis, 0, more), x.narrow(axis, x.shape[axis] - more, more)
            x = torch.cat([first.flip(axis), x, last.flip(axis)], axis)
    return x


def _line(radius: int, sigma: float, angle: float, height: int, width: int) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield the distinct shifts (dy, dx) along a line with their weights."""
    length = 2 * radius + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    found: dict[tuple[int, int], float] = {}
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        shift = -math.ceil(step * down - 0.5), -math.ceil(step * right - 0.5)
        if abs(shift[0]) >= height or abs(shift[1]) >= width:
            break
        found[shift] = found.get(shift, 0.0) + weight
    yield from found.items()


@lru_cache
def _runs(radius: float, sigma: float) -> list[dict[int, float]]:
    """Return the rows of the disk from its central one, each as weights of runs from -half to half, by half."""
    kernel = _disk(radius, sigma)
    middle = len(kernel) // 2
    rows = []
    for row in kernel[middle:, middle:]:
        steps = row - np.append(row[1:], 0)
        rows.append({half: float(step) for half, step in enumerate(steps) if abs(step) > 1e-7})
    while rows and not rows[-1]:
        rows.pop()
    return rows


def _disk(radius: float, sigma: float) -> np.ndarray:
    """Return a disk of total weight 1 with an edge that a small Gaussian smooths, (2 r + 1, 2 r + 1)."""
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    small = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    small /= small.sum()
    padded = np.pad(disk, half, mode="reflect")
    size = len(disk)
    across = sum(w * padded[:, step : step + size] for step, w in enumerate(small))
    softened: np.ndarray = sum(w * across[step : step + size] for step, w in enumerate(small))
    return softened
