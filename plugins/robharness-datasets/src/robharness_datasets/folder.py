"""Image folders with one folder per class; the suite's split is the folder's path below the data root."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from robharness import MissingResource, UserError
from robharness_datasets.imagenet import wnids
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import Found, images_below, shown

CLASSES = "classes.txt"


def open_folder(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<split>/<class>/`, with a label space of their own and ids such as "cat/one.png".

    Images in subfolders of a class's folder belong to the class. Classes are numbered in the order of the lines of
    `<root>/<split>/classes.txt`. Without that file, they are in the order of numbers if all names are whole numbers,
    and else in alphabetical order.

    root: the data root.
    split: path of the folder below the data root.
    Raises MissingResource if there are no images, UserError if a class has no images or is not in the file.
    """
    folder = _folder(root, split)
    found = _found(folder)
    listed = folder / CLASSES
    if listed.is_file():
        text = listed.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names of files may be any bytes
        names: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{listed} names the class '{shown(twice[0])}' twice. Try: edit {shlex.quote(str(listed))}")
        return _image_files(folder, found, {name: number for number, name in enumerate(names)}, f"a class of {listed}")
    if empty := [name for name, images in found.images.items() if not images]:
        path = shlex.quote(shown(folder / empty[0]))
        raise UserError(
            f"{shown(folder / empty[0])} has no images and would count as a class. Remove it, or name all classes in "
            f"{shlex.quote(str(listed))}, one a line. Try: ls -R {path}"
        )
    order = _class_order(list(found.images))
    remarks = [*found.remarks, *_order_remarks(folder, order)]
    numbers = {name: number for number, name in enumerate(order)}
    return _image_files(folder, Found(images=found.images, remarks=tuple(remarks)), numbers, "a class")


def open_imagenet_folder(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<split>/<class>/`, labelled with ImageNet's classes.

    The folders are named by WordNet ids (ImageNet-Sketch, -A, -R) or by class numbers from 0 to 999 (ImageNet-V2).

    root: the data root.
    split: path of the folder below the data root.
    Raises MissingResource if there are no images, UserError if a folder is not named after one of the classes.
    """
    folder = _folder(root, split)
    numbers = {**wnids(), **{str(number): number for number in wnids().values()}}
    return _image_files(folder, _found(folder), numbers, "one of ImageNet's classes, by WordNet id or number")


def _folder(root: Path, split: str) -> Path:
    if Path(split).is_absolute() or ".." in Path(split).parts:
        raise UserError(f"the split '{split}' is not below the data root {root}. Try: robharness run --data-root DIR")
    return root / split


def _found(folder: Path) -> Found:
    return images_below(folder) if folder.is_dir() else Found(images={}, remarks=())


def _class_order(names: Sequence[str]) -> list[str]:
    """Return the names of classes in the order of their labels: by number if all are whole numbers, else as text."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _order_remarks(folder: Path, order: Sequence[str]) -> list[str]:
    """Return a sentence if the order of classes is not that of torchvision's ImageFolder."""
    theirs = sorted(order)
    if list(order) == theirs:
        return []
    name = next(name for name, other in zip(order, theirs, strict=True) if name != other)
    where = shlex.quote(str(folder))
    return [
        f"the names of the class folders are whole numbers, so labels are in the order of the numbers: {name} has the "
        f"label {order.index(name)}. torchvision's ImageFolder sorts the names as text, where {name} has the label "
        f"{theirs.index(name)}. For a model that was trained on ImageFolder's labels, type: "
        f"(cd {where} && ls -d */ | tr -d / | LC_ALL=C sort > {CLASSES}). To keep this order without this "
        f"warning, type: (cd {where} && ls -d */ | tr -d / | sort -n > {CLASSES})"
    ]


def _image_files(folder: Path, found: Found, numbers: Mapping[str, int], expected: str) -> ImageFiles:
    """Label the images of a folder.

    numbers: class -> label.
    expected: description of a key of `numbers`, for the message.
    """
    if not any(found.images.values()):
        get = f"store the images as {folder / 'CLASS' / 'NAME.png'}, then check: ls {shlex.quote(str(folder))}"
        raise MissingResource("images in one folder per class", where=str(folder), get=get)
    if unknown := sorted(found.images.keys() - numbers.keys()):
        path, target = shlex.quote(shown(folder / unknown[0])), shlex.quote(str(folder.parent))
        raise UserError(f"{shown(folder / unknown[0])} is not {expected}. Try: mv {path} {target}")
    examples = [(f"{name}/{one}", numbers[name]) for name, ones in found.images.items() for one in ones]
    return ImageFiles(folder, examples, found.remarks)
