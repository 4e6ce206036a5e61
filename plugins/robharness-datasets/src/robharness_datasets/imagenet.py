"""ImageNet (ILSVRC 2012) in torchvision's layout: one folder per class, named by the class's WordNet id.

`imagenet_wnids.txt` lists the 1,000 ids in the order of the classes, which is alphabetical. It is a copy of
`timm/data/_info/imagenet_synsets.txt` of timm 1.0.9 (Apache-2.0); a test compares both files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robharness import Archive, MissingResource, Page, UserError, for_shell
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import images_below, images_in

SUBSET = "SUBSET"
"""Name of a file that declares a folder to be an intended subset of the published data."""
PER_CLASS = 50
"""Number of validation images per class."""
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
"""File name of the archive with the labels of the validation images."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Size of a published split, and shell commands that install it.

    total: number of images.
    per_class: number of images per class, or None if the classes differ in size.
    archives: file names of the archives; the first one has the images.
    sort: the split's folder, quoted for a shell -> the command that sorts its images into one folder per class.
    """

    total: int
    per_class: int | None
    archives: tuple[str, ...]
    sort: Callable[[str], str]

    def page(self, folder: Path) -> Page:
        """Return the page with the archives, and the command that unpacks the images into the split's folder."""
        place = for_shell(folder)
        return Page(
            url="https://image-net.org/download-images",
            reason=f"it asks for a registration; save {' and '.join(self.archives)} in the working directory",
            then=f"mkdir -p {place} && tar -xf {self.archives[0]} -C {place} && {self.sort(place)}",
        )


SPLITS = {
    "val": Split(
        total=1000 * PER_CLASS,
        per_class=PER_CLASS,
        archives=("ILSVRC2012_img_val.tar", DEVKIT),
        sort=lambda place: f"python -m robharness_datasets.sort_imagenet {place} {DEVKIT}",
    ),
    "train": Split(
        total=1_281_167,
        per_class=None,
        archives=("ILSVRC2012_img_train.tar",),
        sort=lambda place: (
            f"(cd {place} && for f in n*.tar; do mkdir -p ${{f%.tar}} && tar -xf $f -C ${{f%.tar}} && rm $f; done)"
        ),
    ),
}


@cache
def wnids() -> Mapping[str, int]:
    """Return WordNet id -> class number for the 1,000 classes, in order."""
    names = (Path(__file__).parent / "imagenet_wnids.txt").read_text(encoding="ascii").split()
    return {name: number for number, name in enumerate(names)}


def open_imagenet(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/imagenet/<split>/<wnid>/`, with ids such as "n01440764/one.JPEG".

    root: the data root.
    split: "val" or "train".
    Raises MissingResource if images are missing, UserError if a folder is not named after one of ImageNet's classes.
    A file named SUBSET in the split's folder declares an intended subset, so that missing images are accepted.
    """
    folder, published = root / "imagenet" / split, SPLITS[split]
    what = f"the images of ImageNet's split {split}"
    if not folder.is_dir():
        raise MissingResource(what, where=str(folder), source=published.page(folder), place=folder)
    listed = images_below(folder)
    found = listed.images
    if not any(found.values()):
        if unsorted := images_in(folder):
            raise UserError(
                f"{folder} has {len(unsorted):,} images that are not sorted into one folder per class. "
                f"Try: {published.sort(for_shell(folder))}"
            )
        raise MissingResource(what, where=str(folder), source=published.page(folder), place=folder)
    check_classes(folder, found)
    if not (folder / SUBSET).exists():
        page, subset_file = published.page(folder), folder / SUBSET
        check_complete(
            what, folder, found, published.total, published.per_class, subset_file, source=page, place=folder
        )
    numbers = wnids()
    examples = [(f"{wnid}/{name}", numbers[wnid]) for wnid, names in found.items() for name in names]
    return ImageFiles(folder, examples, listed.remarks)


def check_classes(folder: Path, found: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError if a folder is not named after one of ImageNet's classes.

    found: folder name -> paths of its images.
    """
    unknown = sorted(found.keys() - wnids().keys())
    if unknown:
        path = for_shell(folder / unknown[0])
        raise UserError(
            f"{folder} has folders that are none of ImageNet's 1,000 classes ({len(unknown)}, such as {unknown[0]}). "
            f"Try: mv {path} {for_shell(folder.parent)}"
        )


def check_complete(
    what: str,
    folder: Path,
    found: Mapping[str, Sequence[str]],
    total: int,
    per_class: int | None,
    subset_file: Path,
    *,
    source: Archive | Page,
    place: Path,
) -> None:
    """Raise Missing unless the folder has all images of all 1,000 classes.

    what: description of the images, for the message.
    found: class -> paths of its images.
    total: expected number of images.
    per_class: expected number of images per class, or None if the classes differ in size.
    subset_file: the file that would declare an intended subset.
    source: the record of all images.
    place: where the source is expected.
    """
    counts = {wnid: len(found.get(wnid, ())) for wnid in wnids()}
    absent = [wnid for wnid, count in counts.items() if not count]
    uneven = [wnid for wnid, count in counts.items() if count and per_class and count != per_class]
    count = sum(counts.values())
    if count == total and not absent and not uneven:
        return
    remarks = [f"there are {count:,} of {total:,}"]
    if absent:
        remarks.append(f"classes without images: {len(absent)}, such as {absent[0]}")
    if uneven:
        remarks.append(f"classes without {per_class}: {len(uneven)}, such as {uneven[0]} with {counts[uneven[0]]}")
    where = f"{folder} ({declares_subset(subset_file)})"
    raise MissingResource(f"all of {what} ({'; '.join(remarks)})", where=where, source=source, place=place)


def declares_subset(file: Path) -> str:
    """Return the clause that says by which file images that are missing are accepted."""
    return f"an empty file {file} declares an intended subset"
