"""Facts about training data that a suite need not describe, and how clips of videos are sampled. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from robharness_contrastive.options import positive

DATA: dict[str, tuple[tuple[int, ...], str, int, str]] = {
    "samples/mnist-5k": ((1, 28, 28), "mnist", 10, "digits"),
    "samples/digits": ((1, 8, 8), "digits", 10, "digits"),
    "samples/patches": ((3, 32, 32), "patches", 10, "patches"),
    "datasets/cifar-10": ((3, 32, 32), "cifar-10", 10, "contrastive"),
    "datasets/cifar-100": ((3, 32, 32), "cifar-100", 100, "contrastive"),
    "datasets/imagenet": ((3, 224, 224), "imagenet-1k", 1000, "blurred"),
    "samples/moving-digits": ((3, 8, 32, 32), "moving-digits", 8, "digits"),
    "datasets/ucf101": ((3, 16, 112, 112), "ucf-101", 101, "contrastive"),
}
"""Input shape, label space, number of classes and augmentation of data sets that a suite need not describe."""


ANY_SIZE = ("datasets/imagenet",)
"""Data sets whose images have any size. Evaluation resizes their shorter side to 256/224 of the input's, then crops."""
FOLDERS = ("datasets/folder", "datasets/imagenet-folder")
"""Data sets whose split is a folder's path below the data root."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """Options for clips of videos; the recipe's input gives their length and size.

    stride: distance between successive frames of a clip, in evaluation and in random clips of training.
    resize: shorter side of resized frames, or their (height, width). Training then crops at random, evaluation crops
        the centre.
    """

    stride: int = 2
    resize: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        positive(self, "stride")


VIDEOS = {
    "samples/moving-digits": Video(stride=3, resize=32),  # 8 frames span 24, which the shortest video has
    "datasets/ucf101": Video(stride=2, resize=(128, 171)),
}
