"""Training pictures: all of a data set in memory, on the device; and the views that a step has of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robharness import Dataset, UserError
from robharness_contrastive.augment import Augmentation, Batched

MOST = 2**33
"""Bytes that pictures may take."""


class Pictures:
    """pixels: uint8 (N, C, H, W). labels: (N,) int64. Both on one device."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Tensor) -> Pictures:
        rows = rows.to(self.pixels.device)
        return Pictures(self.pixels[rows], self.labels[rows])


Views = Callable[[Tensor, int], list[Tensor]]
"""(places in the data (B,), number of the step) -> what an objective compares, each float32 (B, ...) in [0, 1]. A view
is drawn by its example and the step, whoever else is in the batch."""


def views(pictures: Pictures, augmentation: Augmentation, count: int, seed: int) -> Views:
    """So many augmented views of every picture, of the size of the pictures."""
    batched = Batched(augmentation, pictures.pixels.shape[-1])

    def drawn(rows: Tensor, step: int) -> list[Tensor]:
        pixels = pictures.pixels[rows]
        return [batched(pixels, named(seed, "view", step, view), rows) for view in range(count)]

    return drawn


def named(*words: Any) -> int:
    """A seed of 63 bits for what these words name."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def load(dataset: Dataset, shape: tuple[int, ...], device: torch.device | str) -> Pictures:
    """All pictures of a data set. Raises UserError where they do not have this shape, (C, H, W), or fill the memory."""
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


def split(pictures: Pictures, hold_out: float, seed: int) -> tuple[Pictures, Pictures]:
    """What is trained on, and the share that is kept; the same for a seed on every machine."""
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(pictures)))
    kept = round(hold_out * len(pictures))
    return pictures.part(order[kept:].sort().values), pictures.part(order[:kept].sort().values)
