"""Augmentations as numbers: the steps that `augment.BatchAugmenter` applies. Without torch, for a suite's reader."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation steps in the order in which they are applied; a step with value 0 is left out.

    warp: probability that an image is rotated and cropped; both happen or neither. Resampling blurs, so only the images
        that skip it are as sharp as those in evaluation.
    scale: area of the crop, as a range of shares of the image's area.
    ratio: width over height of the crop, as a range.
    rotation: largest angle in degrees, to either side; black fills the corners.
    flip: probability of a horizontal flip.
    jitter: probability of the four colour changes below.
    brightness: strength of the change, as in torchvision's `ColorJitter`.
    contrast: the same.
    saturation: the same.
    hue: the same, as a share of the colour circle.
    grey: probability of conversion to grey.
    blur: probability of a Gaussian blur, whose sigma is between 0.1 and 2 pixels.
    """

    warp: float = 1.0
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation: float = 0.0
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warp", "flip", "jitter", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability, from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be a strength, at least 0")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue} must be a share of the colour circle, from 0 to 0.5")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation={self.rotation} must be an angle, from 0 to 180 degrees")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale={list(self.scale)} must be a range of shares of the area. Try: `scale: [0.2, 1.0]`"
            )
        if not 0 < self.ratio[0] <= self.ratio[1] < float("inf"):
            raise ValueError(f"ratio={list(self.ratio)} must be a range of ratios. Try: `ratio: [0.75, 1.33]`")

    def at(self, strength: float) -> Augmentation:
        """Return a weaker augmentation: smaller crops, rotations, colours, grey and blur change less or more rarely.

        Flips stay as they are, as in DynACL (PKU-ML/DYNACL at 7d143db, train_DynACL.py).

        strength: from 0, whole images whose colours are unchanged, to 1, this augmentation.
        """
        if strength == 1:
            return self
        low, high = self.scale
        scaled = ("rotation", "jitter", "brightness", "contrast", "saturation", "hue", "grey", "blur")
        changes = {name: strength * getattr(self, name) for name in scaled}
        return replace(self, scale=(1 - (1 - low) * strength, 1 - (1 - high) * strength), **changes)


@dataclass(frozen=True, kw_only=True)
class Supervised(Augmentation):
    """The paper's augmentation for cross-entropy (B.3)."""

    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Digits(Augmentation):
    """Rotation, crops and brightness, without flips, which may change the class of a digit."""

    warp: float = 0.75
    scale: tuple[float, float] = (0.55, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    rotation: float = 20.0
    flip: float = 0.0
    jitter: float = 1.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Patches(Augmentation):
    """The paper's augmentation with larger crops."""

    scale: tuple[float, float] = (0.45, 1.0)


@dataclass(frozen=True, kw_only=True)
class Blurred(Augmentation):
    """SimCLR's augmentation for ImageNet."""

    scale: tuple[float, float] = (0.08, 1.0)
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    blur: float = 0.5


def unchanged(options: Augmentation) -> Augmentation:
    """Return the options of an augmentation, which are the augmentation itself."""
    return options
