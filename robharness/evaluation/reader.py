"""Reading of a data set into batches: canvas, corruption, encoding, the model's own resize, and then [0, 1].

Every step but the last keeps 8 bits, so that stored corruptions and corruptions that are computed in a run agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation, UnreadableExample
from robharness.evaluation.batch import Batch
from robharness.evaluation.clips import ClipLayout, clip_frames, crop_corners
from robharness.evaluation.decoding import as_unreadable
from robharness.evaluation.images import ImageArray, decode_image, encode_jpeg85, on_canvas, preprocessed, resized
from robharness.planning.pixels import Canvas
from robharness.planning.planned import PlannedData
from robharness.plugins.calls import plugin_errors
from robharness.specs.inputs import Preprocessing
from robharness.specs.records import ModelSpec
from robharness.suite import Compat

Item = TypeVar("Item")
Result = TypeVar("Result")
READERS = 8
"""Maximum number of decoding threads; image decoders release Python's global lock."""
MAX_CHUNK = 16
"""Maximum number of images that a thread decodes before its pool can be cancelled."""


class Threads:
    """Thread pools of a reader: one reads ahead, the other serves current requests, which must not wait for it."""

    def __init__(self) -> None:
        count = min(READERS, os.cpu_count() or 1)
        self._coordinator = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead = ThreadPoolExecutor(count, thread_name_prefix="decode-ahead")
        self._current = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def submit(
        self, function: Callable[[Item], Result], items: Sequence[Item], then: Callable[[list[Result]], Any]
    ) -> Future[Any]:
        """Return a future of `then(results)`, where results are `function(item)` of each item, in order."""
        return self._coordinator.submit(lambda: then(self._map(self._ahead, function, items)))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return `function(item)` of each item, in order."""
        return self._map(self._current, function, items)

    def _map(self, pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Map in chunks, since decoding a small image costs less than passing it to a thread."""
        size = min(MAX_CHUNK, -(-len(items) // (4 * READERS)) or 1)
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        return [
            result for part in pool.map(lambda chunk: [function(item) for item in chunk], chunks) for result in part
        ]

    def close(self) -> None:
        """Cancel what has not started, and return without waiting for the rest."""
        for pool in (self._coordinator, self._ahead, self._current):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Decoded examples that make one batch: images of one shape, or videos with one clip layout.

    positions: (n,), ascending.
    fitted: at the model's size, (n, H, W, C) or (n, T, H, W, C) uint8.
    canvas: the same at the size of the suite's canvas, if it has one.
    clip_layout: for videos that the model sees in clips.
    frames: for videos, (n, T), the frames' numbers in the whole video.
    """

    positions: np.ndarray
    fitted: np.ndarray
    canvas: np.ndarray | None
    clip_layout: ClipLayout | None
    frames: np.ndarray | None

    def between(self, start: int, stop: int) -> Group:
        """Return the examples at positions start to stop - 1."""
        return self.at(slice(*np.searchsorted(self.positions, (start, stop))))

    def at(self, rows: slice) -> Group:
        """Return the examples in these rows."""
        return Group(
            positions=self.positions[rows],
            fitted=self.fitted[rows],
            canvas=None if self.canvas is None else self.canvas[rows],
            clip_layout=self.clip_layout,
            frames=None if self.frames is None else self.frames[rows],
        )


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """Examples, decoded and fitted to the model, in the host's memory; batches need four times the bytes.

    unreadable: position -> the reason why the example cannot be read.
    """

    groups: tuple[Group, ...]
    unreadable: Mapping[int, str]

    def part(self, start: int, stop: int) -> DecodedImages:
        """Return the examples at positions start to stop - 1."""
        groups = [group.between(start, stop) for group in self.groups]
        return DecodedImages(
            groups=tuple(group for group in groups if len(group.positions)),
            unreadable={at: reason for at, reason in self.unreadable.items() if start <= at < stop},
        )


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of spans of a data set, as inputs of a model.

    canvas: its side in pixels; "own" if corruptions take images in their own size; None without a canvas.
    model: None to read images of the canvas, which no model sees.
    compat: "imagenet-c" if images, also clean ones, are encoded as JPEG between the canvas and the model.
    """

    data: PlannedData
    canvas: Canvas
    model: ModelSpec | None
    device: torch.device
    compat: Compat = "none"
    threads: Threads = field(default_factory=Threads)

    def read(self, start: int, stop: int) -> Batch:
        """Return the examples at positions start to stop - 1 as one batch.

        Raises ContractViolation if an image does not fit the model, and as `batch` does.
        """
        return self.batch(self.images(start, stop))

    def ahead(self, start: int, stop: int) -> Future[DecodedImages]:
        """Read the examples at positions start to stop - 1 in the background."""
        indices = self.data.order[start:stop]
        return self.threads.submit(self._prepared, indices, lambda prepared: _grouped(range(start, stop), prepared))

    def images(self, start: int, stop: int) -> DecodedImages:
        """Return the examples at positions start to stop - 1, read and decoded by several threads.

        Raises ContractViolation if an image does not fit the model.
        """
        return self.images_at(range(start, stop))

    def images_at(self, positions: Sequence[int]) -> DecodedImages:
        """Return the examples at these positions, ascending, as `images` does."""
        indices = [self.data.order[position] for position in positions]
        return _grouped(positions, self.threads.map(self._prepared, indices))

    def batches(self, images: DecodedImages) -> list[tuple[np.ndarray, Batch]]:
        """Return decoded images as batches on the model's device, each with its positions, (N,)."""
        return [(group.positions, self._batch(group)) for group in images.groups]

    def batch(self, images: DecodedImages) -> Batch:
        """Return decoded images of one group as a batch.

        Raises ContractViolation, by the data, if there are several groups, or if an example cannot be read.
        """
        for position, reason in images.unreadable.items():
            raise ContractViolation(f"'{self.data.ids(position, position + 1)[0]}' cannot be read: {reason}", by="data")
        if len(images.groups) != 1:
            raise ContractViolation("its videos have several clip layouts, and do not make one batch", by="data")
        return self._batch(images.groups[0])

    def inputs(self, images: Tensor, clip_layout: ClipLayout | None = None, *, are_files: bool = False) -> Tensor:
        """Return images of the canvas as the model's input, float32 in [0, 1].

        images: uint8, (N, H, W, C) or (N, T, H, W, C), on any device. They are not copied to the host if they have the
            model's size already and are not encoded.
        clip_layout: for videos that the model sees in clips.
        are_files: whether their publisher encoded them already, so that they are not encoded again.
        """
        fits = self._takes(images.shape) and (isinstance(self.canvas, int) or not self._has_steps)
        if fits and (are_files or self.compat == "none"):
            return self._on_device(images)
        fit = partial(self._fitted, clip_layout=clip_layout, encode=not are_files)
        return self._on_device(torch.from_numpy(np.stack(self.threads.map(fit, list(images.cpu().numpy())))))

    @property
    def _has_steps(self) -> bool:
        """Whether the model declares a resize or a crop of its own."""
        steps = (self.model and self.model.preprocessing) or Preprocessing()
        return steps.resize is not None or steps.crop is not None

    def _takes(self, shape: Sequence[int]) -> bool:
        """Return whether images or frames of this shape, (N, H, W, C) or (N, T, H, W, C), have the model's size."""
        if self.model is None:
            return True
        channels, *_, height, width = self.model.input.shape
        return tuple(shape[-3:]) == (height, width, channels)

    def _batch(self, group: Group) -> Batch:
        indices = [self.data.order[position] for position in group.positions]
        labels = torch.tensor([self.data.seen_labels[index] for index in indices], device=self.device)
        canvas = None if group.canvas is None else torch.from_numpy(group.canvas.copy())
        ids = [self.data.dataset.ids[index] for index in indices]
        frames = None if group.frames is None else torch.from_numpy(group.frames)
        x = self._on_device(torch.from_numpy(group.fitted))
        return Batch(ids, x, labels, canvas, group.clip_layout, frames)

    def _prepared(self, index: int) -> _Prepared | UnreadableExample:
        """Return an example at the model's size and on the canvas; the larger image that was read is freed at once."""
        try:
            with plugin_errors():
                image, clip_layout, frames = self._read(index)
        except Exception as error:
            if (broken := as_unreadable(error)) is None:
                raise
            return broken
        canvas = None
        if isinstance(self.canvas, int):
            image = canvas = on_canvas(image, self.canvas)
        elif self.canvas is not None:
            canvas = image
        return _Prepared(self._fitted(image, clip_layout), canvas, clip_layout, frames)

    def _fitted(self, image: ImageArray, clip_layout: ClipLayout | None = None, *, encode: bool = True) -> ImageArray:
        """Return an image, of the canvas if the suite has one, at the model's size.

        Raises ContractViolation, by the model, if it does not fit.
        """
        if encode and self.compat == "imagenet-c":
            image = decode_image(encode_jpeg85(image))
        if self.model is None:
            return image
        steps, wanted = self.model.preprocessing or Preprocessing(), tuple(self.model.input.shape)
        is_on_canvas = isinstance(self.canvas, int)
        image = resized(image, wanted[-2:], steps) if is_on_canvas else preprocessed(image, steps)
        found = (image.shape[-1], *image.shape[:-1])
        if clip_layout is not None:  # all distinct frames of the clips; squares are cut out later
            wanted = (wanted[0], clip_layout.n_frames, *(found[-2:] if clip_layout.corners else wanted[-2:]))
        if found != wanted:
            raise ContractViolation(
                f"the model takes {wanted}, the data give {found} after preprocessing; "
                f"declare a `preprocessing` that fits, or another `input`",
                by="model",
            )
        return image

    def _on_device(self, fitted: Tensor) -> Tensor:
        stacked = fitted.to(self.device)
        steps = self.model and self.model.preprocessing
        if steps and steps.channel_order == "bgr" and stacked.shape[-1] == 3:
            stacked = stacked.flip(-1)
        return stacked.movedim(-1, 1).to(torch.float32) / 255

    def _read(self, index: int) -> tuple[ImageArray, ClipLayout | None, list[int] | None]:
        """Return an image, or the frames of a video that the model sees, their clip layout and their numbers.

        Raises ContractViolation, by the data, for anything but uint8 images and frames, and UnreadableExample.
        """
        found, clip_layout = self.data.dataset.read(index), None
        steps = (self.model and self.model.preprocessing) or Preprocessing()
        if steps.clips is not None:
            wanted = clip_frames(len(found), steps.clips)
            distinct = sorted({frame for clip in wanted for frame in clip})
            found = found[distinct]
        elif self.model is not None and self.model.input.kind == "video" and not isinstance(found, np.ndarray):
            found = found[list(range(len(found)))]
        image = np.asarray(found)
        if image.dtype != np.uint8 or image.ndim not in (3, 4):
            raise ContractViolation(
                f"{self.data.entry.name} must give uint8 (H, W, C) or (T, H, W, C), it gave {image.dtype} "
                f"{image.shape} for '{self.data.dataset.ids[index]}'",
                by="data",
            )
        if self.model is not None and image.shape[-1] not in (1, 3, self.model.input.shape[0]):
            raise ContractViolation(
                f"{self.data.entry.name} gives {image.shape[-1]} channels for '{self.data.dataset.ids[index]}'; an "
                f"image has 3, or 1 if it is grey, and the channels come last",
                by="data",
            )
        if self.model is not None and steps.clips is not None:
            place = {frame: number for number, frame in enumerate(distinct)}
            clip_layout = ClipLayout(
                frames=tuple(tuple(place[frame] for frame in clip) for clip in wanted),
                corners=crop_corners(image.shape[1:3], steps, self.model.input.shape[-2:])
                if steps.clips.crops > 1
                else (),
                size=self.model.input.shape[-2:],
                aggregation=steps.clips.aggregation,
            )
        numbers = distinct if steps.clips is not None else list(range(len(image)))
        return image, clip_layout, numbers if image.ndim == 4 else None


class _Prepared(NamedTuple):
    fitted: ImageArray
    canvas: ImageArray | None
    clip_layout: ClipLayout | None
    frames: list[int] | None


def _grouped(positions: Sequence[int], prepared: Sequence[_Prepared | UnreadableExample]) -> DecodedImages:
    by_shape: dict[Any, list[tuple[int, _Prepared]]] = {}
    unreadable = {}
    for position, item in zip(positions, prepared, strict=True):
        if isinstance(item, UnreadableExample):
            unreadable[position] = str(item)
        else:
            canvas_shape = None if item.canvas is None else item.canvas.shape
            by_shape.setdefault((item.fitted.shape, canvas_shape, item.clip_layout), []).append((position, item))
    groups = []
    for (*_, clip_layout), members in by_shape.items():
        canvases = [item.canvas for _, item in members if item.canvas is not None]
        frames = [item.frames for _, item in members if item.frames is not None]
        group = Group(
            positions=np.array([position for position, _ in members]),
            fitted=np.stack([item.fitted for _, item in members]),
            canvas=np.stack(canvases) if canvases else None,
            clip_layout=clip_layout,
            frames=np.array(frames) if frames else None,
        )
        groups.append(group)
    return DecodedImages(groups=tuple(groups), unreadable=unreadable)
