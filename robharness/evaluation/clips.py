"""Layout of the clips of videos: the frames and crops that a network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robharness.errors import ContractViolation, UnreadableExample
from robharness.specs.inputs import Clips, Preprocessing


@dataclass(frozen=True, kw_only=True)
class ClipLayout:
    """The layout of a video's clips in the frames that are perturbed, each of which exists once.

    frames: the indices of each clip's frames.
    corners: (top, left) of the squares that are cut out of every frame; empty if frames have the network's size.
    size: (height, width) of the squares.
    aggregation: "probabilities" or "logits", as in `Clips`.
    """

    frames: tuple[tuple[int, ...], ...]
    corners: tuple[tuple[int, int], ...] = ()
    size: tuple[int, ...]
    aggregation: str = "probabilities"

    @classmethod
    def apart(cls, clips: Clips, shape: Sequence[int]) -> ClipLayout:
        """Return the layout of clips that have no frame in common.

        shape: (C, T, H, W) of one clip.
        """
        length = shape[1]
        frames = tuple(tuple(range(start * length, (start + 1) * length)) for start in range(clips.count))
        corners = ((0, 0),) * clips.crops if clips.crops > 1 else ()
        return cls(frames=frames, corners=corners, size=tuple(shape[-2:]), aggregation=clips.aggregation)

    @property
    def n_frames(self) -> int:
        """The number of frames that are perturbed."""
        return 1 + max(frame for clip in self.frames for frame in clip)

    @property
    def n_clips(self) -> int:
        """The number of clips of a video, crops included."""
        return len(self.frames) * (len(self.corners) or 1)

    def clips(self, x: Tensor) -> Tensor:
        """Cut videos, (N, C, n_frames, H, W), into clips, (N * n_clips, C, T, height, width), example by example.

        The gradients of a frame are added up in the order of the clips, on a GPU as well, where `index_select` has no
        fixed order.
        """
        frames = x.unbind(2)
        clips = [torch.stack([frames[frame] for frame in clip], 2) for clip in self.frames]
        if self.corners:
            height, width = self.size
            clips = [clip[..., top : top + height, left : left + width] for clip in clips for top, left in self.corners]
        return torch.stack(clips, 1).flatten(0, 1)

    def together(self, outputs: Tensor) -> Tensor:
        """Aggregate logits of clips, (N * n_clips, classes), to logits of videos, (N, classes).

        The mean of probabilities is returned as logarithms, so that it can be used like other logits.
        """
        each = outputs.view(-1, self.n_clips, *outputs.shape[1:])
        if self.n_clips > 1 and self.aggregation == "probabilities":
            each = each.log_softmax(2)
            return each.logsumexp(1) - math.log(self.n_clips)
        return each.mean(1)


def clip_frames(n: int, clips: Clips) -> list[list[int]]:
    """Return the frame numbers, in 0 ... n - 1, of each clip of a video of n frames; see `Clips`.

    Raises UnreadableExample if the video has no frames.
    """
    if n < 1:
        raise UnreadableExample("it has no frames")
    span = clips.length * clips.stride
    room = max(0, n - span)
    starts = [room // 2]
    if clips.count > 1:
        last = max(0, room - clips.margin)
        starts = [int(start) for start in np.linspace(0, last, clips.count)]
    return [[_in_video(start + step, n, clips.short) for step in range(0, span, clips.stride)] for start in starts]


def _in_video(frame: int, n: int, short: str) -> int:
    """Return the number of the frame that replaces this one if the video, of n frames, ends before it.

    short: the rule of `Clips`: "last", "loop", or back and forth.
    """
    if frame < n or n == 1:
        return min(frame, n - 1)
    if short == "last":
        return n - 1
    if short == "loop":
        return frame % n
    position = frame % (2 * (n - 1))
    return min(position, 2 * (n - 1) - position)


def crop_corners(frame: Sequence[int], steps: Preprocessing, size: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the corners, (top, left), of three squares of a resized frame: at both ends and in the middle.

    frame: (height, width) before the resize.
    size: (height, width) of the squares.
    Raises ContractViolation, by the model, if the resized frame is smaller than a square.
    """
    height, width = _after_resize(frame, steps.resize)
    room = height - size[0], width - size[1]
    if min(room) < 0:
        raise ContractViolation(
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
