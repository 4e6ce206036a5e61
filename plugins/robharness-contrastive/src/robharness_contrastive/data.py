"""Training images in memory on the device, and the augmented views that a training step compares."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robharness import Dataset, UnreadableExample, UserError
from robharness_contrastive.augment import Augment, augmenter
from robharness_contrastive.params import Recipe
from robharness_contrastive.steps import Augmentation

MAX_BYTES = 2**33
"""Memory that the images or frames of a data set may take."""
MAX_NAMED = 5
"""Number of unreadable examples that a message names."""
BATCH_SIZE, BATCH_BYTES = 512, 2**27
"""Limits of a batch without gradients: examples, and bytes as float32."""


class Source(Protocol):
    """Training examples: images, or videos from which clips are sampled.

    labels: (N,) int64.
    side: of a view, in pixels.
    """

    labels: Tensor
    side: int

    def __len__(self) -> int: ...

    def subset(self, rows: Tensor) -> Source: ...

    def with_labels(self, labels: Tensor) -> Source:
        """Return the same examples with other labels."""
        ...

    def views(self, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: Any = None) -> Views:
        """Return a function that draws `count` augmented views of every example, of the size in evaluation.

        sample_clips: a `video.ClipSampler`; None for random clips. Images ignore it.
        """
        ...

    def evaluation_batches(self) -> Iterator[Tensor]:
        """Yield all examples in order, as in evaluation, in batches: float32 (n, *shape) in [0, 1]."""
        ...


class RawSource(Protocol):
    """A source whose examples are augmented as batches.

    side: of a view, in pixels.
    """

    side: int

    def raw_views(self, rows: Tensor, count: int, seed: int, sample_clips: Any = None) -> Sequence[Tensor]:
        """Return `count` views of these examples before augmentation, uint8 (B, ...) each.

        rows: on the CPU, where the random numbers of these examples are computed.
        sample_clips: a `video.ClipSampler`; None for random clips. Images ignore it.
        """
        ...


def batch_rows(count: int, shape: Sequence[int]) -> Iterator[Tensor]:
    """Yield the indices 0 ... count - 1 in batches that fit a forward pass without gradients."""
    size = max(1, min(BATCH_SIZE, BATCH_BYTES // (4 * int(np.prod(shape)))))
    return (torch.arange(first, min(count, first + size)) for first in range(0, count, size))


class Images:
    """Labelled images in memory.

    pixels: uint8 (N, C, H, W).
    labels: (N,) int64, on the same device.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels
        self.side = pixels.shape[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Tensor) -> Images:
        rows = rows.to(self.pixels.device)
        return Images(self.pixels[rows], self.labels[rows])

    def with_labels(self, labels: Tensor) -> Images:
        return Images(self.pixels, labels)

    def raw_views(self, rows: Tensor, count: int, seed: int, sample_clips: Any = None) -> Sequence[Tensor]:
        return [self.pixels[rows.to(self.pixels.device, non_blocking=True)]] * count

    def views(self, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: Any = None) -> Views:
        return augmented_views(self, augmentation, count, seed)

    def evaluation_batches(self) -> Iterator[Tensor]:
        for rows in batch_rows(len(self), self.pixels.shape[1:]):
            yield self.pixels[rows].float() / 255


Views = Callable[[Tensor, int], list[Tensor]]
"""(indices in the data (B,), on the CPU, number of the step) -> the views that an objective compares, each float32
(B, ...) in [0, 1]. A view is drawn by its example and the step, whatever else is in the batch."""


def augmented_views(
    source: RawSource, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: Any = None
) -> Views:
    """Return a function that draws `count` augmented views of every example, of the size in evaluation."""
    augment = augmenter(augmentation, source.side)

    def draw(rows: Tensor, step: int) -> list[Tensor]:
        raw = source.raw_views(rows, count, seed_of(seed, "look", step), sample_clips)
        return [augment(each, seed_of(seed, "view", step, view), rows) for view, each in enumerate(raw)]

    return draw


def make_views(
    source: Source, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: Any = None
) -> Views:
    """Return the views that the source itself makes, see `Source.views`."""
    return source.views(augmentation, count, seed, sample_clips)


