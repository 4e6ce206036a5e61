"""What an augmentation is, as a record, and as a composition of torchvision's transforms for one picture at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torchvision.transforms import v2

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Steps in the order of the fields; as it stands, B.3 of the paper for contrastive models.

    rotation: at most, in radians, to either side about the middle, before the crop; what comes in is black.
    area, aspect: of the crop, as shares of the picture's area and as width / height; the crop is resized to a square.
    flip: probability, left to right.
    jitter: probability of the next four, which come in an order drawn anew. brightness, contrast, saturation: factors
    are within so much of 1, and not below 0. hue: turns of the colour circle to either side, at most 0.5.
    grayscale, blur: probabilities. sigma: of the blur, in pixels of the result; its kernel is a tenth of the side, as
    SimCLR's.
    Grey pictures have no saturation and no hue. Raises ValueError for what is no probability or range.
    """

    rotation: float = 0.0
    area: Range = (0.2, 1.0)
    aspect: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    sigma: Range = (0.1, 2.0)

    def __post_init__(self) -> None:
        for names, most in _MOST.items():
            for name in names:
                if not 0 <= getattr(self, name) <= most:
                    raise ValueError(f"Augmentation: {name}={getattr(self, name)} must be from 0 to {most:g}")
        for name, most in _RANGES.items():
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                above = "" if most == math.inf else f" and at most {most:g}"
                raise ValueError(f"Augmentation: {name}={low, high} must be (least, most), above 0{above}")


_MOST = {
    ("flip", "jitter", "grayscale", "blur"): 1.0,
    ("hue",): 0.5,
    ("rotation",): math.pi,
    ("brightness", "contrast", "saturation"): math.inf,
}
_RANGES = {"area": 1.0, "aspect": math.inf, "sigma": math.inf}

CONTRASTIVE = Augmentation()
AUGMENTATIONS = {
    "contrastive": CONTRASTIVE,
    "supervised": replace(CONTRASTIVE, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.05),
    "digits": Augmentation(
        rotation=0.35, area=(0.55, 1.0), aspect=(1.0, 1.0), flip=0.0, jitter=1.0, saturation=0.0, hue=0.0, grayscale=0.0
    ),
    "patches": replace(CONTRASTIVE, area=(0.45, 1.0), aspect=(1.0, 1.0)),
    "imagenet": replace(CONTRASTIVE, area=(0.08, 1.0), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5),
}
"""B.3's two; what suits grey digits and small patches of photos; SimCLR's for ImageNet. `replace` changes a field."""


def per_sample(augmentation: Augmentation, size: int) -> v2.Transform:
    """The composition of torchvision: uint8 (C, H, W) -> float32 (C, size, size) in [0, 1], C 1 or 3.

    It draws from torch's global generator. A clip, (T, C, H, W), gets the same draws in every frame.
    """
    a = augmentation
    jitter = v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)
    steps = [
        (a.rotation, v2.RandomRotation(math.degrees(a.rotation), v2.InterpolationMode.BILINEAR, fill=None)),
        (1, v2.RandomResizedCrop(size, a.area, a.aspect, antialias=True)),
        (a.flip, v2.RandomHorizontalFlip(a.flip)),
        (a.jitter, v2.RandomApply([jitter], a.jitter)),
        (a.grayscale, v2.RandomGrayscale(a.grayscale)),
        (a.blur, v2.RandomApply([v2.GaussianBlur(2 * blur_radius(size) + 1, a.sigma)], a.blur)),
        (1, v2.ToDtype(torch.float32, scale=True)),
    ]
    return v2.Compose([step for is_used, step in steps if is_used])


def blur_radius(size: int) -> int:
    """Pixels to either side that a blur reaches in pictures of this side, as SimCLR's."""
    return max(1, size // 20)
