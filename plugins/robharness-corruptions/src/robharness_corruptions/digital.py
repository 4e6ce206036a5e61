"""Digital corruptions: other colours, coarse pixels, JPEG, and pixels that are moved a little."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robharness_corruptions.blur import TIE, gaussian

if TYPE_CHECKING:
    from robharness import ExampleRNG


def brightness(x: Tensor, added: float, rng: ExampleRNG) -> Tensor:
    """A higher value in HSV: all channels by one factor, and black becomes grey."""
    x = x.float()
    value = x.amax(1, keepdim=True)
    brighter = (value + 255 * added).clamp_(max=255)
    return (x.masked_fill_(value == 0, 1) * (brighter / value.clamp_(min=1))).add_(TIE)


def saturate(x: Tensor, c: tuple[float, float], rng: ExampleRNG) -> Tensor:
    """Another saturation in HSV: c[0] times what it was, plus c[1], up to 1. Grey has the hue of red."""
    x = x.float()
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    range_ = value - least
    below = (value - x) / range_.clamp(min=1)
    below = torch.where(range_ == 0, below.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1), below)
    saturation = (range_ / value.clamp(min=1)).mul_(c[0]).add_(c[1]).clamp_(0, 1)
    return (value - below.mul_(saturation * value)).add_(TIE)


def contrast(x: Tensor, share: float, rng: ExampleRNG) -> Tensor:
    """What sets a value apart from its channel's mean, less of it. The sum is of whole numbers and exact."""
    total = x.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = (total.double() / (x.shape[2] * x.shape[3])).float()
    return (x * share).add_(mean * (1 - share) + TIE)


def pixelate(x: Tensor, share: float, rng: ExampleRNG, *, up: Literal["nearest", "box"] = "nearest") -> Tensor:
    """Resized to this share of its sides and back. Bit for bit as PIL does it, rounding after every axis."""
    height, width = x.shape[2:]
    # What is picked is the outermost axis in memory, so that whole rows are copied.
    columns = x.permute(3, 0, 2, 1).contiguous()
    rows = _turned(_box(columns, int(width * share)))
    small = _box(rows, int(height * share))
    if up == "box":
        return _box(_turned(_box(_turned(small), width)), height).permute(1, 3, 0, 2)
    tall = _taken(small, _nearest(len(small), height))
    return _taken(_turned(tall), _nearest(tall.shape[2], width)).permute(1, 3, 2, 0)


def jpeg_compression(x: Tensor, quality: int, rng: ExampleRNG) -> Tensor:
    """JPEG of this quality, of 0 to 100, there and back: PIL's, on the CPU, since codecs of GPUs give other pixels."""
    decoded = torch.from_numpy(
        np.stack([_recoded(picture, quality) for picture in x.permute(0, 2, 3, 1).cpu().numpy()])
    )
    return decoded.to(x.device).permute(0, 3, 1, 2)


def elastic_transform(x: Tensor, reach: float, rng: ExampleRNG) -> Tensor:
    """Pixels moved along a smooth random field. reach: times a field within 0.005 of the height."""
    height, width = x.shape[2:]
    return _moved(x.float(), rng, reach * 0.005 * height, (0.01 * height, 0.01 * width)).add_(TIE)


def elastic_transform_cifar(x: Tensor, c: tuple[float, float, float], rng: ExampleRNG) -> Tensor:
    """A random affine map and then a random field. c: how far pixels go in the field, its sigma, and how far the three
    points go that make the map; of the shorter side."""
    reach, sigma, corner = (share * min(x.shape[2:]) for share in c)
    warped = _affine(x.float(), rng, corner)
    return (_moved(warped, rng, reach, (sigma, sigma)) if reach else warped).add_(TIE)


def _recoded(picture: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _moved(x: Tensor, rng: ExampleRNG, reach: float, sigma: tuple[float, float]) -> Tensor:
    """Float pictures whose pixels come from as far as the field says: uniform up to reach, blurred; rows, columns."""
    height, width = x.shape[2:]
    field = rng.uniform("field", (2, height, width)).to(x.device).mul_(2 * reach).sub_(reach)
    field = gaussian(field, sigma, truncate=3, edge="symmetric")
    down = torch.arange(height, device=x.device)[:, None] + field[:, 1]
    right = torch.arange(width, device=x.device) + field[:, 0]
    places = torch.stack([right.mul_(2).add_(1).div_(width), down.mul_(2).add_(1).div_(height)], -1).sub_(1)
    return F.grid_sample(x, places, padding_mode="reflection", align_corners=False)


def _affine(x: Tensor, rng: ExampleRNG, reach: float) -> Tensor:
    """Float pictures under the affine map that moves three points around the middle at random, by up to reach."""
    height, width = x.shape[2:]
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    # The script puts (height, width) where OpenCV wants (x, y), which is the same for the squares that it was made for.
    points = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    to = points + (rng.uniform("corners", (3, 2)).cpu().double().numpy() * 2 - 1) * reach
    ones = np.ones((len(to), 3, 1))
    back = np.linalg.solve(np.concatenate([to, ones], 2), np.broadcast_to(points, to.shape))  # (N, 3, 2)
    down, right = np.mgrid[0:height, 0:width]
    places = np.stack([right, down, np.ones_like(down)], -1) @ back[:, None]
    scaled = torch.from_numpy((places * (2 / np.array([width - 1, height - 1])) - 1).astype(np.float32))
    return F.grid_sample(x, scaled.to(x.device), padding_mode="reflection", align_corners=True)


def _box(x: Tensor, size: int) -> Tensor:
    """The first axis, uint8, resized with PIL's box filter: means of runs of pixels, in 22 bits of fraction."""
    starts, counts = _runs(len(x), size)
    total = torch.zeros((), dtype=torch.int32, device=x.device)
    for step in range(int(counts.max())):
        here = _taken(x, (starts + step).clip(max=len(x) - 1)).int()
        if (counts <= step).any():
            here *= torch.from_numpy(counts > step).to(x.device).view(-1, 1, 1, 1)
        total = total + here
    weights = torch.from_numpy((0.5 + 2**22 / counts).astype(np.int32)).to(x.device)
    return (total * weights.view(-1, 1, 1, 1)).add_(2**21).bitwise_right_shift_(22).to(torch.uint8)


def _taken(x: Tensor, places: np.ndarray) -> Tensor:
    return x.index_select(0, torch.from_numpy(places).to(x.device))


def _turned(x: Tensor) -> Tensor:
    """(W, N, H, 3) -> (H, N, W, 3), or back."""
    return x.permute(2, 1, 0, 3).contiguous()


@lru_cache
def _runs(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels PIL's box filter takes the mean of: where each run starts and how many they are, (wanted,) int64."""
    scale = size / wanted
    support = 0.5 * max(scale, 1)
    centres = (np.arange(wanted) + 0.5) * scale
    starts, counts = [], []
    for centre in centres.tolist():
        first, last = max(0, int(centre - support + 0.5)), min(size, int(centre + support + 0.5))
        inside = [at for at in range(first, last) if -0.5 < (at - centre + 0.5) / max(scale, 1) <= 0.5]
        starts.append(inside[0])
        counts.append(len(inside))
    return np.array(starts), np.array(counts)


@lru_cache
def _nearest(size: int, wanted: int) -> np.ndarray:
    """Which pixel PIL takes when it enlarges to the nearest one, (wanted,) int64. It adds up the step; so do we"""
    step = size / wanted
    return np.add.accumulate(np.array([0.5 * step] + [step] * (wanted - 1))).astype(np.int64)
