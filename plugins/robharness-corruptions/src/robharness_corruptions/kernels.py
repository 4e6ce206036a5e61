"""Runs a kernel: pictures go to where the model is, a piece of the batch at a time, and come back with 8 bits.

A kernel takes pictures, uint8 (N, 3, H, W) with the channels last in memory, its severity's constants and the examples'
streams; it gives new values of 0 to 255, of any type and range, which are clipped and truncated here as the reference
does it (`np.uint8`). No kernel looks at a neighbour, and none uses what computes a row otherwise in another batch
(convolutions, products of matrices, sums of fractions over a picture): its bits are its own on any one device. In
return blurs are sums of shifted pictures, which for wide ones are slower on a CPU than a convolution might be.
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
"""Pixels a side that the published code asks for."""

PIECE = 2**16
"""Pixels that a thread works on at a time: a picture of 224 x 224, whose intermediate values stay near its core."""
SHARES = 8
"""Of a batch, elsewhere: a piece is one of so many, which bounds the memory of intermediate values."""

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
"""Where CIFAR-10-C takes other steps, not just other numbers."""
PUBLISHED_KERNELS: dict[str, Kernel] = {"frost": partial(weather.frost, photos=5)}
"""Where the files of ImageNet-C were made by other steps than `imagecorruptions` takes."""

FRESH = ("noise", "flakes")
"""What is drawn anew in every frame of a video. The glass, the ice, the drops on the lens, the cloud and the direction
of a motion are the video's."""


class BatchedCorruption:
    """A corruption by the name that `imagecorruptions` gives it, on whole batches in torch.

    constants: "imagenet", "cifar", or None: by the pictures' size. compat: "imagenet-c" for the steps of those files.
    """

    def __init__(self, name: str, constants: str | None = None, compat: str = "none") -> None:
        self.name, self.constants, self.compat = name, constants, compat

    def __repr__(self) -> str:
        return f"BatchedCorruption({self.name!r}, {self.constants!r})"

    def perturb(self, model: None, batch: Batch, severity: int, rng: ExampleRNG) -> Tensor:
        """`batch.canvas`, uint8 (N, H, W, 3), corrupted: the same shape and type, on the device of `batch.x`.

        Of videos, (N, T, H, W, 3), the frames are pictures; what moves or hangs before the lens is drawn once for all.
        severity: 1 to 5; all draw the same random numbers. Raises ValueError for other channels and below 32 pixels.
        """
        canvas, device = batch.canvas, batch.x.device
        if batch.frames is not None:
            canvas, rng = canvas.flatten(0, 1), rng.of_frames(batch.frames, FRESH)
        check_size(self.name, canvas)
        kernel, constants = self._chosen(min(canvas.shape[1:3]), severity)
        corrupted = torch.empty(canvas.shape, dtype=torch.uint8, device=device)

        def render(rows: slice) -> None:
            x = canvas[rows].to(device).permute(0, 3, 1, 2)
            values = kernel(x, constants, rng.select(range(len(canvas))[rows])).permute(0, 2, 3, 1)
            corrupted[rows] = values if values.dtype == torch.uint8 else values.clamp_(0, 255)  # truncates

        if device.type == "cpu":
            with _threads() as threads:
                list(threads.map(render, pieces(canvas, device)))
        else:
            list(map(render, pieces(canvas, device)))
        return corrupted.view(batch.canvas.shape)

    def _chosen(self, side: int, severity: int) -> tuple[Kernel, Any]:
        style = self.constants or ("cifar" if side < SMALL else "imagenet")
        if style == "cifar":
            return CIFAR_KERNELS.get(self.name, KERNELS[self.name]), CIFAR[self.name][severity - 1]
        published = PUBLISHED_KERNELS if self.compat == "imagenet-c" else {}
        return published.get(self.name, KERNELS[self.name]), IMAGENET[self.name][severity - 1]


def pieces(canvas: Tensor, device: torch.device) -> list[slice]:
    """The rows of a batch that are worked on together."""
    n, pixels = len(canvas), canvas.shape[1] * canvas.shape[2]
    at_once = max(1, PIECE // pixels) if device.type == "cpu" else -(-n // SHARES)
    return [slice(start, min(start + at_once, n)) for start in range(0, n, at_once or 1)]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch may use, whose operations have one thread each.

    A kernel is hundreds of operations of some microseconds: too short to be shared, since whoever shares one waits for
    the other core, and where that is busy, a hundred times as long. Random numbers and codecs get several cores as
    well. Trade-off: torch knows one number for the whole process, which threads take over that begin meanwhile.
    """
    allowed = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(allowed) as threads:
            yield threads
    finally:
        torch.set_num_threads(allowed)


def check_size(name: str, canvas: Tensor) -> None:
    """Raises ValueError for pictures that are not of 3 channels and at least 32 x 32 pixels, (N, H, W, 3)."""
    height, width, channels = canvas.shape[1:]
    if channels != 3:
        raise ValueError(f"{name} needs pictures of 3 channels, (N, H, W, 3), and got {channels}")
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"{name} needs pictures of at least {SMALLEST} x {SMALLEST} pixels, and got {height} x {width}; "
            "write a larger canvas into the suite, e.g. canvas: 224"
        )
