"""Image files, decoded like in the publishers' code: by PIL, to RGB, at their own size."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import UnreadableExample, UserError

if TYPE_CHECKING:
    import numpy as np


class ImageFiles:
    """Images of different sizes; `read` returns uint8 (H, W, 3).

    folder: contains the image files.
    examples: (id, label) pairs; an id is the path below `folder`, e.g. "n01440764/one.JPEG".
    """

    def __init__(self, folder: Path, examples: Iterable[tuple[str, int]]) -> None:
        pairs = list(examples)
        self.ids: Sequence[str] = [id for id, _ in pairs]
        self.labels: Sequence[int] = [label for _, label in pairs]
        self._folder = folder

    def read(self, index: int) -> np.ndarray:
        return read_rgb(self._folder / self.ids[index])


def read_rgb(file: Path) -> np.ndarray:
    """Read an image as uint8 (H, W, 3).

    PIL converts greyscale, CMYK and palette images to RGB. EXIF rotation is not applied.
    Raises UnreadableExample if the file is truncated or not an image, and OSError if it does not exist.
    Raises UserError if the image has more than 8 bits per channel, which PIL would discard.
    """
    import numpy as np
    from PIL import Image

    content = BytesIO(file.read_bytes())
    try:
        with Image.open(content) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{file} has more than 8 bits per channel. Try: mogrify -depth 8 {shlex.quote(str(file))}"
                )
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for a file that it cannot decode
        raise UnreadableExample(f"{file} is truncated or not an image: {error}") from error
