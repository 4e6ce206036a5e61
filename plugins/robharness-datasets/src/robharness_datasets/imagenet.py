"""ImageNet (ILSVRC 2012) in torchvision's layout: a folder per class, named by the class's WordNet id.

`imagenet_wnids.txt` holds the 1,000 ids in the order of the classes, which is alphabetical. It is a copy of
`timm/data/_info/imagenet_synsets.txt` of timm 1.0.9 (Apache-2.0), with which a test compares it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robharness import MissingResource, UserError
from robharness_datasets.listing import pictures_below, pictures_in
from robharness_datasets.pictures import PictureFiles

SUBSET = "SUBSET"
"""A file of this name in a folder says that what is there is a part of what was published, on purpose."""
PER_CLASS = 50
"""Validation images of each class."""
VALPREP = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


@dataclass(frozen=True, kw_only=True)
class Split:
    """total: images. per_class: of each class, or None where they differ. unpack, sort: commands, run in the folder."""

    total: int
    per_class: int | None
    unpack: str
    sort: str

    def get(self, folder: Path) -> str:
        place = shlex.quote(str(folder))
        return (
            f"register at https://image-net.org/download-images, then type: "
            f"mkdir -p {place} && {self.unpack.format(place=place)} && cd {place} && {self.sort}"
        )


SPLITS = {
    "val": Split(
        total=1000 * PER_CLASS,
        per_class=PER_CLASS,
        unpack="tar -xf ILSVRC2012_img_val.tar -C {place}",
        sort=f"curl -sL {VALPREP} | bash",
    ),
    "train": Split(
        total=1_281_167,
        per_class=None,
        unpack="tar -xf ILSVRC2012_img_train.tar -C {place}",
        sort="for f in n*.tar; do mkdir -p ${f%.tar} && tar -xf $f -C ${f%.tar} && rm $f; done",
    ),
}


@cache
def wnids() -> Mapping[str, int]:
    """The WordNet id of each of the 1,000 classes -> its number, in order."""
    names = (Path(__file__).parent / "imagenet_wnids.txt").read_text(encoding="ascii").split()
    return {name: number for number, name in enumerate(names)}


def open_imagenet(root: Path, split: str) -> PictureFiles:
    """The images of `<root>/imagenet/<split>/<wnid>/`, split "val" or "train"; ids such as "n01440764/one.JPEG".

    Raises MissingResource where images are missing, unless a file SUBSET in the folder says that this is on purpose, and
    UserError where the folders are none of ImageNet's classes.
    """
    folder, facts = root / "imagenet" / split, SPLITS[split]
    what = f"the images of ImageNet's split {split}"
    if not folder.is_dir():
        raise MissingResource(what, where=str(folder), get=facts.get(folder))
    found = pictures_below(folder)
    if not any(found.values()):
        if loose := pictures_in(folder):
            raise UserError(
                f"{folder} has {len(loose):,} images side by side, not in a folder for each class. "
                f"To sort them: cd {shlex.quote(str(folder))} && {facts.sort}"
            )
        raise MissingResource(what, where=str(folder), get=facts.get(folder))
    check_classes(folder, found)
    if not (folder / SUBSET).exists():
        check_complete(what, folder, found, facts.total, facts.per_class, facts.get(folder), folder / SUBSET)
    numbers = wnids()
    return PictureFiles(folder, [(f"{wnid}/{name}", numbers[wnid]) for wnid, names in found.items() for name in names])


def check_classes(folder: Path, found: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError where a folder in `folder` is none of ImageNet's classes."""
    others = sorted(found.keys() - wnids().keys())
    if others:
        place = shlex.quote(str(folder / others[0]))
        raise UserError(
            f"{folder} has folders that are none of ImageNet's 1,000 classes ({len(others)}, such as {others[0]}). "
            f"To move it away: mv {place} {shlex.quote(str(folder.parent))}"
        )


def check_complete(
    what: str, folder: Path, found: Mapping[str, Sequence[str]], total: int, per_class: int | None, get: str, mark: Path
) -> None:
    """Raises MissingResource where there are not `total` images of all 1,000 classes, `per_class` of each.

    found: class -> names of its images in `folder`. get: how to get them all. mark: what says that they are not wanted.
    """
    counts = {wnid: len(found.get(wnid, ())) for wnid in wnids()}
    absent = [wnid for wnid, count in counts.items() if not count]
    uneven = [wnid for wnid, count in counts.items() if count and per_class and count != per_class]
    there = sum(counts.values())
    if there == total and not absent and not uneven:
        return
    remarks = [f"there are {there:,} of {total:,}"]
    if absent:
        remarks.append(f"classes without any: {len(absent)}, such as {absent[0]}")
    if uneven:
        remarks.append(f"classes without {per_class}: {len(uneven)}, such as {uneven[0]} with {counts[uneven[0]]}")
    again = f"{get}; or, where this is a part on purpose, type: touch {shlex.quote(str(mark))}"
    raise MissingResource(f"all of {what} ({'; '.join(remarks)})", where=str(folder), get=again)
