"""Image operations on 8-bit arrays: canvas, resize, crop, encoding.

torchvision is imported at the first resize or crop: its import takes as long as that of torch, in every worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from robharness.specs.inputs import Preprocessing

ImageArray = np.ndarray
"""uint8, (H, W, C) or, for a video, (T, H, W, C)."""


def on_canvas(image: ImageArray, side: int) -> ImageArray:
    """Return the image on the canvas as ImageNet-C has it: shorter side to side * 256 / 224, then a central crop.

    An image that has the canvas's size already is returned as it is.
    """
    if image.shape[-3:-1] == (side, side):
        return image
    return preprocessed(image, Preprocessing(resize=round(side * 256 / 224), crop=side))


def encode_jpeg85(image: ImageArray) -> bytes:
    """Return the JPEG file of an image, uint8 (H, W, C), as the publishers of ImageNet-C encode it: quality 85.

    The encoding removes a quarter of the noise of severity 1. Source: `make_imagenet_c.py` of Hendrycks and Dietterich
    2019, which saves by PIL with these two options; by default, colours have half the width and height.
    """
    content = BytesIO()
    _to_pil(image).save(content, "JPEG", quality=85, optimize=True)
    return content.getvalue()


def encode_png(image: ImageArray) -> bytes:
    """Return the PNG file of an image, uint8 (H, W, C)."""
    content = BytesIO()
    _to_pil(image).save(content, "PNG")
    return content.getvalue()


def decode_image(file: bytes) -> ImageArray:
    """Return the image in a file of 8 bits per channel, (H, W, C), decoded by PIL; C is 1 for grey images."""
    with Image.open(BytesIO(file)) as opened:
        image = np.array(opened)
    return image if image.ndim == 3 else image[:, :, None]


def _to_pil(image: ImageArray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)


def preprocessed(image: ImageArray, steps: Preprocessing) -> ImageArray:
    """Return the image resized and cropped as declared, in 8 bits.

    It is not cropped for clips with several crops, which are cut out of whole frames later.
    """
    crop = None if steps.clips is not None and steps.clips.crops > 1 else steps.crop
    crops, resizes = partial(_cropped, crop=crop), partial(resized, size=steps.resize, steps=steps)
    for change in (resizes, crops) if steps.first == "resize" else (crops, resizes):
        image = change(image)
    return image


def _cropped(image: ImageArray, crop: int | tuple[int, int] | None) -> ImageArray:
    if crop is None:
        return image
    from torchvision.transforms import v2

    sides = (crop, crop) if isinstance(crop, int) else crop
    return _through(image, lambda pixels: v2.functional.center_crop(pixels, list(sides)))


def resized(image: ImageArray, size: int | Sequence[int] | None, steps: Preprocessing) -> ImageArray:
    """Return the image resized with the interpolation of the preprocessing steps, in 8 bits.

    size: of the shorter side, or (height, width); None leaves the image as it is.
    """
    if size is None:
        return image
    if not isinstance(size, int) and tuple(image.shape[-3:-1]) == tuple(size):
        return image
    from torchvision.transforms import v2

    lengths = [size] if isinstance(size, int) else list(size)
    mode = v2.InterpolationMode(steps.interpolation)
    return _through(image, lambda pixels: v2.functional.resize(pixels, lengths, mode, antialias=steps.antialias), steps)


def _through(image: ImageArray, change, steps: Preprocessing | None = None) -> ImageArray:  # type: ignore[no-untyped-def]
    """Apply a torchvision function to an image or to every frame of a video.

    PIL is used, as publishers do, unless `steps.antialias` is off, which only torchvision's tensor path implements.
    """
    if image.ndim == 4:
        return np.stack([_through(frame, change, steps) for frame in image])
    if steps is not None and not steps.antialias:
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return np.ascontiguousarray(change(tensor).permute(1, 2, 0).numpy())
    changed = np.asarray(change(_to_pil(np.ascontiguousarray(image))))
    return changed if changed.ndim == 3 else changed[:, :, None]
