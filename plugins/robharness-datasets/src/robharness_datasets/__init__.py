"""The paper's data sets, read from disk in their publishers' layouts.

ImageNet, ImageNet-A, ImageNet-R and CIFAR, corrupted copies as corruptions, image folders, images that a CSV file
lists, and the videos of UCF101.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from robharness import CorruptionSpec, DatasetSpec, hookimpl
from robharness.specs.conventions import CORRUPTION_GROUPS, NO_LABELS
from robharness_datasets.cifar import open_cifar
from robharness_datasets.cifar_c import open_cifar_c
from robharness_datasets.csv_file import OWN_LABELS, CsvParams, given, open_csv
from robharness_datasets.folder import open_folder, open_imagenet_folder
from robharness_datasets.imagenet import SPLITS, open_imagenet
from robharness_datasets.imagenet_c import open_imagenet_c
from robharness_datasets.imagenet_subsets import TOTALS, classes_of, open_subset
from robharness_datasets.ucf101 import SPEC as UCF101
from robharness_datasets.unlabelled import ImagesParams, open_images, split_of

# The archive of ImageNet-C with a corruption, if it has another name than the corruption's group.
_ARCHIVES = {"brightness": "weather"}


_PAPERS = {"imagenet-a": "https://arxiv.org/abs/1907.07174", "imagenet-r": "https://arxiv.org/abs/2006.16241"}


@hookimpl
def robharness_datasets() -> Iterator[DatasetSpec]:
    masks = {name: classes_of(name) for name in TOTALS}
    yield DatasetSpec(
        name="imagenet",
        summary="ImageNet (ILSVRC 2012), one folder per class, in torchvision's layout",
        labels="imagenet-1k",
        splits=("val", "train"),
        open=open_imagenet,
        licence="the terms of ImageNet: non-commercial research and education (https://image-net.org/download)",
        paper="https://arxiv.org/abs/1409.0575",
        masks=masks,
        examples={split: published.total for split, published in SPLITS.items()},
    )
    for name, classes in (("cifar-10", 10), ("cifar-100", 100)):
        yield DatasetSpec(
            name=name,
            summary=f"60,000 images of 32 x 32 px in {classes} classes, from the publisher's pickle files",
            labels=name,
            splits=("train", "test"),
            open=partial(open_cifar, name),
            examples={"train": 50_000, "test": 10_000},
            licence="none stated; the publisher asks for a citation",
            paper="https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf",
        )
    for name, what in (("imagenet-a", "natural adversarial examples"), ("imagenet-r", "renditions")):
        yield DatasetSpec(
            name=name,
            summary=f"{'ImageNet-A' if name == 'imagenet-a' else 'ImageNet-R'}: {what} of 200 of ImageNet's classes",
            labels="imagenet-1k",
            splits=("test",),
            open=partial(open_subset, name),
            examples={"test": TOTALS[name]},
            masks=masks,
            licence="none stated for the images; the publisher's code is under the MIT licence",
            paper=_PAPERS[name],
        )
    yield DatasetSpec(
        name="csv",
        summary="Your own images, as a CSV file lists them with labels, splits and ids",
        labels=OWN_LABELS,
        splits=(),  # those of the file
        params=CsvParams,
        given=given,
        open=open_csv,
    )
    yield DatasetSpec(
        name="images",
        summary="Your own images without labels, all that are in a folder and below it",
        labels=NO_LABELS,
        splits=(),  # the folder's name
        params=ImagesParams,
        given=split_of,
        open=open_images,
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
        masks=masks,
    )
    yield UCF101


@hookimpl
def robharness_corruptions() -> Iterator[CorruptionSpec]:
    for name, group in CORRUPTION_GROUPS.items():
        # The pattern imagenet-c/* matches only the 15 corruptions of the benchmark.
        title, extra = name.replace("_", " "), "-extra" if group == "extra" else ""
        yield CorruptionSpec(
            name=f"imagenet-c{extra}/{name}",
            summary=f"ImageNet-C's {title} as published, 224 px",
            group=group,
            open=partial(open_imagenet_c, name, _ARCHIVES.get(name, group)),
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
