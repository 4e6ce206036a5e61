"""Augmentation of a batch of images or clips on the device that holds it.

Steps and distributions are those of torchvision's transforms, but values are not rounded to 8 bits between steps.
Rotation aside, crop, resize and flip are one resampling of the image. Colours change in an order that is drawn per
image, as in torchvision's `ColorJitter`. Every number is drawn by a seed and the example's index in its data set,
whatever else is in the batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robharness_contrastive.steps import Augmentation

ATTEMPTS = 10
"""Boxes that `RandomResizedCrop` tries before it falls back to a central crop."""
GREY = (0.2989, 0.587, 0.114)
"""Luma weights of red, green and blue, as in torchvision."""

Boxes = tuple[Tensor, Tensor, Tensor, Tensor]
"""Top, left, height and width of crop boxes, in whole pixels, (N,) each."""


SIGMA = (0.1, 2.0)
"""Range of the sigma of the Gaussian blur, in pixels."""


class Draws:
    """Random numbers by (seed, name, index): the same for an example in every batch. Computed on the CPU.

    A counter is mixed by the finaliser of SplitMix64 (Steele et al. 2014). That takes nanoseconds per number, while
    creating a generator per example takes microseconds.
    """

    def __init__(self, seed: int, indices: np.ndarray) -> None:
        self._seed, self._indices = seed, indices.astype(np.uint64)

    def uniform(self, name: str, count: int = 1) -> Tensor:
        """Return numbers in [0, 1), float32 (N, count)."""
        word = np.uint64((self._seed ^ int.from_bytes(name.encode()[:8].ljust(8))) & (2**64 - 1))
        with np.errstate(over="ignore"):
            streams = _mix(_mix(np.full(1, word)) + self._indices * np.uint64(0x9E3779B97F4A7C15))
            counters = streams[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
            bits = _mix(counters) >> np.uint64(40)
        return torch.from_numpy(bits.astype(np.float32) / np.float32(2**24))

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return numbers that are uniform in [low, high), (N,)."""
        return low + (high - low) * self.uniform(name)[:, 0]

    def chance(self, name: str, probability: float) -> Tensor:
        """Return events of this probability, (N,) bool."""
        return self.uniform(name)[:, 0] < probability


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def draw_crops(draws: Draws, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int) -> Boxes:
    """Draw crop boxes with the distribution of `RandomResizedCrop.make_params`."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws.uniform("area", ATTEMPTS))
    lowest, highest = math.log(ratio[0]), math.log(ratio[1])
    aspect = (lowest + (highest - lowest) * draws.uniform("ratio", ATTEMPTS)).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)
    central_width, central_height = float(width), float(height)  # the fallback if no attempt fits
    if width / height < ratio[0]:
        central_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        central_width = round(height * ratio[1])
    any_fits = fits.any(1)
    h = torch.where(any_fits, heights.gather(1, first)[:, 0], central_height)
    w = torch.where(any_fits, widths.gather(1, first)[:, 0], central_width)
    position = draws.uniform("place", 2)
    top = torch.where(any_fits, (position[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(any_fits, (position[:, 1] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return top, left, h, w


def crop_box(
    area: np.ndarray, ratio: np.ndarray, place: np.ndarray, scale: Sequence[float], ratios: Sequence[float],
    height: int, width: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Return the box that `draw_crops` draws in one image, from the same uniform numbers, without torch's overhead.

    area, ratio: float32 (ATTEMPTS,).
    place: float32 (2,).
    """
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    lowest, highest = math.log(ratios[0]), math.log(ratios[1])
    aspects = np.exp(lowest + (highest - lowest) * ratio)
    widths, heights = np.sqrt(areas * aspects).round(), np.sqrt(areas / aspects).round()
    fits = ((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)).nonzero()[0]
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        return int(place[0] * np.float32(height - h + 1)), int(place[1] * np.float32(width - w + 1)), h, w
    h, w = height, width
    if width / height < ratios[0]:
        h = round(width / ratios[0])
    elif width / height > ratios[1]:
        w = round(height * ratios[1])
    return (height - h) // 2, (width - w) // 2, h, w


Augment = Callable[[Tensor, int, int, Tensor], Tensor]
"""(uint8 images (N, C, H, W) or clips (N, C, T, H, W), size, seed, indices (N,)) -> float32 views of this size in
[0, 1], as many as given. Its random numbers are drawn by the seed and the indices."""


