"""Decoding of image files to 8-bit RGB, and the errors that count as an unreadable example.

Pixels are those of torchvision's loaders: PIL, converted to RGB, at the size of the file. PIL would cut off
or clip more than 8 bits per channel in silence; such a file is refused.
"""

from __future__ import annotations

import errno
import stat
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from robharness.errors import UnreadableExample

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of PIL that are decoded: those of torchvision's suffixes. The number of bits per channel is known in each."""
BITS_PER_SAMPLE = 258
"""Tag of a TIFF file with the number of bits of each channel."""
MACHINE_ERRORS = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET,
    errno.ECONNREFUSED, errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN,
}  # fmt: skip
"""Numbers of errors of the machine or of its network, which say nothing about the file that was opened."""

LARGEST_FILE = 2**30
"""Bytes of an image file; without compression, PIL's largest image has half as many."""


def read_image(source: str | Path | bytes) -> np.ndarray:
    """Read an image as uint8 RGB, (H, W, 3).

    Grey, palette and CMYK images are converted to RGB. Transparency is dropped, so that the stored colours remain. Of
    an animation, the first frame is read. EXIF rotation, gamma and colour profiles are not applied.

    source: a path, or the content of a file.
    Raises UnreadableExample if the file cannot be opened, is truncated or not an image, has more than 8 bits per
    channel, or states more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if isinstance(source, bytes):
        content = source
    else:
        try:
            facts = Path(source).stat()
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):  # a pipe would wait for a writer
                raise UnreadableExample("it is not a regular file")
            if facts.st_size > LARGEST_FILE:
                raise UnreadableExample(f"the file has {facts.st_size / 1e9:.0f} GB, more than an image can have")
            content = Path(source).read_bytes()
        except ValueError as error:  # a null byte in the path
            raise UnreadableExample(f"the file cannot be opened ({error})") from None
        except OSError as error:
            raise as_unreadable(error) or error from None
    if not content:
        raise UnreadableExample("the file is empty")
    try:
        with Image.open(BytesIO(content)) as image:
            if image.format not in FORMATS:
                raise UnreadableExample(f"it is a file of the format {image.format}; convert it to PNG or JPEG")
            _check_size(*image.size)
            _check_depth(image)
            return np.array(image.convert("RGB"))
    except (UnreadableExample, MemoryError):
        raise
    except Exception as error:  # PIL raises errors of many types for a file that it cannot decode
        raise as_unreadable(error, from_pil=True) or error from None


def as_unreadable(error: BaseException, *, from_pil: bool = False) -> UnreadableExample | None:
    """Return the error as that of one example: a file that cannot be opened or decoded. Returns None for other errors.

    Errors of files count, except those of the machine, such as too many open files. Errors that PIL raises count.

    from_pil: whether PIL raised the error, if the caller knows it.
    """
    if isinstance(error, UnreadableExample):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in MACHINE_ERRORS):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return UnreadableExample(f"the file cannot be opened ({error.strerror})")
    if isinstance(error, UnidentifiedImageError):
        return UnreadableExample("it is not an image of a known format, or its header is broken")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return UnreadableExample(f"it states more pixels than the limit of {Image.MAX_IMAGE_PIXELS:,}; scale it down")
    if from_pil or isinstance(error, OSError) or _is_raised_by_pil(error.__traceback__):
        reason = " ".join(str(error).split()) or type(error).__name__
        return UnreadableExample(f"it is broken or truncated ({reason[:100]})")
    return None


def _is_raised_by_pil(traceback: TracebackType | None) -> bool:
    """Return whether the innermost Python function of a traceback belongs to PIL."""
    module = ""
    while traceback is not None:
        module, traceback = str(traceback.tb_frame.f_globals.get("__name__", "")), traceback.tb_next
    return module.partition(".")[0] == "PIL"


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnreadableExample(f"it states {width:,} x {height:,} px, more than the limit of {limit:,}; scale it down")


def _check_depth(image: Image.Image) -> None:
    """Raise UnreadableExample for more than 8 bits per channel, which `convert` would clip or cut off in silence."""
    if image.mode.startswith("F"):
        raise UnreadableExample("it has floating-point values; convert it to 8 bits per channel")
    bits = _bits(image)
    if bits > 8:
        raise UnreadableExample(f"it has {bits} bits per channel; convert it to 8 bits")


def _bits(image: Image.Image) -> int:
    """Return the number of bits per channel of an image that is opened and not decoded; 8 if it is not more."""
    tags = getattr(image, "tag_v2", None)
    if image.format == "TIFF" and tags:
        depths = tags.get(BITS_PER_SAMPLE, ())
        return max([8, *map(int, depths if isinstance(depths, tuple) else (depths,))])
    layout: list[Any] = [image.mode]  # "RGB;16B" and the like: how the decoder unpacks the channels
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if tile[0] in ("ppm", "ppm_plain") and isinstance(arguments[-1], int):
            return max(8, int(arguments[-1]).bit_length())  # the largest value of a channel
        layout += arguments
    if any(isinstance(text, str) and ";16" in text for text in layout):
        return 16
    return 32 if image.mode == "I" else 8