def in_order(views: Views, steps: Iterable[tuple[Tensor, int]]) -> Generator[list[Tensor]]:
    """Yield the views of steps, given as (rows, number of the step).

    Views that have a method `in_order` are made ahead by it. Close the iterator if it is left before its end.
    """
    ahead = getattr(views, "in_order", None)
    yield from ahead(steps) if ahead is not None else (views(rows, step) for rows, step in steps)


def seed_of(*words: Any) -> int:
    """Return a seed of 63 bits that is addressed by these words; other words give other random numbers."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


class Readable:
    """The examples of a data set that can be read.

    kept: indices in the data set.
    """

    def __init__(self, dataset: Dataset, kept: Sequence[int]) -> None:
        self._dataset, self._kept = dataset, kept
        self.ids = [dataset.ids[index] for index in kept]
        self.labels = [dataset.labels[index] for index in kept]

    def read(self, index: int) -> Any:
        return self._dataset.read(self._kept[index])


def without(dataset: Dataset, reasons: Mapping[int, str], message: Callable[[str], None]) -> Dataset:
    """Return the data set without the examples that cannot be read, which `message` gets by name.

    reasons: index -> why the example cannot be read.
    Raises UserError if no example is left.
    """
    kept = [index for index in range(len(dataset.ids)) if index not in reasons]
    named = [f"{dataset.ids[index]} ({reason})" for index, reason in sorted(reasons.items())[:MAX_NAMED]]
    text = f"{', '.join(named)}{f' and {len(reasons) - MAX_NAMED} more' if len(reasons) > MAX_NAMED else ''}"
    if not kept:
        raise UserError(f"none of the {len(reasons)} training examples can be read: {text}")
    message(f"{len(reasons)} of {len(dataset.ids)} training examples cannot be read and are left out: {text}")
    return Readable(dataset, kept)


def load(
    dataset: Dataset, recipe: Recipe, device: torch.device | str, *, message: Callable[[str], None] = lambda text: None
) -> Images:
    """Read all images of a data set; those that cannot be read are left out.

    message: gets a sentence that names the images that are left out.
    Raises UserError if an image does not have the recipe's shape, or if the images exceed `MAX_BYTES`.
    """
    shape = recipe.shape
    count, size = len(dataset.ids), int(np.prod(shape))
    if count * size > MAX_BYTES:
        raise UserError(
            f"{count} images of {shape} take {count * size / 2**30:.0f} GiB of memory, more than the limit of "
            f"{MAX_BYTES / 2**30:.0f} GiB. Try: `stream: true`"
        )
    pixels = np.empty((count, *shape), np.uint8)

    reasons: dict[int, str] = {}

    def read(index: int) -> None:
        try:
            image = np.asarray(dataset.read(index))
        except (UnreadableExample, OSError) as error:
            reasons[index] = str(error)
            return
        found = (image.shape[-1], *image.shape[:-1])
        if found != tuple(shape):
            raise wrong_shape(dataset.ids[index], found, shape)
        pixels[index] = np.moveaxis(image, -1, 0)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(read, range(count)))
    if reasons:
        return load(without(dataset, reasons, message), recipe, device, message=message)
    labels = torch.tensor([int(label) for label in dataset.labels])
    return Images(torch.from_numpy(pixels).to(device), labels.to(device))


def wrong_shape(name: str, found: Sequence[int], shape: Sequence[int]) -> UserError:
    """Return the error about an image, named by its id, that does not have the recipe's shape."""
    resize = f", or `resize: {round(shape[-1] * 256 / 224)}` for images of any size" if found[0] == shape[0] else ""
    return UserError(
        f"'{name}' has the shape {tuple(found)}, but the recipe says {tuple(shape)}. "
        f"Try: `input: {list(found)}`{resize}"
    )


def split(source: Source, hold_out: float, seed: int) -> tuple[Source, Source]:
    """Return the training examples and the held-out share. A seed gives the same split on every machine."""
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(source)))
    held_out = round(hold_out * len(source))
    return source.subset(order[held_out:].sort().values), source.subset(order[:held_out].sort().values)
