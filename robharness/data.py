"""From a data set's pixels to batches: canvas, corruption, the model's own resize, and then [0, 1].

Every step but the last keeps 8 bits, so that stored and on-the-fly pictures agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads spans of a data set as a model wants them. canvas: side in pixels, or None."""

    data: PlannedData
    canvas: int | None
    model: ModelSpec
    device: torch.device

    def read(self, start: int, stop: int) -> Batch:
        """The examples at positions start to stop - 1. Raises Violation where a picture does not fit the model."""
        indices = self.data.order[start:stop]
        pictures = [self._picture(index) for index in indices]
        canvas = None
        if self.canvas is not None:
            canvas = torch.from_numpy(np.stack([on_canvas(picture, self.canvas) for picture in pictures]))
            pictures = list(canvas.numpy())
        labels = torch.tensor([int(self.data.dataset.labels[index]) for index in indices], device=self.device)
        return Batch(self.data.ids(start, stop), self.inputs(pictures), labels, canvas)

    def inputs(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures (of the canvas, where there is one) as the model's input, (N, *shape) float32 in [0, 1]."""
        steps = self.model.preprocessing or Preprocessing()
        size = self.model.input.shape[-2:]
        if self.canvas is not None:
            fitted = [_resized(picture, size, steps) for picture in pictures]
        else:
            fitted = [preprocessed(picture, steps) for picture in pictures]
        channels = self.model.input.shape[0]
        for picture in fitted:
            found = (picture.shape[-1], *picture.shape[:-1])
            if found != tuple(self.model.input.shape):
                raise Violation(
                    f"the model takes {tuple(self.model.input.shape)}, the data give {found} after preprocessing; "
                    f"declare a `preprocessing` that fits, or another `input`",
                    by="model",
                )
        stacked = torch.from_numpy(np.stack(fitted)).to(self.device)
        if steps.channel_order == "bgr" and channels == 3:
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
