"""Training images that threads decode when a step needs them, for data sets that do not fit into memory.

A thread reads an image, cuts its views out of the whole image, and drops the image. The views of a few steps are made
ahead, so that decoding overlaps with training. Memory therefore holds the views of these steps and one image per
thread, however large the data set is. A process decodes only its own rows of a step.

Views are drawn by (seed, step, example), as those of images in memory: the order in which threads finish changes
nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robharness import Dataset, UserError, as_unreadable, preprocessed
from robharness_contrastive import data
from robharness_contrastive.augment import ATTEMPTS, Augment, BatchAugmenter, Draws, augmenter, crop_box
from robharness_contrastive.data import Source, seed_of
from robharness_contrastive.params import Recipe
from robharness_contrastive.steps import Augmentation

AHEAD = 2
"""Steps whose views are made while another step trains."""
CHUNK = 4
"""Images that a thread decodes, one after the other, before it takes others."""

Cut = Callable[[np.ndarray, int], Sequence[np.ndarray]]
"""(image, uint8 (H, W, C), its position in the batch) -> what is kept of the image, uint8 (C, H, W) each."""


def load(
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device | str,
    *,
    max_bytes: int = data.MAX_BYTES,
    message: Callable[[str], None] = lambda text: None,
) -> Source:
    """Return the images of a data set, in memory if they fit and have the recipe's shape, else as `Streamed`.

    max_bytes: limit for images in memory, unless `recipe.stream` decides.
    message: gets a sentence that names images that cannot be read.
    """
    size = len(dataset.ids) * int(np.prod(recipe.shape))
    is_streamed = recipe.stream if recipe.stream is not None else recipe.resize is not None or size > max_bytes
    if not is_streamed:
        return data.load(dataset, recipe, device, message=message)
    labels = torch.tensor([int(label) for label in dataset.labels], device=device)
    return Streamed(ImageReader(dataset, recipe, message), torch.arange(len(labels)), labels)


def default_threads() -> int:
    """Return the number of cores that this process may use, shared by the processes that torchrun started beside it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class ImageReader:
    """Read images of a data set and remember those that cannot be read.

    recipe: its `threads` decode.
    message: gets a sentence about each of the first images that cannot be read.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, message: Callable[[str], None]) -> None:
        self.shape, self.steps = recipe.shape, recipe.preprocessing
        self.threads = recipe.threads or default_threads()
        self._dataset, self._message = dataset, message
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()

    def read(self, index: int) -> np.ndarray | None:
        """Return an image, uint8 (H, W, C); None if it cannot be read.

        Raises UserError if the image has not the recipe's channels, or, without a resize, not its shape.
        """
        if index in self._unreadable:
            return None
        try:
            image = np.asarray(self._dataset.read(index))
        except Exception as error:
            reason = as_unreadable(error)
            if reason is None:
                raise
            self._report(index, str(reason))
            return None
        found = (image.shape[-1], *image.shape[:-1])
        if found[0] != self.shape[0] or (self.steps is None and found != tuple(self.shape)):
            raise data.wrong_shape(self._dataset.ids[index], found, self.shape)
        return image

    def describe(self, index: int) -> str:
        """Return the id of an image."""
        return self._dataset.ids[index]

    def _report(self, index: int, reason: str) -> None:
        with self._lock:
            self._unreadable.add(index)
            count = len(self._unreadable)
        if count <= data.MAX_NAMED:
            end = "; others that cannot be read are not named" if count == data.MAX_NAMED else ""
            self._message(
                f"the training example {self._dataset.ids[index]} cannot be read ({reason}): the next one of its class "
                f"takes its place{end}"
            )


class Streamed:
    """Labelled images that are decoded when they are needed.

    An image that cannot be read is replaced by the next one of these that has its label and can be read. The next one
    after the last is the first. A batch therefore keeps its size and its labels, and a resumed training is the same.

    reader: reads the data set.
    indices: (N,) int64, of the images in the data set, on the CPU.
    labels: (N,) int64, on the device that gets the batches.
    """

    def __init__(self, reader: ImageReader, indices: Tensor, labels: Tensor) -> None:
        self.reader, self.indices, self.labels = reader, indices, labels
        self.side = reader.shape[-1]
        self._labels = labels.cpu()

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Tensor) -> Streamed:
        host = rows.cpu()
        return Streamed(self.reader, self.indices[host], self.labels[rows.to(self.labels.device)])

    def with_labels(self, labels: Tensor) -> Streamed:
        return Streamed(self.reader, self.indices, labels)

    def views(
        self, augmentation: Augmentation | Augment, count: int, seed: int, sample_clips: object = None
    ) -> StreamedViews:
        return StreamedViews(self, augmentation, count, seed)

    def evaluation_batches(self) -> Iterator[Tensor]:
        steps = self.reader.steps

        def cut(image: np.ndarray, position: int) -> list[np.ndarray]:
            return [image if steps is None else preprocessed(image, steps)]

        batches = ((rows, cut) for rows in data.batch_rows(len(self), self.reader.shape))
        for pixels in self.decoded(batches, 1, ahead=1):
            yield pixels[0].float() / 255

    def decoded(self, batches: Iterable[tuple[Tensor, Cut]], count: int, *, ahead: int = AHEAD) -> Iterator[Tensor]:
        """Yield what is cut out of the images of each batch, uint8 (count, B, *shape), on the device of the labels.

        Threads end with the iterator, also if it is closed before its end or if reading raises an error.

        batches: (rows (B,), what to cut out of their images).
        count: number of arrays that a cut returns.
        ahead: batches that are decoded while another one is used. There are more if these would leave threads idle.
        """
        device, shape = self.labels.device, self.reader.shape
        pending: deque[tuple[Tensor, list[Future[None]]]] = deque()
        threads = ThreadPoolExecutor(self.reader.threads, "decode")

        def finished() -> Tensor:
            pixels, futures = pending.popleft()
            for future in futures:
                future.result()
            return pixels.to(device, non_blocking=True)

        try:
            for rows, cut in batches:
                pixels = torch.empty((count, len(rows), *shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
                positions = range(len(rows))
                chunks = [positions[first : first + CHUNK] for first in positions[::CHUNK]]
                pending.append(
                    (pixels, [threads.submit(self._decode, chunk, rows, cut, pixels.numpy()) for chunk in chunks])
                )
                enough = max(ahead, 2 * self.reader.threads // max(1, len(chunks)))
                if len(pending) > enough:
                    yield finished()
            while pending:
                yield finished()
        finally:
            threads.shutdown(cancel_futures=True)

    def _decode(self, positions: Iterable[int], rows: Tensor, cut: Cut, pixels: np.ndarray) -> None:
        for position in positions:
            self._decode_one(position, rows, cut, pixels)  # a call, after which nothing refers to the image

    def _decode_one(self, position: int, rows: Tensor, cut: Cut, pixels: np.ndarray) -> None:
        for view, part in enumerate(cut(self._read(int(rows[position])), position)):
            pixels[view, position] = part.transpose(2, 0, 1)

    def _read(self, row: int) -> np.ndarray:
        image = self.reader.read(int(self.indices[row]))
        if image is not None:
            return image
        same = (self._labels == self._labels[row]).nonzero()[:, 0]
        for other in (*same[same > row].tolist(), *same[same < row].tolist()):
            image = self.reader.read(int(self.indices[other]))
            if image is not None:
                return image
        name = self.reader.describe(int(self.indices[row]))
        raise UserError(f"none of the {len(same)} training examples with the label of {name} can be read")


class StreamedViews:
    """Augmented views of streamed images: a `Views` that makes the views of successive steps ahead.

    Images of the recipe's shape get the same augmentation as images in memory. From larger images, a thread cuts the
    crop out of the whole image and resizes it as torchvision's `RandomResizedCrop` does, with antialiasing in 8 bits.
    An image that the augmentation does not move is resized and cropped as in evaluation, and so is every image for an
    augmentation that is a function.
    """

    def __init__(self, source: Streamed, augmentation: Augmentation | Augment, count: int, seed: int) -> None:
        self.source, self.count, self.seed = source, count, seed
        self.augment = augmenter(augmentation, source.side)

    def __call__(self, rows: Tensor, step: int) -> list[Tensor]:
        [views] = self.in_order([(rows, step)])
        return views

    def in_order(self, steps: Iterable[tuple[Tensor, int]]) -> Iterator[list[Tensor]]:
        """Yield the views of steps, given as (rows, number of the step), and decode those of later steps meanwhile."""
        augment, evaluation = self.augment, self.source.reader.steps
        cropper = augment if isinstance(augment, BatchAugmenter) and evaluation is not None else None
        waiting: deque[tuple[Tensor, list[int]]] = deque()

        def batches() -> Iterator[tuple[Tensor, Cut]]:
            for rows, step in steps:
                seeds = [seed_of(self.seed, "view", step, view) for view in range(self.count)]
                waiting.append((rows, seeds))
                yield rows, self._crops(cropper.augmentation, rows, seeds) if cropper else whole

        def whole(image: np.ndarray, position: int) -> list[np.ndarray]:
            return [image if evaluation is None else preprocessed(image, evaluation)]

        for pixels in self.source.decoded(batches(), self.count if cropper else 1):
            rows, seeds = waiting.popleft()
            if cropper:
                yield [cropper.recolour(x, seed, rows) for x, seed in zip(pixels, seeds, strict=True)]
            else:
                yield [augment(pixels[0], seed, rows) for seed in seeds]

    def _crops(self, augmentation: Augmentation, rows: Tensor, seeds: Sequence[int]) -> Cut:
        steps, side = self.source.reader.steps, self.source.side
        assert steps is not None
        drawn = [_DrawnCrops(augmentation, Draws(seed, rows.numpy())) for seed in seeds]
        return lambda image, position: [
            crops.cut(image, position, side)
            if crops.is_moved[position]
            else crops.flip(preprocessed(image, steps), position)
            for crops in drawn
        ]


class _DrawnCrops:
    """Crops, rotations and flips of one view of each image of a step, addressed as in `BatchAugmenter.resample`."""

    def __init__(self, augmentation: Augmentation, draws: Draws) -> None:
        self.augmentation = a = augmentation
        self.is_moved, self.is_flipped = (
            draws.chance(name, chance).tolist() for name, chance in (("moved", a.warp), ("flip", a.flip))
        )
        self.area, self.ratio, self.place = (
            draws.uniform(name, count).numpy()
            for name, count in (("area", ATTEMPTS), ("ratio", ATTEMPTS), ("place", 2))
        )
        self.angle = draws.between("rotation", -a.rotation, a.rotation).tolist()

    def cut(self, image: np.ndarray, position: int, side: int) -> np.ndarray:
        """Return the crop of an image, uint8 (H, W, C), resized to (side, side, C) and flipped if that was drawn."""
        if self.augmentation.rotation:
            image = rotated(image, self.angle[position])
        area, ratio, place = self.area[position], self.ratio[position], self.place[position]
        scale, ratios, (high, wide) = self.augmentation.scale, self.augmentation.ratio, image.shape[:2]
        top, left, height, width = crop_box(area, ratio, place, scale, ratios, high, wide)
        return self.flip(resized(image[top : top + height, left : left + width], side), position)

    def flip(self, image: np.ndarray, position: int) -> np.ndarray:
        """Return the image, mirrored if that was drawn."""
        return image[:, ::-1] if self.is_flipped[position] else image


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Resize an image, uint8 (H, W, C), to (side, side, C), bilinearly with antialiasing, as torchvision does."""
    if image.shape[:2] == (side, side):
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    pixels = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return pixels[0].permute(1, 2, 0).numpy()


def rotated(image: np.ndarray, angle: float) -> np.ndarray:
    """Rotate an image, uint8 (H, W, C), counter-clockwise about its centre by degrees, with black outside."""
    as_pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    turned = np.asarray(as_pil.rotate(angle, Image.Resampling.BILINEAR))
    return turned if turned.ndim == 3 else turned[:, :, None]
