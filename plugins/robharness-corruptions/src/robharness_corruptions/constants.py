"""Constants of the corruptions per severity, of ImageNet-C and of CIFAR-10-C.

Both are transcribed from scripts of Hendrycks and Dietterich (2019). `IMAGENET` is from
ImageNet-C/create_c/make_imagenet_c.py, and equals the constants of `imagecorruptions`. `CIFAR` is from
ImageNet-C/create_c/make_cifar_c.py, for images of 32 x 32 pixels. A kernel receives the entry of its severity.
"""

from __future__ import annotations

from typing import Any

Table = dict[str, tuple[Any, Any, Any, Any, Any]]
"""Constants by the corruption's name, with an entry per severity."""

IMAGENET: Table = {
    # standard deviation, of values in [0, 1]
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    # photons of a white pixel
    "shot_noise": (60, 25, 12, 5, 3),
    # share of values that are replaced
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    # radius of the disk, sigma of its edge; pixels
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    # sigma of both blurs, largest shift of pixels, sweeps
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    # radius, sigma; pixels along the line
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    # upper limit of the zooms (excluded), step
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    # flakes: mean, deviation, zoom, threshold; motion blur: radius, sigma; share of the image that is not whitened
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    # weight of the image, weight of the ice
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    # weight of the cloud; its decay from scale to scale
    "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    # addend of the value in HSV
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    # share of the contrast that remains
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    # factor of the displacement field, which is within 0.005 of the height
    "elastic_transform": (250 * 0.05, 250 * 0.065, 250 * 0.085, 250 * 0.1, 250 * 0.12),
    # share of the sides
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    # quality
    "jpeg_compression": (25, 18, 15, 10, 7),
    # standard deviation, as a share of the value
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    # sigma; pixels
    "gaussian_blur": (1, 2, 3, 4, 6),
    # liquid: mean, deviation, sigma of its blur, threshold; water: its weight, or mud: sigma of its edge; whether mud
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    # factor and addend of the saturation in HSV
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

CIFAR: Table = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    # as shares of the image's side: displacement of pixels, sigma of its field, displacement of the affine map's points
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}

SMALL = 64
"""Side in pixels below which CIFAR's constants, made for 32 pixels, are the default: ImageNet's are too strong."""
