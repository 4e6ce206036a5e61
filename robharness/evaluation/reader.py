"""From a data set's pixels to batches: canvas, corruption, encoding, the model's own resize, and then [0, 1].

Every step but the last keeps 8 bits, so that stored and on-the-fly pictures agree.
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
from robharness.evaluation.images import ImageArray, decode_image, encode_jpeg85, on_canvas, preprocessed, resized
from robharness.planning.cells import PlannedData
from robharness.specs.inputs import Preprocessing
from robharness.specs.records import ModelSpec
from robharness.suite import Compat

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
class Group:
    """Examples of a span that make one batch: pictures of one shape, or videos that are cut in one way.

    positions: (n,), ascending. fitted: (n, H, W, C) or (n, T, H, W, C) uint8. canvas: the same with squares of the
    suite's canvas, where it has one. cut: of videos with clips. frames: (n, T), the frames' numbers in a video.
    """

    positions: np.ndarray
    fitted: np.ndarray
    canvas: np.ndarray | None
    cut: ClipLayout | None
    frames: np.ndarray | None

    def between(self, start: int, stop: int) -> Group:
        rows = slice(*np.searchsorted(self.positions, (start, stop)))
        return Group(
            positions=self.positions[rows],
            fitted=self.fitted[rows],
            canvas=None if self.canvas is None else self.canvas[rows],
            cut=self.cut,
            frames=None if self.frames is None else self.frames[rows],
        )


@dataclass(frozen=True, kw_only=True)
class DecodedImages:
    """Examples of a span, decoded and fitted to the model, on the host: a quarter of the bytes of their batches.

    unreadable: what is broken, by position.
    """

    span: tuple[int, int]
    groups: tuple[Group, ...]
    unreadable: Mapping[int, str]

    def part(self, start: int, stop: int) -> DecodedImages:
        """Those of positions start to stop - 1."""
        groups = [group.between(start, stop) for group in self.groups]
        return DecodedImages(
            span=(start, stop),
            groups=tuple(group for group in groups if len(group.positions)),
            unreadable={at: why for at, why in self.unreadable.items() if start <= at < stop},
        )


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads spans of a data set as a model wants them. canvas: side in pixels, or None.

    compat: "imagenet-c" for pictures, clean ones too, that are encoded on their way from the canvas to the model.
    model: None for pictures of the canvas as they are, which no model takes.
    """

    data: PlannedData
    canvas: int | None
    model: ModelSpec | None
    device: torch.device
    compat: Compat = "none"
    threads: Threads = field(default_factory=Threads)

    def read(self, start: int, stop: int) -> Batch:
        """The examples at positions start to stop - 1. Raises ContractViolation where a picture does not fit the model."""
        return self.batch(self.pictures(start, stop))

    def ahead(self, start: int, stop: int) -> Future[DecodedImages]:
        """The pictures of a span, read while the caller does something else."""
        indices = self.data.order[start:stop]
        return self.threads.later(self._prepared, indices, lambda made: _grouped((start, stop), made))

    def pictures(self, start: int, stop: int) -> DecodedImages:
        """The examples at positions start to stop - 1, read and decoded by several threads; raises as `read`."""
        return _grouped((start, stop), self.threads.now(self._prepared, self.data.order[start:stop]))

    def batches(self, pictures: DecodedImages) -> list[tuple[np.ndarray, Batch]]:
        """Pictures as batches on the model's device, each with its positions."""
        return [(group.positions, self._batch(group)) for group in pictures.groups]

    def batch(self, pictures: DecodedImages) -> Batch:
        """Pictures that are of one group as a batch. Raises ContractViolation where they are not, or one cannot be read."""
        for position, reason in pictures.unreadable.items():
            raise ContractViolation(f"'{self.data.ids(position, position + 1)[0]}' cannot be read: {reason}", by="data")
        if len(pictures.groups) != 1:
            raise ContractViolation(
                "its videos are cut into clips in several ways, and do not make one batch", by="data"
            )
        return self._batch(pictures.groups[0])

    def inputs(self, pictures: Tensor, cut: ClipLayout | None = None, *, are_files: bool = False) -> Tensor:
        """Pictures of the canvas, uint8 (N, H, W, C) or (N, T, H, W, C), as the model's input, float32 in [0, 1].

        They may be on any device, and stay there where they are of the model's size already and are not encoded.
        cut: of videos with clips. are_files: they were encoded before, when their publisher wrote them, and are not
        encoded again.
        """
        fits = self._takes(pictures.shape)
        if fits and (are_files or self.compat == "none"):
            return self._on_device(pictures)
        fitted = self.threads.now(partial(self._fitted, cut=cut, encode=not are_files), list(pictures.cpu().numpy()))
        return self._on_device(torch.from_numpy(np.stack(fitted)))

    def _takes(self, shape: Sequence[int]) -> bool:
        """Whether pictures or frames of this shape, (N, H, W, C) or (N, T, H, W, C), are of the model's size."""
        if self.model is None:
            return True
        channels, *_, height, width = self.model.input.shape
        return tuple(shape[-3:]) == (height, width, channels)

    def _batch(self, group: Group) -> Batch:
        indices = [self.data.order[position] for position in group.positions]
        labels = torch.tensor([int(self.data.dataset.labels[index]) for index in indices], device=self.device)
        canvas = None if group.canvas is None else torch.from_numpy(group.canvas.copy())
        ids = [self.data.dataset.ids[index] for index in indices]
        frames = None if group.frames is None else torch.from_numpy(group.frames)
        return Batch(ids, self._on_device(torch.from_numpy(group.fitted)), labels, canvas, group.cut, frames)

    def _prepared(self, index: int) -> _Prepared | UnreadableExample:
        """A picture as the model takes it, and on the canvas: the large one it was read as is let go at once."""
        try:
            picture, cut, frames = self._picture(index)
        except UnreadableExample as error:
            return error
        canvas = None
        if self.canvas is not None:
            picture = canvas = on_canvas(picture, self.canvas)
        return _Prepared(self._fitted(picture, cut), canvas, cut, frames)

    def _fitted(self, picture: ImageArray, cut: ClipLayout | None = None, *, encode: bool = True) -> ImageArray:
        """The picture (of the canvas, where there is one) at the model's size. Raises ContractViolation if it does not fit."""
        if encode and self.compat == "imagenet-c":
            picture = decode_image(encode_jpeg85(picture))
        if self.model is None:
            return picture
        steps, wanted = self.model.preprocessing or Preprocessing(), tuple(self.model.input.shape)
        is_on_canvas = self.canvas is not None
        picture = resized(picture, wanted[-2:], steps) if is_on_canvas else preprocessed(picture, steps)
        found = (picture.shape[-1], *picture.shape[:-1])
        if cut is not None:  # as many frames as there are, of which clips have the right number; squares are cut later
            wanted = (wanted[0], cut.n_frames, *(found[-2:] if cut.corners else wanted[-2:]))
        if found != wanted:
            raise ContractViolation(
                f"the model takes {wanted}, the data give {found} after preprocessing; "
                f"declare a `preprocessing` that fits, or another `input`",
                by="model",
            )
        return picture

    def _on_device(self, fitted: Tensor) -> Tensor:
        stacked = fitted.to(self.device)
        steps = self.model and self.model.preprocessing
        if steps and steps.channel_order == "bgr" and stacked.shape[-1] == 3:
            stacked = stacked.flip(-1)
        return stacked.movedim(-1, 1).to(torch.float32) / 255

    def _picture(self, index: int) -> tuple[ImageArray, ClipLayout | None, list[int] | None]:
        """A picture, or the frames of a video that the model looks at, how it looks at them, and their numbers."""
        found, cut = self.data.dataset.read(index), None
        steps = (self.model and self.model.preprocessing) or Preprocessing()
        if steps.clips is not None:
            wanted = clip_frames(len(found), steps.clips)
            distinct = sorted({frame for clip in wanted for frame in clip})
            found = found[distinct]
        elif self.model is not None and self.model.input.kind == "video" and not isinstance(found, np.ndarray):
            found = found[list(range(len(found)))]
        picture = np.asarray(found)
        if picture.dtype != np.uint8 or picture.ndim not in (3, 4):
            raise ContractViolation(
                f"{self.data.entry.name} must give uint8 (H, W, C) or (T, H, W, C), it gave {picture.dtype} "
                f"{picture.shape} for '{self.data.dataset.ids[index]}'",
                by="data",
            )
        if self.model is not None and steps.clips is not None:
            place = {frame: number for number, frame in enumerate(distinct)}
            cut = ClipLayout(
                frames=tuple(tuple(place[frame] for frame in clip) for clip in wanted),
                corners=crop_corners(picture.shape[1:3], steps, self.model.input.shape[-2:])
                if steps.clips.crops > 1
                else (),
                size=self.model.input.shape[-2:],
                aggregation=steps.clips.aggregation,
            )
        numbers = distinct if steps.clips is not None else list(range(len(picture)))
        return picture, cut, numbers if picture.ndim == 4 else None


class _Prepared(NamedTuple):
    fitted: ImageArray
    canvas: ImageArray | None
    cut: ClipLayout | None
    frames: list[int] | None


def _grouped(span: tuple[int, int], made: Sequence[_Prepared | UnreadableExample]) -> DecodedImages:
    alike: dict[Any, list[tuple[int, _Prepared]]] = {}
    unreadable = {}
    for position, item in enumerate(made, span[0]):
        if isinstance(item, UnreadableExample):
            unreadable[position] = str(item)
        else:
            alike.setdefault((item.fitted.shape, item.cut), []).append((position, item))
    groups = []
    for (_, cut), members in alike.items():
        canvases = [item.canvas for _, item in members if item.canvas is not None]
        frames = [item.frames for _, item in members if item.frames is not None]
        group = Group(
            positions=np.array([position for position, _ in members]),
            fitted=np.stack([item.fitted for _, item in members]),
            canvas=np.stack(canvases) if canvases else None,
            cut=cut,
            frames=np.array(frames) if frames else None,
        )
        groups.append(group)
    return DecodedImages(span=span, groups=tuple(groups), unreadable=unreadable)
