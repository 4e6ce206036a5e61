"""The paper's data sets, read from disk in their publishers' layouts.

ImageNet and CIFAR, their corrupted copies as corruptions, image folders, and the videos of UCF101.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from robharness import CorruptionSpec, DatasetSpec, hookimpl
from robharness_datasets.cifar import open_cifar
from robharness_datasets.cifar_c import open_cifar_c
from robharness_datasets.folder import open_folder, open_imagenet_folder
from robharness_datasets.imagenet import open_imagenet
from robharness_datasets.imagenet_c import open_imagenet_c
from robharness_datasets.ucf101 import SPEC as UCF101

# Name, group, archive of ImageNet-C. The groups are those of the paper's Table 6, which counts brightness as digital;
# the publisher counts it as weather. The last four belong neither to the benchmark nor to the paper. Their prefix is
# "-extra", so that the pattern imagenet-c/* matches only the 15 corruptions of the benchmark.
_CORRUPTIONS = (
    ("gaussian_noise", "noise", "noise"),
    ("shot_noise", "noise", "noise"),
    ("impulse_noise", "noise", "noise"),
    ("brightness", "digital", "weather"),
    ("contrast", "digital", "digital"),
    ("pixelate", "digital", "digital"),
    ("elastic_transform", "digital", "digital"),
    ("jpeg_compression", "digital", "digital"),
    ("defocus_blur", "blur", "blur"),
    ("motion_blur", "blur", "blur"),
    ("glass_blur", "blur", "blur"),
    ("zoom_blur", "blur", "blur"),
    ("fog", "weather", "weather"),
    ("frost", "weather", "weather"),
    ("snow", "weather", "weather"),
    ("speckle_noise", "extra", "extra"),
    ("gaussian_blur", "extra", "extra"),
    ("spatter", "extra", "extra"),
    ("saturate", "extra", "extra"),
)


@hookimpl
def robharness_datasets() -> Iterator[DatasetSpec]:
    yield DatasetSpec(
        name="imagenet",
        summary="ImageNet (ILSVRC 2012), one folder per class, in torchvision's layout",
        labels="imagenet-1k",
        splits=("val", "train"),
        open=open_imagenet,
        licence="the terms of ImageNet: non-commercial research and education (https://image-net.org/download)",
        paper="https://arxiv.org/abs/1409.0575",
    )
    for name, classes in (("cifar-10", 10), ("cifar-100", 100)):
        yield DatasetSpec(
            name=name,
            summary=f"60,000 images of 32 x 32 px in {classes} classes, from the publisher's pickle files",
            labels=name,
            splits=("train", "test"),
            open=partial(open_cifar, name),
            licence="none stated; the publisher asks for a citation",
            paper="https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf",
        )
    yield DatasetSpec(
        name="folder",
        summary="Your own images, one folder per class; the split is the folder's path below the data root",
        labels="folder",
        splits=(),  # any
        open=open_folder,
    )
    yield DatasetSpec(
        name="imagenet-folder",
        summary="An image folder with ImageNet's classes, e.g. ImageNet-V2, -Sketch, -A or -R",
        labels="imagenet-1k",
        splits=(),  # any
        open=open_imagenet_folder,
    )
    yield UCF101


@hookimpl
def robharness_corruptions() -> Iterator[CorruptionSpec]:
    for name, group, archive in _CORRUPTIONS:
        title, extra = name.replace("_", " "), "-extra" if group == "extra" else ""
        yield CorruptionSpec(
            name=f"imagenet-c{extra}/{name}",
            summary=f"ImageNet-C's {title} as published, 224 px",
            group=group,
            open=partial(open_imagenet_c, name, archive),
            canvas=224,
            randomness="none",
        )
        for clean in ("cifar-10", "cifar-100"):
            yield CorruptionSpec(
                name=f"{clean}-c{extra}/{name}",
                summary=f"{clean.upper()}-C's {title} as published, 32 px",
                group=group,
                open=partial(open_cifar_c, clean, name),
                canvas=32,
                randomness="none",
            )
