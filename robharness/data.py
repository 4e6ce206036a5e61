"""From a data set's pixels to batches: canvas, corruption, encoding, the model's own resize, and then [0, 1].

Every step but the last keeps 8 bits, so that stored and on-the-fly pictures agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from robharness.cells import PlannedData
from robharness.classifier import Batch, Cut
from robharness.errors import Unreadable, Violation
from robharness.specs import Clips, ModelSpec, Preprocessing
from robharness.suite import Compat

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
class Group:
    """Examples of a span that make one batch: pictures of one shape, or videos that are cut in one way.

    positions: (n,), ascending. fitted: (n, H, W, C) or (n, T, H, W, C) uint8. canvas: the same with squares of the
    suite's canvas, where it has one. cut: of videos with clips. frames: (n, T), the frames' numbers in a video.
    """

    positions: np.ndarray
    fitted: np.ndarray
    canvas: np.ndarray | None
    cut: Cut | None
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
class Pictures:
    """Examples of a span, decoded and fitted to the model, on the host: a quarter of the bytes of their batches.

    unreadable: what is broken, by position.
    """

    span: tuple[int, int]
    groups: tuple[Group, ...]
    unreadable: Mapping[int, str]

    def part(self, start: int, stop: int) -> Pictures:
        """Those of positions start to stop - 1."""
        groups = [group.between(start, stop) for group in self.groups]
        return Pictures(
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
        """The examples at positions start to stop - 1. Raises Violation where a picture does not fit the model."""
        return self.batch(self.pictures(start, stop))

    def ahead(self, start: int, stop: int) -> Future[Pictures]:
        """The pictures of a span, read while the caller does something else."""
        indices = self.data.order[start:stop]
        return self.threads.later(self._prepared, indices, lambda made: _grouped((start, stop), made))

    def pictures(self, start: int, stop: int) -> Pictures:
        """The examples at positions start to stop - 1, read and decoded by several threads; raises as `read`."""
        return _grouped((start, stop), self.threads.now(self._prepared, self.data.order[start:stop]))

    def batches(self, pictures: Pictures) -> list[tuple[np.ndarray, Batch]]:
        """Pictures as batches on the model's device, each with its positions."""
        return [(group.positions, self._batch(group)) for group in pictures.groups]

    def batch(self, pictures: Pictures) -> Batch:
        """Pictures that are of one group as a batch. Raises Violation where they are not, or one cannot be read."""
        for position, reason in pictures.unreadable.items():
            raise Violation(f"'{self.data.ids(position, position + 1)[0]}' cannot be read: {reason}", by="data")
        if len(pictures.groups) != 1:
            raise Violation("its videos are cut into clips in several ways, and do not make one batch", by="data")
        return self._batch(pictures.groups[0])

    def inputs(self, pictures: Tensor, cut: Cut | None = None, *, are_files: bool = False) -> Tensor:
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

    def _prepared(self, index: int) -> _Prepared | Unreadable:
        """A picture as the model takes it, and on the canvas: the large one it was read as is let go at once."""
        try:
            picture, cut, frames = self._picture(index)
        except Unreadable as error:
            return error
        canvas = None
        if self.canvas is not None:
            picture = canvas = on_canvas(picture, self.canvas)
        return _Prepared(self._fitted(picture, cut), canvas, cut, frames)

    def _fitted(self, picture: Picture, cut: Cut | None = None, *, encode: bool = True) -> Picture:
        """The picture (of the canvas, where there is one) at the model's size. Raises Violation if it does not fit."""
        if encode and self.compat == "imagenet-c":
            picture = decoded(published(picture))
        if self.model is None:
            return picture
        steps, wanted = self.model.preprocessing or Preprocessing(), tuple(self.model.input.shape)
        is_on_canvas = self.canvas is not None
        picture = _resized(picture, wanted[-2:], steps) if is_on_canvas else preprocessed(picture, steps)
        found = (picture.shape[-1], *picture.shape[:-1])
        if cut is not None:  # as many frames as there are, of which clips have the right number; squares are cut later
            wanted = (wanted[0], cut.n_frames, *(found[-2:] if cut.corners else wanted[-2:]))
        if found != wanted:
            raise Violation(
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

    def _picture(self, index: int) -> tuple[Picture, Cut | None, list[int] | None]:
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
            raise Violation(
                f"{self.data.entry.name} must give uint8 (H, W, C) or (T, H, W, C), it gave {picture.dtype} "
                f"{picture.shape} for '{self.data.dataset.ids[index]}'",
                by="data",
            )
        if self.model is not None and steps.clips is not None:
            place = {frame: number for number, frame in enumerate(distinct)}
            cut = Cut(
                frames=tuple(tuple(place[frame] for frame in clip) for clip in wanted),
                corners=_corners(picture.shape[1:3], steps, self.model.input.shape[-2:])
                if steps.clips.crops > 1
                else (),
                size=self.model.input.shape[-2:],
                aggregation=steps.clips.aggregation,
            )
        numbers = distinct if steps.clips is not None else list(range(len(picture)))
        return picture, cut, numbers if picture.ndim == 4 else None


class _Prepared(NamedTuple):
    fitted: Picture
    canvas: Picture | None
    cut: Cut | None
    frames: list[int] | None


def clip_frames(n: int, clips: Clips) -> list[list[int]]:
    """The frames of each clip of a video of n frames, in 0 ... n - 1; see `Clips` for where they lie.

    Raises Unreadable for a video without any frame.
    """
    if n < 1:
        raise Unreadable("it has no frames")
    span = clips.length * clips.stride
    room = max(0, n - span)
    starts = [room // 2]
    if clips.count > 1:
        last = max(0, room - clips.margin)
        starts = [int(start) for start in np.linspace(0, last, clips.count)]
    return [[_in_video(start + step, n, clips.short) for step in range(0, span, clips.stride)] for start in starts]


def _in_video(frame: int, n: int, short: str) -> int:
    """The frame that stands for this one in a video of n, where there is none so late."""
    if frame < n or n == 1:
        return min(frame, n - 1)
    if short == "last":
        return n - 1
    if short == "loop":
        return frame % n
    there_and_back = frame % (2 * (n - 1))
    return min(there_and_back, 2 * (n - 1) - there_and_back)


def _corners(frame: Sequence[int], steps: Preprocessing, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Where the three squares of a frame lie, (top, left), once it is resized: at both ends and in the middle."""
    height, width = _after_resize(frame, steps.resize)
    room = height - size[0], width - size[1]
    if min(room) < 0:
        raise Violation(
            f"frames are {height} x {width} after their resize, too small for squares of {tuple(size)}", by="model"
        )
    middle = room[0] // 2, room[1] // 2
    if width >= height:
        return (middle[0], 0), middle, (middle[0], room[1])
    return (0, middle[1]), middle, (room[0], middle[1])


def _after_resize(frame: Sequence[int], resize: int | tuple[int, int] | None) -> tuple[int, int]:
    height, width = frame
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize[0], resize[1]
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def on_canvas(picture: Picture, side: int) -> Picture:
    """The picture as ImageNet-C has it: shorter side to side * 256 / 224, central crop; left alone if it fits."""
    if picture.shape[-3:-1] == (side, side):
        return picture
    return preprocessed(picture, Preprocessing(resize=round(side * 256 / 224), crop=side))


def published(picture: Picture) -> bytes:
    """The file that ImageNet-C's publishers would have written of a picture, uint8 (H, W, C): JPEG of quality 85.

    It takes a quarter off the noise of severity 1. Source: `make_imagenet_c.py` of Hendrycks and Dietterich 2019,
    which saves by PIL with these two options; the default subsamples colours to half the width and height.
    """
    content = BytesIO()
    _image(picture).save(content, "JPEG", quality=85, optimize=True)
    return content.getvalue()


def lossless(picture: Picture) -> bytes:
    """The PNG file of a picture, uint8 (H, W, C)."""
    content = BytesIO()
    _image(picture).save(content, "PNG")
    return content.getvalue()


def decoded(file: bytes) -> Picture:
    """The picture in a file of 8 bits a channel, by PIL; grey ones have one channel."""
    with Image.open(BytesIO(file)) as image:
        picture = np.array(image)
    return picture if picture.ndim == 3 else picture[:, :, None]


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[-1] == 1 else picture)


def preprocessed(picture: Picture, steps: Preprocessing) -> Picture:
    """The picture resized and cropped as declared, 8 bits in and out; of clips with several crops, not cropped."""
    crop = None if steps.clips is not None and steps.clips.crops > 1 else steps.crop
    cropped = partial(_cropped, crop=crop)
    resized = partial(_resized, size=steps.resize, steps=steps)
    for change in (resized, cropped) if steps.first == "resize" else (cropped, resized):
        picture = change(picture)
    return picture


def _cropped(picture: Picture, crop: int | tuple[int, int] | None) -> Picture:
    if crop is None:
        return picture
    sides = (crop, crop) if isinstance(crop, int) else crop
    return _through(picture, lambda image: v2.functional.center_crop(image, list(sides)))


def _resized(picture: Picture, size: int | Sequence[int] | None, steps: Preprocessing) -> Picture:
    if size is None:
        return picture
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


def _grouped(span: tuple[int, int], made: Sequence[_Prepared | Unreadable]) -> Pictures:
    alike: dict[Any, list[tuple[int, _Prepared]]] = {}
    unreadable = {}
    for position, item in enumerate(made, span[0]):
        if isinstance(item, Unreadable):
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
    return Pictures(span=span, groups=tuple(groups), unreadable=unreadable)
