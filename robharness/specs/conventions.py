"""Conventions of the field that several plugins share: label spaces, normalisation constants, groups of corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Normalization = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, for inputs in [0, 1]."""

LABEL_SPACES: Mapping[str, int] = {
    "imagenet-1k": 1000,
    "cifar-10": 10,
    "cifar-100": 100,
    "kinetics-400": 400,
    "ucf-101": 101,
    "mnist": 10,
    "digits": 10,
}
"""Well-known label space -> its number of classes."""

NO_LABELS = "none"
"""Label space of an encoder alone, whose output is its representation, and of data without labels."""
INSTANCES = "instances"
"""Label space in which every example is a class of its own: its label is its position in the data set's fixed order."""

ATTACK_OBJECTIVE = "attack-objective"
"""Role of components that attacks increase: `build` returns (logits (N, C), labels (N,)) -> values (N,), float32.

It may return a pair with a second function for targeted attacks, whose condition is labels and targets, (N, 2).
Without one, a targeted attack decreases the function of the target.
"""

NORMALIZATIONS: Mapping[str, Normalization] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar-10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar-100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""Constants that most networks of a data set were trained with; a publisher's own constants stay in its plugin.

Sources: torchvision for ImageNet; SupContrast and kuangliu for CIFAR, whose CIFAR-10 standard deviations are averages
of per-image values.
"""

CORRUPTION_GROUPS: Mapping[str, str] = {
    "gaussian_noise": "noise",
    "shot_noise": "noise",
    "impulse_noise": "noise",
    "brightness": "digital",
    "contrast": "digital",
    "pixelate": "digital",
    "elastic_transform": "digital",
    "jpeg_compression": "digital",
    "defocus_blur": "blur",
    "motion_blur": "blur",
    "glass_blur": "blur",
    "zoom_blur": "blur",
    "fog": "weather",
    "frost": "weather",
    "snow": "weather",
    "speckle_noise": "extra",
    "gaussian_blur": "extra",
    "spatter": "extra",
    "saturate": "extra",
}
"""Name of a corruption of ImageNet-C -> its group in the paper's Table 6.

ImageNet-C and its library count brightness as weather, the paper as digital, and slopes per group depend on it.
The group "extra" is for validation and no part of the benchmark.
"""
