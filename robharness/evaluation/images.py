"""Image operations on 8-bit arrays: canvas, resize, crop, encoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from robharness.specs.inputs import Preprocessing

ImageArray = np.ndarray
"""uint8, (H, W, C) or, for a video, (T, H, W, C)."""


def on_canvas(picture: ImageArray, side: int) -> ImageArray:
    """The picture as ImageNet-C has it: shorter side to side * 256 / 224, central crop; left alone if it fits."""
    if picture.shape[-3:-1] == (side, side):
        return picture
    return preprocessed(picture, Preprocessing(resize=round(side * 256 / 224), crop=side))


def encode_jpeg85(picture: ImageArray) -> bytes:
    """The file that ImageNet-C's publishers would have written of a picture, uint8 (H, W, C): JPEG of quality 85.

    It takes a quarter off the noise of severity 1. Source: `make_imagenet_c.py` of Hendrycks and Dietterich 2019,
    which saves by PIL with these two options; the default subsamples colours to half the width and height.
    """
    content = BytesIO()
    _to_pil(picture).save(content, "JPEG", quality=85, optimize=True)
    return content.getvalue()


def encode_png(picture: ImageArray) -> bytes:
    """The PNG file of a picture, uint8 (H, W, C)."""
    content = BytesIO()
    _to_pil(picture).save(content, "PNG")
    return content.getvalue()


def decode_image(file: bytes) -> ImageArray:
    """The picture in a file of 8 bits a channel, by PIL; grey ones have one channel."""
    with Image.open(BytesIO(file)) as image:
        picture = np.array(image)
    return picture if picture.ndim == 3 else picture[:, :, None]


def _to_pil(picture: ImageArray) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[-1] == 1 else picture)


def preprocessed(picture: ImageArray, steps: Preprocessing) -> ImageArray:
    """The picture resized and cropped as declared, 8 bits in and out; of clips with several crops, not cropped."""
    crop = None if steps.clips is not None and steps.clips.crops > 1 else steps.crop
    crops, resizes = partial(_cropped, crop=crop), partial(resized, size=steps.resize, steps=steps)
    for change in (resizes, crops) if steps.first == "resize" else (crops, resizes):
        picture = change(picture)
    return picture


def _cropped(picture: ImageArray, crop: int | tuple[int, int] | None) -> ImageArray:
    if crop is None:
        return picture
    sides = (crop, crop) if isinstance(crop, int) else crop
    return _through(picture, lambda image: v2.functional.center_crop(image, list(sides)))


def resized(picture: ImageArray, size: int | Sequence[int] | None, steps: Preprocessing) -> ImageArray:
    if size is None:
        return picture
    if not isinstance(size, int) and tuple(picture.shape[-3:-1]) == tuple(size):
        return picture
    lengths = [size] if isinstance(size, int) else list(size)
    mode = v2.InterpolationMode(steps.interpolation)
    return _through(picture, lambda image: v2.functional.resize(image, lengths, mode, antialias=steps.antialias), steps)


def _through(picture: ImageArray, change, steps: Preprocessing | None = None) -> ImageArray:  # type: ignore[no-untyped-def]
    """A torchvision function over one picture or every frame: by PIL, as publishers do it, unless `antialias` is off,
    which only the tensor path knows."""
    if picture.ndim == 4:
        return np.stack([_through(frame, change, steps) for frame in picture])
    if steps is not None and not steps.antialias:
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        return np.ascontiguousarray(change(tensor).permute(1, 2, 0).numpy())
    image = v2.functional.to_pil_image(np.ascontiguousarray(picture))
    changed = np.asarray(change(image))
    return changed if changed.ndim == 3 else changed[:, :, None]
