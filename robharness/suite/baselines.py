"""Published errors that corruption errors are relative to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A published model's errors, as fractions, by which corruption errors are divided.

    name: name of the model.
    labels: label space of the images.
    canvas: side of the images in pixels.
    clean: error on the clean images.
    errors: corruption -> mean error over all five severities.
    """

    name: str
    labels: str
    canvas: int
    clean: float
    errors: Mapping[str, float]


ALEXNET = Baseline(
    name="AlexNet",
    labels="imagenet-1k",
    canvas=224,
    clean=0.4348,
    errors={
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    },
)
"""AlexNet's errors on the published files of ImageNet-C: the table that makes a corruption error an mCE.

Another AlexNet, other files or fewer severities give other numbers. Source: Hendrycks and Dietterich 2019, ICLR, as in
their code (github.com/hendrycks/robustness).
"""
BASELINES = {"alexnet": ALEXNET}
"""The published tables, as a suite names them."""
