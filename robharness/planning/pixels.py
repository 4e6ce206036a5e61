"""The way of a pixel: the sizes of the data's images, the canvas, and the input of each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from robharness.findings import Finding, finding
from robharness.plugins.calls import plugin_code
from robharness.specs.inputs import Preprocessing
from robharness.specs.protocols import Dataset
from robharness.specs.records import ModelSpec
from robharness.suite import Suite
from robharness.suite.records import DEFAULT_CANVAS

Canvas = int | Literal["own"] | None
"""The side of the canvas in pixels; "own" if corruptions take images in their own size; None without a canvas."""
SAMPLE = {"image": 64, "video": 8}
"""Number of examples whose sizes are compared. If all are equal, the data count as having one size."""


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Sizes of the first readable images of a data set, in its fixed order.

    sizes: (height, width), without repetition.
    channels: numbers of channels.
    """

    sizes: tuple[tuple[int, int], ...]
    channels: frozenset[int]

    @property
    def shared(self) -> tuple[int, int] | None:
        """The size that all have, or None."""
        return self.sizes[0] if len(self.sizes) == 1 else None

    @property
    def shortest_side(self) -> int:
        """The shortest side of all of them; 0 if none can be read."""
        return min((min(size) for size in self.sizes), default=0)

    def __str__(self) -> str:
        if not self.sizes:
            return "unknown size"
        ordered = sorted(self.sizes, key=lambda size: size[0] * size[1])
        return _text(ordered[0]) if len(ordered) == 1 else f"{_text(ordered[0])}, {_text(ordered[-1])} and others"


def image_sizes(dataset: Dataset, order: Sequence[int], kind: str) -> ImageSizes:
    """Return the sizes of a data set's first images. Reading stops at the first two that differ.

    order: the data set's indices by position.
    """
    found: Counter[tuple[int, int]] = Counter()
    channels = set()
    for index in order[: SAMPLE[kind]]:
        with suppress(Exception), plugin_code():  # an example that cannot be read costs itself, in the run
            *_, height, width, depth = _first_frame(dataset.read(index), kind).shape
            found[int(height), int(width)] += 1
            channels.add(int(depth))
        if len(found) > 1:
            break
    return ImageSizes(sizes=tuple(found), channels=frozenset(channels))


def _first_frame(example: Any, kind: str) -> Any:
    if kind == "video" and not isinstance(example, np.ndarray):
        return np.asarray(example[[0]])
    return np.asarray(example)


def canvas_of(suite: Suite, sizes: ImageSizes) -> Canvas:
    """Return the suite's canvas. `canvas: auto` is the images' own size if they share one, else DEFAULT_CANVAS.

    A corruption whose images were rendered before, or `compat: imagenet-c`, determines the size of an automatic canvas.
    """
    if suite.canvas != "auto":
        return suite.canvas
    fixed = [p.entry.spec.canvas for p in suite.perturbations if p.kind == "corruption" and p.entry.spec.canvas]
    side: int | None = fixed[0] if fixed else DEFAULT_CANVAS if suite.compat != "none" else None
    if sizes.shared is not None and (side is None or sizes.shared == (side, side)):
        return "own"
    return side or DEFAULT_CANVAS


def pixel_path(spec: ModelSpec, sizes: ImageSizes, canvas: Canvas) -> str:
    """Return the way of a pixel, e.g. "28x28 -> canvas 28 -> model 28"; sizes that differ are width x height."""
    steps = [str(sizes)]
    if canvas is not None:
        steps.append(f"canvas {_short(sizes.shared) if canvas == 'own' and sizes.shared else canvas}")
    if not isinstance(canvas, int):
        steps += _own_steps(spec.preprocessing or Preprocessing())
    return " -> ".join([*steps, f"model {_short(spec.input.shape[-2:])}"])


def misfit(spec: ModelSpec, sizes: ImageSizes) -> str:
    """Describe images that do not have the shape of a model's input after its preprocessing; empty if they may fit."""
    steps, (channels, *_, height, width) = spec.preprocessing or Preprocessing(), spec.input.shape
    found = steps.size
    if found is None and sizes.shared is not None and len({*sizes.shared}) == 1 and steps.resize is not None:
        found = _resized(sizes.shared, steps.resize)  # type: ignore[assignment]  # of a square
    elif found is None and steps.resize is None:
        found = sizes.shared
    is_cut_later = steps.clips is not None and steps.clips.crops > 1
    if found is not None and found != (height, width) and not is_cut_later:
        given = f"images of {sizes} have {_short(found)} after preprocessing"
        return f"the input has {_short((height, width))} pixels, {given}"
    if sizes.channels and channels not in sizes.channels:
        return f"the input has {channels} channels, images have {_listed(sizes.channels)}"
    return ""


