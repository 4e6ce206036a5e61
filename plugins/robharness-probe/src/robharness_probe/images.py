"""Training images that are read and decoded when a batch needs them, by several threads, so that memory stays flat."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness import Dataset, Encoder, UnreadableExample, UserError, preprocessed

AHEAD = 3
"""Batches that are decoded before the network needs them."""
ATTEMPTS = 10
"""Boxes that a random crop tries before the whole image is used."""
MAX_NAMED = 5
"""Number of unreadable images that a message names."""
RATIOS = (3 / 4, 4 / 3)
"""Width over height of a random crop, as in torchvision's `RandomResizedCrop`."""


class TrainingImages:
    """Images of a data set at the size and in the channel order that an encoder takes.

    encoder: gives input and preprocessing.
    crop: smallest share of the area that a random crop keeps; 1 for no crops.
    flip: probability of a horizontal flip.
    seed: with the epoch and the index of an image, selects its crop, its shift and its flip.
    pad: width of a black border, within which a window of the image's size is moved at random; 0 for none.
    """

    def __init__(
        self, dataset: Dataset, encoder: Encoder, *, crop: float, flip: float, seed: int, pad: int = 0
    ) -> None:
        self._dataset, self._shape, self._steps = dataset, tuple(encoder.input.shape), encoder.preprocessing
        self._crop, self._pad, self._flip, self._seed = crop, pad, flip, seed
        self.labels = torch.tensor([int(label) for label in dataset.labels])
        self.unreadable: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Tensor:
        """Return an image as in evaluation, uint8 (C, H, W).

        Raises UnreadableExample for a broken file, and UserError for an image that the encoder does not take.
        """
        image: Any = self._dataset.read(index)
        if self._steps is not None:
            image = preprocessed(image, self._steps)
            if self._steps.channel_order == "bgr" and image.shape[-1] == 3:
                image = image[..., ::-1]
        found = (image.shape[-1], *image.shape[:-1])
        if found != self._shape:
            raise UserError(
                f"'{self._dataset.ids[index]}' has the shape {found}, and the encoder takes {self._shape}. "
                f"Try: `preprocessing: {{resize: [{self._shape[-2]}, {self._shape[-1]}]}}` in `encoder:`"
            )
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))

    def augmented(self, index: int, epoch: int) -> Tensor:
        """Return an image with a random crop at the size in evaluation, shift and flip, uint8 (C, H, W)."""
        image = self.read(index)
        rng = np.random.default_rng([self._seed, 5, epoch, index])
        if self._crop < 1:
            from torchvision.transforms.v2 import functional

            box = crop_box(rng, self._crop, *self._shape[-2:])
            image = functional.resized_crop(image, *box, list(self._shape[-2:]), antialias=True)
        if self._pad:
            bordered = torch.nn.functional.pad(image, [self._pad] * 4)  # as torchvision's `RandomCrop(size, padding)`
            top, left = rng.integers(0, 2 * self._pad + 1, 2).tolist()
            image = bordered[..., top : top + image.shape[-2], left : left + image.shape[-1]]
        return image.flip(-1) if rng.random() < self._flip else image

    def batches(self, order: Tensor, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented images, float32 (B, C, H, W) in [0, 1], and their labels, in the given order.

        order: indices of the examples. Those that cannot be read are left out, and noted in `unreadable`.
        size: of a batch.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            pending: deque[tuple[Tensor, list[Future[Tensor | None]]]] = deque()
            for rows in order.split(size):
                pending.append((rows, [threads.submit(self._noted, int(row), epoch) for row in rows]))
                if len(pending) > AHEAD:
                    yield from self._stacked(*pending.popleft())
            while pending:
                yield from self._stacked(*pending.popleft())

    def _noted(self, index: int, epoch: int) -> Tensor | None:
        try:
            return self.augmented(index, epoch)
        except (UnreadableExample, OSError) as error:
            self.unreadable[self._dataset.ids[index]] = str(error)
            return None

    def _stacked(self, rows: Tensor, futures: list[Future[Tensor | None]]) -> Iterator[tuple[Tensor, Tensor]]:
        images = [future.result() for future in futures]
        readable = [place for place, image in enumerate(images) if image is not None]
        if readable:
            stacked = torch.stack([image for image in images if image is not None])
            yield stacked.float() / 255, self.labels[rows[readable]]

    def report_unreadable(self, message: Callable[[str], None]) -> None:
        """Name the images that could not be read. Raises UserError if none could be read."""
        if not self.unreadable:
            return
        named = [f"{id} ({reason})" for id, reason in sorted(self.unreadable.items())[:MAX_NAMED]]
        more = f" and {len(self.unreadable) - MAX_NAMED} more" if len(self.unreadable) > MAX_NAMED else ""
        if len(self.unreadable) == len(self):
            raise UserError(f"none of the {len(self)} training images can be read: {', '.join(named)}{more}")
        message(f"{len(self.unreadable)} of {len(self)} training images cannot be read and are left out: "
                f"{', '.join(named)}{more}")  # fmt: skip


def crop_box(rng: np.random.Generator, least: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop, with the distribution of torchvision's `RandomResizedCrop`.

    least: smallest share of the area; the largest is 1.
    Returns the whole image if no box of `ATTEMPTS` fits.
    """
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    return 0, 0, height, width
