"""Run corruption kernels on batches: images are moved to the model's device in pieces and returned with 8 bits.

A kernel takes images, uint8 (N, 3, H, W) with channels last in memory, the constants of its severity, and the random
streams of the examples. It returns values on the scale 0 to 255 of any type and range. They are clipped and truncated
here, as by the reference's `np.uint8`.

On one device, the bits of an image do not depend on its batch. So kernels do not use operations whose result for a row
depends on the batch: convolutions, matrix products, and sums of fractions over an image. Trade-off: blurs are sums of
shifted images, which for wide blurs may be slower on a CPU than convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robharness_corruptions import blur, digital, noise, weather
from robharness_corruptions.constants import CIFAR, IMAGENET, SMALL

if TYPE_CHECKING:
    from robharness import Batch, ExampleRNG

SMALLEST = 32
"""Smallest side in pixels that the published code accepts."""

PIECE = 2**16
"""Pixels that a thread processes at a time: an image of 224 x 224, whose intermediate values stay in a core's cache."""
SHARES = 8
"""Number of pieces of a batch on other devices, which bounds the memory of intermediate values."""

Kernel = Callable[[Tensor, Any, "ExampleRNG"], Tensor]

KERNELS: dict[str, Kernel] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}
CIFAR_KERNELS: dict[str, Kernel] = {
    "zoom_blur": partial(blur.zoom_blur, is_centred=True),
    "snow": partial(weather.snow, is_cifar=True),
    "frost": weather.frost_cifar,
    "elastic_transform": digital.elastic_transform_cifar,
    "pixelate": partial(digital.pixelate, up="box"),
}
"""Kernels with other steps in CIFAR-10-C."""
PUBLISHED_KERNELS: dict[str, Kernel] = {"frost": partial(weather.frost, photos=5)}
"""Kernels with other steps in the files of ImageNet-C than in `imagecorruptions`."""

PER_FRAME = ("noise", "flakes")
"""Names of random numbers that are drawn for every frame of a video. Others are drawn once per video: glass, ice, drops
on the lens, cloud, and direction of motion."""


class BatchedCorruption:
    """A corruption of whole batches in torch.

    name: as in `imagecorruptions`.
    constants: "imagenet", "cifar", or None for a choice by the image's size.
    compat: "imagenet-c" for the steps of the published files, else "none".
    piece: pixels that a thread processes at a time.
    """

    def __init__(self, name: str, constants: str | None = None, compat: str = "none", *, piece: int = PIECE) -> None:
        self.name, self.constants, self.compat, self.piece = name, constants, compat, piece

    def __repr__(self) -> str:
        return f"BatchedCorruption({self.name!r}, {self.constants!r})"

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """Corrupt `batch.canvas`. Returns the same shape and type, on the device of `batch.x`.

        batch: with a canvas, uint8 (N, H, W, 3), or videos (N, T, H, W, 3), whose frames are images.
        severity: 1 to 5; all severities use the same random numbers.

        Raises ValueError if images do not have 3 channels, or are smaller than 32 x 32 pixels.
        """
        canvas, device = batch.canvas, batch.x.device
        if batch.frames is not None:
            canvas, rng = canvas.flatten(0, 1), rng.of_frames(batch.frames, PER_FRAME)
        check_size(self.name, canvas)
        kernel, constants = self._kernel(min(canvas.shape[1:3]), severity)
        corrupted = torch.empty(canvas.shape, dtype=torch.uint8, device=device)

        def render(rows: slice) -> None:
            x = canvas[rows].to(device).permute(0, 3, 1, 2)
            values = kernel(x, constants, rng.select(range(len(canvas))[rows])).permute(0, 2, 3, 1)
            corrupted[rows] = values if values.dtype == torch.uint8 else values.clamp_(0, 255)  # truncates

        if device.type == "cpu":
            with _threads() as threads:
                list(threads.map(render, pieces(canvas, device, self.piece)))
        else:
            list(map(render, pieces(canvas, device, self.piece)))
        return corrupted.view(batch.canvas.shape)

    def _kernel(self, side: int, severity: int) -> tuple[Kernel, Any]:
        style = self.constants or ("cifar" if side < SMALL else "imagenet")
        if style == "cifar":
            return CIFAR_KERNELS.get(self.name, KERNELS[self.name]), CIFAR[self.name][severity - 1]
        published = PUBLISHED_KERNELS if self.compat == "imagenet-c" else {}
        return published.get(self.name, KERNELS[self.name]), IMAGENET[self.name][severity - 1]


def pieces(canvas: Tensor, device: torch.device, piece: int = PIECE) -> list[slice]:
    """Return the pieces of a batch. piece: pixels per piece on a CPU."""
    n, pixels = len(canvas), canvas.shape[1] * canvas.shape[2]
    at_once = max(1, piece // pixels) if device.type == "cpu" else -(-n // SHARES)
    return [slice(start, min(start + at_once, n)) for start in range(0, n, at_once or 1)]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Provide as many threads as torch may use, each with single-threaded operations.

    A kernel consists of hundreds of operations of a few microseconds. Splitting such an operation makes one core wait
    for the other, a hundred times as long if that core is busy. With threads per piece, random numbers and codecs use
    several cores, too. Trade-off: torch has one setting per process, which other threads inherit that start meanwhile.
    """
    allowed = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(allowed) as threads:
            yield threads
    finally:
        torch.set_num_threads(allowed)


def check_size(name: str, canvas: Tensor) -> None:
    """Raise ValueError unless images, (N, H, W, 3), have 3 channels and at least 32 x 32 pixels."""
    height, width, channels = canvas.shape[1:]
    if channels != 3:
        raise ValueError(f"{name} needs images with 3 channels, (N, H, W, 3), but they have {channels}")
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{name} needs images of at least {SMALLEST} x {SMALLEST} pixels, but the canvas has {height} x {width}. "
            "Try: canvas: 224 in the suite"
        )
