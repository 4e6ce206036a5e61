"""Digital corruptions: brightness, saturation, contrast, pixelation, JPEG, and elastic transformations."""

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
    """Raise the value in HSV: all channels are scaled by one factor, and black becomes grey."""
    x = x.float()
    value = x.amax(1, keepdim=True)
    brighter = (value + 255 * added).clamp_(max=255)
    return (x.masked_fill_(value == 0, 1) * (brighter / value.clamp_(min=1))).add_(TIE)


def saturate(x: Tensor, c: tuple[float, float], rng: ExampleRNG) -> Tensor:
    """Change the saturation s in HSV to c[0] * s + c[1], clipped to [0, 1]. Grey has the hue of red."""
    x = x.float()
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    range_ = value - least
    below = (value - x) / range_.clamp(min=1)
    below = torch.where(range_ == 0, below.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1), below)
    saturation = (range_ / value.clamp(min=1)).mul_(c[0]).add_(c[1]).clamp_(0, 1)
    return (value - below.mul_(saturation * value)).add_(TIE)


def contrast(x: Tensor, share: float, rng: ExampleRNG) -> Tensor:
    """Scale differences from the channel's mean by this share. The mean is exact, from a sum of integers."""
    total = x.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = (total.double() / (x.shape[2] * x.shape[3])).float()
    return (x * share).add_(mean * (1 - share) + TIE)


def pixelate(x: Tensor, share: float, rng: ExampleRNG, *, up: Literal["nearest", "box"] = "nearest") -> Tensor:
    """Resize to this share of the sides and back. Equal to PIL bit for bit, with rounding after each axis."""
    height, width = x.shape[2:]
    # The selected axis is the outermost in memory, so that whole rows are copied.
    columns = x.permute(3, 0, 2, 1).contiguous()
    rows = _transpose(_box(columns, int(width * share)))
    small = _box(rows, int(height * share))
    if up == "box":
        return _box(_transpose(_box(_transpose(small), width)), height).permute(1, 3, 0, 2)
    tall = _select(small, _nearest(len(small), height))
    return _select(_transpose(tall), _nearest(tall.shape[2], width)).permute(1, 3, 2, 0)


def jpeg_compression(x: Tensor, quality: int, rng: ExampleRNG) -> Tensor:
    """Encode and decode as JPEG by PIL on the CPU, since codecs on GPUs give other pixels. quality: 0 to 100."""
    decoded = torch.from_numpy(np.stack([_recode(image, quality) for image in x.permute(0, 2, 3, 1).cpu().numpy()]))
    return decoded.to(x.device).permute(0, 3, 1, 2)


def elastic_transform(x: Tensor, reach: float, rng: ExampleRNG) -> Tensor:
    """Displace pixels by a smooth random field. reach: factor of a field within 0.005 of the height."""
    height, width = x.shape[2:]
    return _displace(x.float(), rng, reach * 0.005 * height, (0.01 * height, 0.01 * width)).add_(TIE)


def elastic_transform_cifar(x: Tensor, c: tuple[float, float, float], rng: ExampleRNG) -> Tensor:
    """Apply a random affine map, then displace pixels by a random field.

    c: as shares of the shorter side: displacement by the field, its sigma, and displacement of the three points that
        define the map.
    """
    reach, sigma, corner = (share * min(x.shape[2:]) for share in c)
    warped = _affine(x.float(), rng, corner)
    return (_displace(warped, rng, reach, (sigma, sigma)) if reach else warped).add_(TIE)


def _recode(image: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _displace(x: Tensor, rng: ExampleRNG, reach: float, sigma: tuple[float, float]) -> Tensor:
    """Displace pixels of float images by a field, uniform up to reach and blurred. sigma: of rows and columns."""
    height, width = x.shape[2:]
    field = rng.uniform("field", (2, height, width)).to(x.device).mul_(2 * reach).sub_(reach)
    field = gaussian(field, sigma, truncate=3, edge="symmetric")
    down = torch.arange(height, device=x.device)[:, None] + field[:, 1]
    right = torch.arange(width, device=x.device) + field[:, 0]
    points = torch.stack([right.mul_(2).add_(1).div_(width), down.mul_(2).add_(1).div_(height)], -1).sub_(1)
    return F.grid_sample(x, points, padding_mode="reflection", align_corners=False)


def _affine(x: Tensor, rng: ExampleRNG, reach: float) -> Tensor:
    """Apply to float images the affine map that displaces three points around the centre by up to reach."""
    height, width = x.shape[2:]
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    # The script gives (height, width) to OpenCV instead of (x, y), which is the same for its square images.
    points = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    to = points + (rng.uniform("corners", (3, 2)).cpu().double().numpy() * 2 - 1) * reach
    ones = np.ones((len(to), 3, 1))
    back = np.linalg.solve(np.concatenate([to, ones], 2), np.broadcast_to(points, to.shape))  # (N, 3, 2)
    down, right = np.mgrid[0:height, 0:width]
    sources = np.stack([right, down, np.ones_like(down)], -1) @ back[:, None]
    scaled = torch.from_numpy((sources * (2 / np.array([width - 1, height - 1])) - 1).astype(np.float32))
    return F.grid_sample(x, scaled.to(x.device), padding_mode="reflection", align_corners=True)


def _box(x: Tensor, size: int) -> Tensor:
    """Resize the first axis, uint8, by PIL's box filter: means of runs of pixels with 22 fractional bits."""
    starts, counts = _runs(len(x), size)
    total = torch.zeros((), dtype=torch.int32, device=x.device)
    for step in range(int(counts.max())):
        part = _select(x, (starts + step).clip(max=len(x) - 1)).int()
        if (counts <= step).any():
            part *= torch.from_numpy(counts > step).to(x.device).view(-1, 1, 1, 1)
        total = total + part
    weights = torch.from_numpy((0.5 + 2**22 / counts).astype(np.int32)).to(x.device)
    return (total * weights.view(-1, 1, 1, 1)).add_(2**21).bitwise_right_shift_(22).to(torch.uint8)


def _select(x: Tensor, indices: np.ndarray) -> Tensor:
    return x.index_select(0, torch.from_numpy(indices).to(x.device))


def _transpose(x: Tensor) -> Tensor:
    """Transpose (W, N, H, 3) to (H, N, W, 3), or back."""
    return x.permute(2, 1, 0, 3).contiguous()


@lru_cache
def _runs(size: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of pixels that PIL's box filter averages: their starts and lengths, (target,) int64 each."""
    scale = size / target
    support = 0.5 * max(scale, 1)
    centres = (np.arange(target) + 0.5) * scale
    starts, counts = [], []
    for centre in centres.tolist():
        first, last = max(0, int(centre - support + 0.5)), min(size, int(centre + support + 0.5))
        inside = [at for at in range(first, last) if -0.5 < (at - centre + 0.5) / max(scale, 1) <= 0.5]
        starts.append(inside[0])
        counts.append(len(inside))
    return np.array(starts), np.array(counts)


@lru_cache
def _nearest(size: int, target: int) -> np.ndarray:
    """Return the pixels of PIL's nearest-neighbour enlargement, (target,) int64. Steps are summed as in PIL."""
    step = size / target
    return np.add.accumulate(np.array([0.5 * step] + [step] * (target - 1))).astype(np.int64)