def augmenter(augmentation: Augmentation | Augment, size: int) -> Callable[[Tensor, int, Tensor], Tensor]:
    """Return a function (x, seed, indices) that augments batches, see `BatchAugmenter`.

    augmentation: steps as numbers, or a function of another plugin.
    """
    if isinstance(augmentation, Augmentation):
        return BatchAugmenter(augmentation, size)

    def augment(x: Tensor, seed: int, indices: Tensor) -> Tensor:
        views = augmentation(x, size, seed, indices)
        expected = (*x.shape[:-2], size, size)
        if not isinstance(views, Tensor) or not views.is_floating_point() or tuple(views.shape) != expected:
            found = f"{views.dtype} {tuple(views.shape)}" if isinstance(views, Tensor) else type(views).__name__
            raise TypeError(f"the augmentation returned {found}, not float32 {expected}")
        return views

    return augment


class BatchAugmenter:
    """Augment a batch on its device: (x, seed, indices) -> float32 (N, C, size, size) in [0, 1], or clips of that size.

    augmentation: the steps.
    size: side of the result in pixels. From images that are k times as wide, k x k points per pixel are averaged.
    draw_crops: draws the crop boxes.
    """

    def __init__(self, augmentation: Augmentation, size: int, draw_crops: Callable[..., Boxes] = draw_crops) -> None:
        self.augmentation, self.size, self.draw_crops = augmentation, size, draw_crops

    def __call__(self, x: Tensor, seed: int, indices: Tensor) -> Tensor:
        """Return augmented images or clips, float32, as many as given, in [0, 1].

        x: images (N, C, H, W), or clips (N, C, T, H, W), whose frames share one draw. uint8, or float32 in [0, 1].
        seed: with the indices, selects the random numbers.
        indices: (N,), of the examples in their data set. On the CPU, so that no step waits for the device.
        """
        draws = Draws(seed, indices.numpy())
        return _on_frames(x, lambda frames: self._recolour(self.resample(frames, draws), draws))

    def recolour(self, x: Tensor, seed: int, indices: Tensor) -> Tensor:
        """Return views that are cropped, resized and flipped already with their colours augmented, as in a call."""
        draws = Draws(seed, indices.numpy())
        own = x if x.dtype == torch.uint8 else x.clone()  # a conversion copies as well
        return _on_frames(own, lambda frames: self._recolour(frames, draws))

    def _recolour(self, frames: Tensor, draws: Draws) -> Tensor:
        a = self.augmentation
        if a.jitter:
            frames = self._jitter(frames, draws)
        if a.grey and frames.shape[2] == 3:
            frames = _apply_to(draws.chance("grey", a.grey), frames, lambda some, rows: _grey(some).expand_as(some))
        if a.blur:
            sigma = draws.between("sigma", *SIGMA)
            frames = _apply_to(
                draws.chance("blur", a.blur), frames, lambda some, rows: gaussian_blur(some, sigma[rows])
            )
        return frames

    def resample(self, frames: Tensor, draws: Draws) -> Tensor:
        """Rotate, crop, resize and flip frames (N, T, C, H, W). Returns (N, T, C, size, size)."""
        a, (height, width) = self.augmentation, frames.shape[-2:]
        oversampling = max(1, math.ceil(max(height, width) / self.size))
        is_warped = draws.chance("moved", a.warp)  # draws are addressed by these names: renaming one changes weights
        full_box = (0, 0, height, width)
        boxes = [torch.where(is_warped, part, float(full)) for part, full in
                 zip(self.draw_crops(draws, a.scale, a.ratio, height, width), full_box, strict=True)]  # fmt: skip
        points = (torch.arange(self.size * oversampling) + 0.5) / (self.size * oversampling)
        is_flipped = draws.chance("flip", a.flip)
        across = torch.where(is_flipped[:, None], 1 - points, points)
        y, x = (  # in pixels from the first pixel's centre; clamped to the box, as if it was cropped first
            (start[:, None] + at * length[:, None] - 0.5).clamp(start[:, None], (start + length - 1)[:, None])
            for start, length, at in ((boxes[0], boxes[2], points[None]), (boxes[1], boxes[3], across))
        )
        if a.rotation:
            angle = draws.between("rotation", -a.rotation, a.rotation)
            frames = _apply_to(is_warped, frames.clone(), lambda some, rows: rotate(some, angle[rows]))
        sampled = _sample(frames, x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1]))
        sampled = F.avg_pool2d(sampled, oversampling) if oversampling > 1 else sampled
        return sampled.view(*frames.shape[:3], self.size, self.size)

    def _jitter(self, frames: Tensor, draws: Draws) -> Tensor:
        a, is_coloured = self.augmentation, frames.shape[2] == 3
        factors = {
            name: draws.between(name, max(0.0, 1 - width), 1 + width)
            for name, width in (("brightness", a.brightness), ("contrast", a.contrast), ("saturation", a.saturation))
            if width and (is_coloured or name != "saturation")
        }
        if a.hue and is_coloured:
            factors["hue"] = draws.between("hue", -a.hue, a.hue)
        order = draws.uniform("order", len(factors)).argsort(1)  # per image: the change that comes first, second, ...
        is_jittered = draws.chance("jitter", a.jitter)
        for turn, (number, name) in itertools.product(range(len(factors)), enumerate(factors)):
            rows, factor = is_jittered & (order[:, turn] == number), factors[name]
            frames = _apply_to(rows, frames, partial(_adjust, COLOUR_CHANGES[name], factor))
        return frames


