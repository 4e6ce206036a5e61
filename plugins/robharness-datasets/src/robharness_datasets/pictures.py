"""Pictures in files, decoded as the publishers' code decodes them: by PIL, in RGB, at the size that they have."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from robharness import UnreadableExample, UserError

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

    Raises UnreadableExample for a file that is cut off or no picture, OSError where it is not there (any more), and UserError
    where it has more than 8 bits, which PIL would cut off.
    """
    import numpy as np
    from PIL import Image

    content = BytesIO(file.read_bytes())
    try:
        with Image.open(content) as image:
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{file} has more than 8 bits a channel. Try: mogrify -depth 8 {shlex.quote(str(file))}"
                )
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # whatever PIL says to what it cannot decode
        raise UnreadableExample(f"{file} is cut off or no picture: {error}") from error