def _own_steps(steps: Preprocessing) -> list[str]:
    resize, crop = ([f"{name} {_short(size)}"] if size is not None else []
                    for name, size in (("resize", steps.resize), ("crop", steps.crop)))  # fmt: skip
    return [*resize, *crop] if steps.first == "resize" else [*crop, *resize]


def canvas_findings(suite: Suite, sizes: ImageSizes, canvas: Canvas) -> Iterator[Finding]:
    """Yield a finding for images that the canvas enlarges, and for each change of scale behind the canvas."""
    if isinstance(canvas, int) and sizes.sizes and sizes.shortest_side < canvas:
        hint = "canvas: auto leaves images of one size as they are" if sizes.shared else ""
        yield finding("canvas-rescales", f"images of {sizes} are enlarged to a canvas of {canvas}", hint=hint)
    scaled: dict[str, list[str]] = {}
    for model in suite.models if canvas is not None else ():
        change = _scale_after(model.entry.spec, sizes, canvas)
        if change:
            scaled.setdefault(change, []).append(model.label)
    for change, labels in scaled.items():
        yield finding("canvas-rescales", change, subject=", ".join(labels))


def corruption_findings(suite: Suite, sizes: ImageSizes, canvas: Canvas) -> Iterator[Finding]:
    """Yield a finding for corruptions that do not take images of this canvas, or with so many channels."""
    side = canvas if isinstance(canvas, int) else sizes.shortest_side
    refusals: dict[str, list[str]] = {}
    for p in [p for p in suite.perturbations if p.kind == "corruption"] if sizes.sizes else ():
        spec = p.entry.spec
        if side < spec.smallest:
            reason = f"images of at least {spec.smallest} pixels, and the canvas has {side}"
            refusals.setdefault(reason, []).append(p.name)
        if spec.channels and not sizes.channels <= spec.channels:
            reason = (
                f"images of {_listed(spec.channels)} channels, and those of the data have {_listed(sizes.channels)}"
            )
            refusals.setdefault(reason, []).append(p.name)
    for reason, names in refusals.items():
        takes = "it takes" if len(names) == 1 else "they take"
        message = f"{takes} {reason}, so that {'its' if len(names) == 1 else 'their'} cells will fail"
        hint = "leave them out of the suite" if len(names) > 1 else "leave it out of the suite"
        yield finding("corruption-does-not-fit", message, subject=_named(names), hint=hint)


def _listed(numbers: frozenset[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scale_after(spec: ModelSpec, sizes: ImageSizes, canvas: Canvas) -> str:
    """Describe how a model's preprocessing scales images of the canvas, or return an empty text."""
    before: tuple[int, ...]
    if isinstance(canvas, int):
        before, after = _sides(canvas), spec.input.shape[-2:]
    else:
        steps = spec.preprocessing or Preprocessing()
        if sizes.shared is None or steps.resize is None:
            return ""
        before = sizes.shared if steps.first == "resize" or steps.crop is None else _sides(steps.crop)
        after = _resized(before, steps.resize)
    if tuple(before) == tuple(after):
        return ""
    verb = "enlarged" if after[0] * after[1] > before[0] * before[1] else "reduced"
    return f"images are {verb} from the canvas, {_short(before)}, to {_short(after)} pixels, corrupted images, too"


def _resized(size: tuple[int, ...], resize: int | tuple[int, int]) -> tuple[int, ...]:
    if not isinstance(resize, int):
        return resize
    scale = resize / min(size)
    return tuple(resize if side == min(size) else int(side * scale) for side in size)


def _sides(size: int | tuple[int, int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else size


def _short(size: int | Sequence[int]) -> str:
    """Return "28" for a square, "320x240" for a width and a height."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return str(sides[0]) if sides[0] == sides[1] else _text(sides)


def _text(size: Sequence[int]) -> str:
    height, width = size
    return f"{width}x{height}"