def _on_frames(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a change of frames (N, T, C, H, W), float32 in [0, 1], to images or clips of `BatchAugmenter`."""
    is_clip = x.ndim == 5
    frames = x.transpose(1, 2) if is_clip else x[:, None]
    frames = change(frames.float() / 255 if frames.dtype == torch.uint8 else frames)
    return frames.transpose(1, 2) if is_clip else frames[:, 0]


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate frames (n, T, C, H, W) about their centres, with black outside.

    angle: (n,), in degrees, counter-clockwise.
    """
    height, width = x.shape[-2:]
    right, down = torch.arange(width) - (width - 1) / 2, (torch.arange(height) - (height - 1) / 2)[:, None]
    cosine, sine = (part[:, None, None] for part in (torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()))
    across, along = cosine * right - sine * down, sine * right + cosine * down
    return _sample(x, across + (width - 1) / 2, along + (height - 1) / 2).view_as(x)


def _sample(frames: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sample frames (N, T, C, H, W) bilinearly at points (N, h, w). Returns (N, T * C, h, w).

    x, y: in pixels from the first pixel's centre.
    """
    height, width = frames.shape[-2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(frames.flatten(1, 2), grid.to(frames.device, non_blocking=True), align_corners=False)


# --- colours: (n, T, C, H, W) in [0, 1] and (n,) -> the same shape ---------------------------------------------------


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply values by the factor."""
    return (x * _broadcast(factor, x)).clamp(0, 1)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Interpolate between the mean grey value and the image."""
    mean = _grey(x).mean((2, 3, 4), keepdim=True)
    return torch.lerp(mean.expand_as(x), x, _broadcast(factor, x)).clamp(0, 1)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Interpolate between the grey image and the image."""
    return torch.lerp(_grey(x).expand_as(x), x, _broadcast(factor, x)).clamp(0, 1)


def hue(x: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue in HSV by this share of the colour circle."""
    value, least = x.amax(2, keepdim=True), x.amin(2, keepdim=True)
    chroma = value - least
    red, green, blue = x.split(1, 2)
    safe = torch.where(chroma > 0, chroma, 1)
    other = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixths = torch.where(value == red, (green - blue) / safe, other)
    shifted = sixths + 6 * _broadcast(shift, x)
    offsets = x.new_tensor([5.0, 3.0, 1.0]).view(1, 1, 3, 1, 1)
    k = (offsets + shifted).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


COLOUR_CHANGES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
}  # fmt: skip


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur frames (n, T, C, H, W) by Gaussians of sigma pixels, (n,), with reflection at the edges."""
    _, frames, channels, height, width = x.shape
    side = _kernel_side(height)
    at = torch.arange(side) - side // 2
    kernel = (-0.5 * (at / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(frames * channels, 0).to(x.device)
    flat = F.pad(x.reshape(1, -1, height, width), [side // 2] * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel)).view_as(x)


def _kernel_side(size: int) -> int:
    """Return an odd kernel side of a tenth of the image's side, as in SimCLR."""
    return max(3, size // 10 // 2 * 2 + 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[2] != 3:
        return x
    return (x * x.new_tensor(GREY).view(1, 1, 3, 1, 1)).sum(2, keepdim=True)


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    """Return values (n,) on the device of x, shaped to multiply (n, T, C, H, W)."""
    return values.to(x.device, non_blocking=True).view(-1, 1, 1, 1, 1)


def _adjust(change: Callable[[Tensor, Tensor], Tensor], factor: Tensor, some: Tensor, rows: Tensor) -> Tensor:
    return change(some, factor[rows])


def _apply_to(mask: Tensor, frames: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Change some rows of the frames in place. Returns the frames.

    mask: (N,) bool, the rows to change. On the CPU, so that no step waits for the device.
    change: (frames of these rows, their indices on the CPU) -> new frames.
    """
    rows = mask.nonzero()[:, 0]
    if not len(rows):
        return frames
    device_rows = rows.to(frames.device, non_blocking=True)
    return frames.index_copy_(0, device_rows, change(frames.index_select(0, device_rows), rows))
