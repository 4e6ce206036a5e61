"""Input of a network, and preprocessing of data to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from robharness.specs.types import Kind

LONGEST = 16_384
"""Most pixels along a side of an input, and most frames: more is a slip that would take all memory."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Input of a network: float values in [0, 1], without the batch axis.

    kind: image or video.
    shape: (C, H, W) of an image, (C, T, H, W) of a video.
    """

    kind: Kind = "image"
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = {"image": "(C, H, W)", "video": "(C, T, H, W)"}
        if self.kind not in axes:
            raise ValueError(f"InputSpec: kind={self.kind!r} must be one of {', '.join(axes)}")
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        if len(sizes) != axes[self.kind].count(",") + 1 or not all(type(n) is int and n > 0 for n in sizes):
            raise ValueError(f"InputSpec: shape={self.shape!r} must be {axes[self.kind]} for {self.kind}s")


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The frames of a video that a network gets, as clips.

    length: frames of a clip.
    stride: frames from one frame of a clip to the next; a clip spans length * stride frames.
    count: clips per video. One lies in the middle; several begin at equal distances, the first with the video.
    margin: frames at the end of the video in which none of several clips ends.
    short: continuation of a video shorter than a clip: "mirror" back and forth, "last" by its last frame, "loop" from
        its beginning.
    crops: squares along the longer side of a frame: 1 in the middle, 3 also at both ends; each makes a clip.
    aggregation: mean of the clips' "probabilities", or of their "logits".
    """

    length: int
    stride: int = 1
    count: int = 1
    margin: int = 0
    short: Literal["mirror", "last", "loop"] = "mirror"
    crops: Literal[1, 3] = 1
    aggregation: Literal["probabilities", "logits"] = "probabilities"

    def __post_init__(self) -> None:
        for key, least in (("length", 1), ("stride", 1), ("count", 1), ("margin", 0)):
            value = getattr(self, key)
            if type(value) is not int or not least <= value <= LONGEST:
                raise ValueError(f"Clips: {key}={value!r} must be a whole number from {least} to {LONGEST}")
        check_choices("Clips", self, short=("mirror", "last", "loop"), crops=(1, 3),
                     aggregation=("probabilities", "logits"))  # fmt: skip

    @property
    def per_video(self) -> int:
        """Number of clips of a video, including crops."""
        return self.count * self.crops


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing from the data set's pixels to the network's input, 8 bits to 8 bits; mean and std are in the model.

    resize: length of the shorter side, or (height, width).
    crop: central crop, (height, width) or one length.
    first: "resize" or "crop", whichever comes first.
    interpolation: interpolation of the resize.
    antialias: whether the resize averages as PIL does.
    channel_order: channel order that the network expects.
    clips: clips of videos.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    first: Literal["resize", "crop"] = "resize"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    antialias: bool = True
    channel_order: Literal["rgb", "bgr"] = "rgb"
    clips: Clips | None = None

    def __post_init__(self) -> None:
        check_choices("Preprocessing", self, interpolation=("nearest", "bilinear", "bicubic"),
                     channel_order=("rgb", "bgr"), first=("resize", "crop"))  # fmt: skip
        for key in ("resize", "crop"):
            value = getattr(self, key)
            lengths = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            if value is not None and not all(type(n) is int and 0 < n <= LONGEST for n in lengths):
                raise ValueError(f"Preprocessing: {key}={value!r} must be a length or (height, width), in pixels, "
                                 f"from 1 to {LONGEST}")  # fmt: skip
        if not isinstance(self.antialias, bool):
            raise ValueError(f"Preprocessing: antialias={self.antialias!r} must be true or false")
        if self.clips is not None and not isinstance(self.clips, Clips):
            raise ValueError(f"Preprocessing: clips={self.clips!r} must be a Clips")
        by_side = self.first == "resize" and not isinstance(self.resize, tuple)
        if self.clips is not None and self.clips.crops > 1 and not by_side:
            raise ValueError("Preprocessing: three crops need frames whose shorter side is resized before the crop")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the output; None if it depends on the size of the input."""
        crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if self.resize is None or (self.first == "resize" and crop is not None):
            return crop
        if isinstance(self.resize, tuple):
            return self.resize
        is_square = self.first == "crop" and crop is not None and crop[0] == crop[1]
        return (self.resize, self.resize) if is_square else None  # else the longer side depends on the input


def check_choices(what: str, record: object, **allowed: tuple[Any, ...]) -> None:
    """Raise ValueError for the first field whose value is not allowed; `what` names the record."""
    for key, values in allowed.items():
        if (value := getattr(record, key)) not in values:
            raise ValueError(f"{what}: {key}={value!r} must be one of {', '.join(map(str, values))}")
