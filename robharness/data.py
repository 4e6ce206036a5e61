"""From a data set's pixels to batches: canvas, corruption, the model's own resize, and then [0, 1].

Every step but the last keeps 8 bits, so that stored and on-the-fly pictures agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from robharness.cells import PlannedData
from robharness.classifier import Batch
from robharness.errors import Violation
from robharness.specs import ModelSpec, Preprocessing

Picture = np.ndarray
"""uint8, (H, W, C) or, for a video, (T, H, W, C)."""


Item = TypeVar("Item")
Made = TypeVar("Made")
READERS = 8
"""Threads that decode at most; decoders of pictures let go of Python's lock."""
MOST_AT_A_TIME = 16
"""Pictures that a thread takes at most before it looks whether they are wanted still."""


class Threads:
    """Threads of a reader: some read ahead, others serve what is asked for now, which must not wait for those."""

    def __init__(self) -> None:
        count = min(READERS, os.cpu_count() or 1)
        self._coordinator = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead = ThreadPoolExecutor(count, thread_name_prefix="decode-ahead")
        self._now = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def later(
        self, do: Callable[[Item], Made], items: Sequence[Item], then: Callable[[list[Made]], Any]
    ) -> Future[Any]:
        """What `then` makes of what `do` makes of each item, some time."""
        return self._coordinator.submit(lambda: then(self._each(self._ahead, do, items)))

    def now(self, do: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """What `do` makes of each item, in order."""
        return self._each(self._now, do, items)

    def _each(self, pool: ThreadPoolExecutor, do: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """Some items at a time, since small pictures cost less than a hand-over."""
        size = min(MOST_AT_A_TIME, -(-len(items) // (4 * READERS)) or 1)
        runs = [items[start : start + size] for start in range(0, len(items), size)]
        return [made for run in pool.map(lambda run: [do(item) for item in run], runs) for made in run]

    def close(self) -> None:
        """Begin nothing any more; what is begun ends by itself."""
        for pool in (self._coordinator, self._ahead, self._now):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Examples of a span, decoded and fitted to the model, on the host: a quarter of the bytes of a batch.

    fitted: (N, H, W, C) or (N, T, H, W, C) uint8. canvas: (N, side, side, 3) uint8, where the suite has one.
    """

    span: tuple[int, int]
    fitted: np.ndarray
    canvas: np.ndarray | None

    def part(self, start: int, stop: int) -> Pictures:
        """Those of positions start to stop - 1."""
        rows = slice(start - self.span[0], stop - self.span[0])
        return Pictures(
            span=(start, stop), fitted=self.fitted[rows], canvas=None if self.canvas is None else self.canvas[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads spans of a data set as a model wants them. canvas: side in pixels, or None."""

    data: PlannedData
    canvas: int | None
    model: ModelSpec
    device: torch.device
    threads: Threads = field(default_factory=Threads)

    def read(self, start: int, stop: int) -> Batch:
        """The examples at positions start to stop - 1. Raises Violation where a picture does not fit the model."""
        return self.batch(self.pictures(start, stop))

    def ahead(self, start: int, stop: int) -> Future[Pictures]:
        """The pictures of a span, read while the caller does something else."""
        indices = self.data.order[start:stop]
        return self.threads.later(self._prepared, indices, lambda made: _stacked((start, stop), made))

    def pictures(self, start: int, stop: int) -> Pictures:
        """The examples at positions start to stop - 1, read and decoded by several threads; raises as `read`."""
        return _stacked((start, stop), self.threads.now(self._prepared, self.data.order[start:stop]))

    def _prepared(self, index: int) -> tuple[Picture, Picture | None]:
        """A picture as the model takes it, and on the canvas: the large one it was read as is let go at once."""
        picture, canvas = self._picture(index), None
        if self.canvas is not None:
            picture = canvas = on_canvas(picture, self.canvas)
        return self._fitted(picture), canvas

    def batch(self, pictures: Pictures) -> Batch:
        """Pictures as a batch on the model's device."""
        indices = self.data.order[slice(*pictures.span)]
        labels = torch.tensor([int(self.data.dataset.labels[index]) for index in indices], device=self.device)
        canvas = None if pictures.canvas is None else torch.from_numpy(pictures.canvas.copy())
        return Batch(self.data.ids(*pictures.span), self._on_device(pictures.fitted), labels, canvas)

    def inputs(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures (of the canvas, where there is one) as the model's input, (N, *shape) float32 in [0, 1]."""
        return self._on_device(np.stack(self.threads.now(self._fitted, pictures)))

    def _fitted(self, picture: Picture) -> Picture:
        """The picture (of the canvas, where there is one) at the model's size. Raises Violation if it does not fit."""
        steps = self.model.preprocessing or Preprocessing()
        size = self.model.input.shape[-2:]
        picture = preprocessed(picture, steps) if self.canvas is None else _resized(picture, size, steps)
        found = (picture.shape[-1], *picture.shape[:-1])
        if found != tuple(self.model.input.shape):
            raise Violation(
                f"the model takes {tuple(self.model.input.shape)}, the data give {found} after preprocessing; "
                f"declare a `preprocessing` that fits, or another `input`",
                by="model",
            )
        return picture

    def _on_device(self, fitted: np.ndarray) -> Tensor:
        stacked = torch.from_numpy(fitted).to(self.device)
        steps = self.model.preprocessing or Preprocessing()
        if steps.channel_order == "bgr" and self.model.input.shape[0] == 3:
            stacked = stacked.flip(-1)
        return stacked.movedim(-1, 1).to(torch.float32) / 255

    def _picture(self, index: int) -> Picture:
        picture = np.asarray(self.data.dataset.read(index))
        if picture.dtype != np.uint8 or picture.ndim not in (3, 4):
            raise Violation(
                f"{self.data.entry.name} must give uint8 (H, W, C) or (T, H, W, C), it gave {picture.dtype} "
                f"{picture.shape} for '{self.data.dataset.ids[index]}'",
                by="data",
            )
        return picture


def on_canvas(picture: Picture, side: int) -> Picture:
    """The picture as ImageNet-C has it: shorter side to side * 256 / 224, central crop; left alone if it fits."""
    if picture.shape[-3:-1] == (side, side):
        return picture
    return preprocessed(picture, Preprocessing(resize=round(side * 256 / 224), crop=side))


def preprocessed(picture: Picture, steps: Preprocessing) -> Picture:
    """The picture resized and cropped as declared, 8 bits in and out."""
    if steps.resize is not None:
        picture = _resized(picture, steps.resize, steps)
    if steps.crop is not None:
        crop = (steps.crop, steps.crop) if isinstance(steps.crop, int) else steps.crop
        picture = _through(picture, lambda image: v2.functional.center_crop(image, list(crop)))
    return picture


def _resized(picture: Picture, size: int | Sequence[int], steps: Preprocessing) -> Picture:
    if not isinstance(size, int) and tuple(picture.shape[-3:-1]) == tuple(size):
        return picture
    lengths = [size] if isinstance(size, int) else list(size)
    mode = v2.InterpolationMode(steps.interpolation)
    return _through(picture, lambda image: v2.functional.resize(image, lengths, mode, antialias=steps.antialias), steps)


def _through(picture: Picture, change, steps: Preprocessing | None = None) -> Picture:  # type: ignore[no-untyped-def]
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


def _stacked(span: tuple[int, int], made: list[tuple[Picture, Picture | None]]) -> Pictures:
    canvases = [canvas for _, canvas in made if canvas is not None]
    return Pictures(
        span=span, fitted=np.stack([fitted for fitted, _ in made]), canvas=np.stack(canvases) if canvases else None
    )
