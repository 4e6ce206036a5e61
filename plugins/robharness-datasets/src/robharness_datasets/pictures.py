"""Pictures in files, decoded as the publishers' code decodes them: by PIL, in RGB, at the size that they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import UserError

if TYPE_CHECKING:
    import numpy as np


class PictureFiles:
    """Pictures of several sizes, uint8 (H, W, 3). ids: their paths below `folder`, e.g. "n01440764/one.JPEG"."""

    def __init__(self, folder: Path, examples: Iterable[tuple[str, int]]) -> None:
        pairs = list(examples)
        self.ids: Sequence[str] = [id for id, _ in pairs]
        self.labels: Sequence[int] = [label for _, label in pairs]
        self._folder = folder

    def read(self, index: int) -> np.ndarray:
        return read_rgb(self._folder / self.ids[index])


def read_rgb(file: Path) -> np.ndarray:
    """The picture in a file, uint8 (H, W, 3): grey, CMYK and palettes converted by PIL, EXIF's rotation left alone.

    Raises UserError where the file is broken, or has more than 8 bits, which PIL would cut off.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(f"{file} has more than 8 bits a channel. Try: mogrify -depth 8 {file}")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for a file that is cut off or no picture
        raise UserError(f"{file} cannot be decoded ({error}). Unpack it again, then type the same command") from error
