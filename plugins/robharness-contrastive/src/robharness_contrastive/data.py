"""Training pictures: all of a data set in memory, on the device; and the views that a step has of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robharness import Dataset, UserError
from robharness_contrastive.augment import Augmentation, Batched
from robharness_contrastive.params import Recipe

MOST = 2**33
"""Bytes that pictures may take."""
ROWS, ROW_BYTES = 512, 2**27
"""Examples of a pass without gradients, and what they may take as float32."""


class Source(Protocol):
    """What is trained on: pictures, or videos of which clips are looked at. labels: (N,) int64. side: of a view."""

    labels: Tensor
    side: int

    def __len__(self) -> int: ...

    def part(self, rows: Tensor) -> Source: ...

    def labelled(self, labels: Tensor) -> Source:
        """The same examples, of other classes."""
        ...

    def look(self, rows: Tensor, views: int, seed: int, cut: Any = None) -> Sequence[Tensor]:
        """So many views of these examples before augmentation, uint8 (B, ...) each. rows: on the CPU, where what is
        drawn for them is computed. cut: see `video.Cut`."""
        ...

    def plain(self) -> Iterator[Tensor]:
        """All examples as they are judged, in their order: float32 (n, *shape) in [0, 1], a pass at a time."""
        ...


def passes(count: int, shape: Sequence[int]) -> Iterator[Tensor]:
    """The examples 0 ... count - 1, as many at a time as a pass without gradients takes."""
    rows = max(1, min(ROWS, ROW_BYTES // (4 * int(np.prod(shape)))))
    return (torch.arange(first, min(count, first + rows)) for first in range(0, count, rows))


class Pictures:
    """pixels: uint8 (N, C, H, W). labels: (N,) int64. Both on one device."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels
        self.side = pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Tensor) -> Pictures:
        rows = rows.to(self.pixels.device)
        return Pictures(self.pixels[rows], self.labels[rows])

    def labelled(self, labels: Tensor) -> Pictures:
        return Pictures(self.pixels, labels)

    def look(self, rows: Tensor, views: int, seed: int, cut: Any = None) -> Sequence[Tensor]:
        return [self.pixels[rows.to(self.pixels.device, non_blocking=True)]] * views

    def plain(self) -> Iterator[Tensor]:
        for rows in passes(len(self), self.pixels.shape[1:]):
            yield self.pixels[rows].float() / 255


Views = Callable[[Tensor, int], list[Tensor]]
"""(places in the data (B,), on the CPU, number of the step) -> what an objective compares, each float32 (B, ...) in
[0, 1]. A view is drawn by its example and the step, whoever else is in the batch."""


def views(source: Source, augmentation: Augmentation, count: int, seed: int, cut: Any = None) -> Views:
    """So many augmented views of every example, of the size that they are judged at."""
    batched = Batched(augmentation, source.side)

    def drawn(rows: Tensor, step: int) -> list[Tensor]:
        seen = source.look(rows, count, named(seed, "look", step), cut)
        return [batched(each, named(seed, "view", step, view), rows) for view, each in enumerate(seen)]

    return drawn


def named(*words: Any) -> int:
    """A seed of 63 bits for what these words name."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def load(dataset: Dataset, recipe: Recipe, device: torch.device | str) -> Pictures:
    """All pictures of a data set. Raises UserError where they do not have the recipe's shape, or fill the memory."""
    shape = recipe.shape
    count, size = len(dataset.ids), int(np.prod(shape))
    if count * size > MOST:
        raise UserError(f"{count} pictures of {shape} take {count * size / 2**30:.0f} GiB, more than the 8 that may be")
    pixels = np.empty((count, *shape), np.uint8)

    def read(index: int) -> None:
        picture = np.asarray(dataset.read(index))
        found = (picture.shape[-1], *picture.shape[:-1])
        if found != tuple(shape):
            raise UserError(f"'{dataset.ids[index]}' has the shape {found}, the recipe says {tuple(shape)}")
        pixels[index] = np.moveaxis(picture, -1, 0)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(read, range(count)))
    labels = torch.tensor([int(label) for label in dataset.labels])
    return Pictures(torch.from_numpy(pixels).to(device), labels.to(device))


def split(source: Source, hold_out: float, seed: int) -> tuple[Source, Source]:
    """What is trained on, and the share that is kept; the same for a seed on every machine."""
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(source)))
    kept = round(hold_out * len(source))
    return source.part(order[kept:].sort().values), source.part(order[:kept].sort().values)
