"""ImageNet-A and ImageNet-R: images of 200 of ImageNet's classes each, in the layout of the publisher's archives.

`imagenet_a_wnids.txt` and `imagenet_r_wnids.txt` list the WordNet ids of the classes. They are those of `eval.py` in
https://github.com/hendrycks/natural-adv-examples (commit 0777070) and https://github.com/hendrycks/imagenet-r (commit
3131cac), both under the MIT licence; published accuracies take the largest logit among these classes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from robharness import Archive, MissingResource, UserError, for_shell
from robharness_datasets.imagenet import SUBSET, declares_subset, wnids
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import images_below, shown

TOTALS = {"imagenet-a": 7_500, "imagenet-r": 30_000}
"""Number of published images."""
_URL = "https://people.eecs.berkeley.edu/~hendrycks"
ARCHIVES = {
    "imagenet-a": Archive(
        url=f"{_URL}/imagenet-a.tar", md5="c3e55429088dc681f30d81f4726b6595", size=687_552_512, unpacked=687_552_512
    ),
    "imagenet-r": Archive(url=f"{_URL}/imagenet-r.tar", md5="a61312130a589d0ca1a8fca1f2bd3337"),
}
"""The published archives. Source of the md5: torch-uncertainty and other libraries that download them."""


@cache
def classes_of(name: str) -> tuple[int, ...]:
    """Return the classes of a published subset of ImageNet's classes, ascending."""
    file = Path(__file__).parent / f"{name.replace('-', '_')}_wnids.txt"
    return tuple(wnids()[wnid] for wnid in file.read_text(encoding="ascii").split())


def open_subset(name: str, root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<name>/<wnid>/`, with ids such as "n01443537/art_0.jpg".

    name: "imagenet-a" or "imagenet-r".
    Raises MissingResource if images are missing, UserError for a folder of another class. A file named SUBSET declares
    an intended subset, so that missing images are accepted.
    """
    folder, total = root / name, TOTALS[name]
    numbers = {wnid: number for wnid, number in wnids().items() if number in set(classes_of(name))}
    found = images_below(folder) if folder.is_dir() else None
    images = {} if found is None else found.images
    if unknown := sorted(images.keys() - numbers.keys()):
        path = for_shell(folder / unknown[0])
        raise UserError(
            f"{shown(folder / unknown[0])} is none of the {len(numbers)} classes of {name}. "
            f"Try: mv {path} {for_shell(root)}"
        )
    count = sum(map(len, images.values()))
    if found is None or (count != total and not (count and (folder / SUBSET).exists())):
        what = f"the {total:,} images of {name} (there are {count:,})"
        where = f"{folder} ({declares_subset(folder / SUBSET)})" if count else str(folder)
        raise MissingResource(what, where=where, source=ARCHIVES[name], place=root)
    examples = [(f"{wnid}/{one}", numbers[wnid]) for wnid, ones in images.items() for one in ones]
    return ImageFiles(folder, examples, found.remarks)
