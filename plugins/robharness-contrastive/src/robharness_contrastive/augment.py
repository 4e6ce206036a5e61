"""Augmentations: as torchvision composes them for one picture, and for a whole batch on its device.

The second takes the same steps with the same distributions, but on values that are not rounded to 8 bits in between.
Crop, resize and flip are one look at the picture; colours change in an order of each picture's own, as
`ColorJitter` does it. What a picture gets depends on a seed and on its place in the data, not on its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

ATTEMPTS = 10
"""Boxes that `RandomResizedCrop` tries before it takes the middle."""
GREY = (0.2989, 0.587, 0.114)
"""Of red, green and blue; torchvision's."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The steps, in this order; what is 0 is left out.

    moved: probability of rotation and crop, both or neither; interpolation blurs, so only pictures that stay are as
    sharp as those that will be judged. rotation: at most so many degrees either way, black around. scale, ratio: of the
    crop, area and width over height.
    flip: probability. brightness, contrast, saturation, hue: as of `ColorJitter`, with probability `jitter`. grey,
    blur: probabilities; the blur's sigma is between 0.1 and 2 pixels.
    """

    moved: float = 1.0
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation: float = 0.0
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "contrastive": Augmentation(),
    "supervised": Augmentation(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05),
    "digits": Augmentation(
        moved=0.75,
        scale=(0.55, 1.0),
        ratio=(1.0, 1.0),
        rotation=20.0,
        flip=0.0,
        jitter=1.0,
        saturation=0.0,
        hue=0.0,
        grey=0.0,
    ),
    "patches": Augmentation(scale=(0.45, 1.0)),
    "blurred": Augmentation(scale=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5),
}
"""The first two are the paper's (B.3). "blurred" is SimCLR's own, for ImageNet."""
SIGMA = (0.1, 2.0)


def per_sample(augmentation: Augmentation, size: int, channels: int = 3) -> v2.Compose:
    """The steps as torchvision has them: uint8 (C, H, W) -> float32 (C, size, size) in [0, 1]."""
    a = augmentation
    coloured = channels == 3
    moves: list[torch.nn.Module] = []
    if a.rotation:
        moves += [v2.RandomRotation(a.rotation, v2.InterpolationMode.BILINEAR)]
    moves += [v2.RandomResizedCrop(size, a.scale, a.ratio, antialias=True)]
    if a.moved < 1:
        moves = [v2.RandomApply(moves, a.moved), v2.Resize((size, size), antialias=True)]
    steps = [*moves, v2.RandomHorizontalFlip(a.flip)]
    saturation, hue = (a.saturation, a.hue) if coloured else (0.0, 0.0)
    if a.jitter:
        steps += [v2.RandomApply([v2.ColorJitter(a.brightness, a.contrast, saturation, hue)], a.jitter)]
    if a.grey and coloured:
        steps += [v2.RandomGrayscale(a.grey)]
    if a.blur:
        steps += [v2.RandomApply([v2.GaussianBlur(_width(size), SIGMA)], a.blur)]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


class Batched:
    """The steps for a batch, on its device: (x, seed, places) -> float32, as many, (N, C, size, size) in [0, 1].

    x: uint8 (N, C, H, W), or clips (N, C, T, H, W), whose frames share one draw; float32 is taken as in [0, 1] already.
    places: (N,), of the examples in their data set, which address the draws together with the seed; on the CPU, so that
    nobody waits for the device.
    Pictures that are more than `size` wide are looked at in so many more points, whose means are taken.
    """

    def __init__(self, augmentation: Augmentation, size: int) -> None:
        self.augmentation, self.size = augmentation, size

    def __call__(self, x: Tensor, seed: int, places: Tensor) -> Tensor:
        is_clip = x.ndim == 5
        frames = x.transpose(1, 2) if is_clip else x[:, None]  # (N, T, C, H, W)
        frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames
        a, drawn = self.augmentation, Draws(seed, places.numpy())
        frames = self.seen(frames, drawn)
        if a.jitter:
            frames = self._jittered(frames, drawn)
        if a.grey and frames.shape[2] == 3:
            frames = _where(drawn.chance("grey", a.grey), frames, lambda some, rows: _grey(some).expand_as(some))
        if a.blur:
            sigma = drawn.between("sigma", *SIGMA)
            frames = _where(drawn.chance("blur", a.blur), frames, lambda some, rows: blurred(some, sigma[rows]))
        return frames.transpose(1, 2) if is_clip else frames[:, 0]

    def seen(self, frames: Tensor, drawn: Draws) -> Tensor:
        """Rotated, cropped, resized, flipped: (N, T, C, size, size)."""
        a, (height, width) = self.augmentation, frames.shape[-2:]
        finer = max(1, math.ceil(max(height, width) / self.size))
        moved = drawn.chance("moved", a.moved)
        whole = (0, 0, height, width)
        boxes = [torch.where(moved, part, float(all_of_it)) for part, all_of_it in
                 zip(crops(drawn, a.scale, a.ratio, height, width), whole, strict=True)]  # fmt: skip
        points = (torch.arange(self.size * finer) + 0.5) / (self.size * finer)
        flips = drawn.chance("flip", a.flip)
        across = torch.where(flips[:, None], 1 - points, points)
        y, x = (  # in pixels, of the middles of pixels; never outside of the box, as if it was cut out first
            (start[:, None] + at * length[:, None] - 0.5).clamp(start[:, None], (start + length - 1)[:, None])
            for start, length, at in ((boxes[0], boxes[2], points[None]), (boxes[1], boxes[3], across))
        )
        if a.rotation:
            angle = drawn.between("rotation", -a.rotation, a.rotation)
            frames = _where(moved, frames, lambda some, rows: rotated(some, angle[rows]))
        found = _looked_at(frames, x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1]))
        found = F.avg_pool2d(found, finer) if finer > 1 else found
        return found.view(*frames.shape[:3], self.size, self.size)

    def _jittered(self, frames: Tensor, drawn: Draws) -> Tensor:
        a, coloured = self.augmentation, frames.shape[2] == 3
        factors = {
            name: drawn.between(name, max(0.0, 1 - width), 1 + width)
            for name, width in (("brightness", a.brightness), ("contrast", a.contrast), ("saturation", a.saturation))
            if width and (coloured or name != "saturation")
        }
        if a.hue and coloured:
            factors["hue"] = drawn.between("hue", -a.hue, a.hue)
        order = drawn.uniform("order", len(factors)).argsort(1)  # of each picture: which comes first, second, ...
        changed = drawn.chance("jitter", a.jitter)
        for turn, (place, name) in itertools.product(range(len(factors)), enumerate(factors)):
            at, factor = changed & (order[:, turn] == place), factors[name]
            frames = _where(at, frames, partial(_recoloured, COLOURS[name], factor))
        return frames


class Draws:
    """Numbers by (seed, name, place): the same for an example whoever else is in its batch. Computed on the CPU.

    A counter is mixed by the finaliser of SplitMix64 (Steele et al. 2014), which costs nanoseconds a number, where a
    generator per example costs microseconds.
    """

    def __init__(self, seed: int, places: np.ndarray) -> None:
        self._seed, self._places = seed, places.astype(np.uint64)

    def uniform(self, name: str, count: int = 1) -> Tensor:
        """In [0, 1), float32 (N, count)."""
        word = np.uint64((self._seed ^ int.from_bytes(name.encode()[:8].ljust(8))) & (2**64 - 1))
        with np.errstate(over="ignore"):
            streams = _mixed(_mixed(np.full(1, word)) + self._places * np.uint64(0x9E3779B97F4A7C15))
            counters = streams[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
            bits = _mixed(counters) >> np.uint64(40)
        return torch.from_numpy(bits.astype(np.float32) / np.float32(2**24))

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Uniform between the two, (N,)."""
        return low + (high - low) * self.uniform(name)[:, 0]

    def chance(self, name: str, probability: float) -> Tensor:
        """(N,) bool."""
        return self.uniform(name)[:, 0] < probability


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def crops(
    drawn: Draws, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of boxes, whole pixels, (N,) each, as `RandomResizedCrop.make_params` draws them."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn.uniform("area", ATTEMPTS))
    lowest, highest = math.log(ratio[0]), math.log(ratio[1])
    aspect = (lowest + (highest - lowest) * drawn.uniform("ratio", ATTEMPTS)).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    middle_width, middle_height = float(width), float(height)  # where none of them fits
    if width / height < ratio[0]:
        middle_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        middle_width = round(height * ratio[1])
    found = fits.any(1)
    h = torch.where(found, heights.gather(1, first)[:, 0], middle_height)
    w = torch.where(found, widths.gather(1, first)[:, 0], middle_width)
    at = drawn.uniform("place", 2)
    top = torch.where(found, (at[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(found, (at[:, 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return top, left, h, w


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """x: (n, T, C, H, W), turned by so many degrees about its middle, counter-clockwise; black comes in."""
    height, width = x.shape[-2:]
    right, down = torch.arange(width) - (width - 1) / 2, (torch.arange(height) - (height - 1) / 2)[:, None]
    cosine, sine = (part[:, None, None] for part in (torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()))
    across, along = cosine * right - sine * down, sine * right + cosine * down
    return _looked_at(x, across + (width - 1) / 2, along + (height - 1) / 2).view_as(x)


def _looked_at(frames: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Frames (N, T, C, H, W) at places (N, h, w), in pixels, of the middles of pixels: (N, T * C, h, w), bilinear."""
    height, width = frames.shape[-2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(frames.flatten(1, 2), grid.to(frames.device, non_blocking=True), align_corners=False)


# --- colours: (n, T, C, H, W) in [0, 1] and (n,) -> the same ---------------------------------------------------------


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * _wide(factor, x)).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(x).mean((2, 3, 4), keepdim=True)
    return torch.lerp(mean.expand_as(x), x, _wide(factor, x)).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(x).expand_as(x), x, _wide(factor, x)).clamp(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Through HSV: the hue goes round by this share of the circle."""
    value, least = x.amax(2, keepdim=True), x.amin(2, keepdim=True)
    chroma = value - least
    red, green, blue = x.split(1, 2)
    safe = torch.where(chroma > 0, chroma, 1)
    other = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixths = torch.where(value == red, (green - blue) / safe, other)
    turned = sixths + 6 * _wide(shift, x)
    offsets = x.new_tensor([5.0, 3.0, 1.0]).view(1, 1, 3, 1, 1)
    k = (offsets + turned).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


COLOURS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
}  # fmt: skip


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """By a Gaussian of each picture's own sigma, in pixels, reflected at the edges."""
    _, frames, channels, height, width = x.shape
    side = _width(height)
    at = torch.arange(side) - side // 2
    kernel = (-0.5 * (at / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(frames * channels, 0).to(x.device)
    flat = F.pad(x.reshape(1, -1, height, width), [side // 2] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel)).view_as(x)


def _width(size: int) -> int:
    """Of the kernel, odd: a tenth of the picture, as SimCLR has it."""
    return max(3, size // 10 // 2 * 2 + 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[2] != 3:
        return x
    return (x * x.new_tensor(GREY).view(1, 1, 3, 1, 1)).sum(2, keepdim=True)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device, non_blocking=True).view(-1, 1, 1, 1, 1)


def _recoloured(colour: Callable[[Tensor, Tensor], Tensor], factor: Tensor, some: Tensor, rows: Tensor) -> Tensor:
    return colour(some, factor[rows])


def _where(rows: Tensor, frames: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The frames of some pictures changed. rows: (N,) bool, on the CPU, so that nobody waits for the device."""
    at = rows.nonzero()[:, 0]
    if not len(at):
        return frames
    there = at.to(frames.device, non_blocking=True)
    return frames.index_copy(0, there, change(frames.index_select(0, there), at))
