"""Image folders with one folder per class; the suite's split is the folder's path below the data root."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from robharness import MissingResource, UserError, for_shell
from robharness_datasets.classes import CLASSES, read_classes, unlisted
from robharness_datasets.imagenet import wnids
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import Found, images_below, images_in, inaccessible, shown


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
    _require_images(folder, found)
    if (names := read_classes(folder)) is not None:
        folders = {*found.images, *found.lost}
        if unknown := sorted(folders - set(names)):
            raise unlisted(folder, unknown[0], names, folders)
        return _image_files(folder, found, {name: number for number, name in enumerate(names)})
    if empty := [*found.lost, *(name for name, images in found.images.items() if not images)]:
        path, is_lost = for_shell(folder / empty[0]), empty[0] in found.lost
        why = "is a link that leads nowhere" if is_lost else "has no images"
        raise UserError(
            f"{shown(folder / empty[0])} {why} and would count as a class. Remove it, or name all classes in "
            f"{for_shell(folder / CLASSES)}, one a line. Try: ls {'-ld' if is_lost else '-R'} {path}"
        )
    order = _class_order(list(found.images))
    remarks = [*found.remarks, *_order_remarks(folder, order)]
    numbers = {name: number for number, name in enumerate(order)}
    return _image_files(folder, replace(found, remarks=tuple(remarks)), numbers)


def open_imagenet_folder(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<split>/<class>/`, labelled with ImageNet's classes.

    The folders are named by WordNet ids (ImageNet-Sketch, -A, -R) or by class numbers from 0 to 999 (ImageNet-V2).

    root: the data root.
    split: path of the folder below the data root.
    Raises MissingResource if there are no images, UserError if a folder is not named after one of the classes.
    """
    folder = _folder(root, split)
    numbers = {**wnids(), **{str(number): number for number in wnids().values()}}
    found = _found(folder)
    _require_images(folder, found)
    if unknown := sorted(found.images.keys() - numbers.keys()):
        path, target = for_shell(folder / unknown[0]), for_shell(folder.parent)
        raise UserError(
            f"{shown(folder / unknown[0])} is not one of ImageNet's classes, by WordNet id or number. "
            f"Try: mv {path} {target}"
        )
    return _image_files(folder, found, numbers)


def _folder(root: Path, split: str) -> Path:
    if Path(split).is_absolute() or ".." in Path(split).parts:
        raise UserError(f"the split '{split}' is not below the data root {root}. Try: robharness run --data-root DIR")
    return root / split


def _found(folder: Path) -> Found:
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        raise inaccessible(folder, error) from None
    return images_below(folder) if is_folder else Found(images={}, remarks=())


def _require_images(folder: Path, found: Found) -> None:
    """Raise MissingResource if there are no images."""
    if not any(found.images.values()):
        if folder.is_dir() and images_in(folder):
            sentence = f"{shown(folder)} has images, and no folders of classes. If they have no classes, write"
            raise UserError(
                f"{sentence} `{{name: datasets/images, folder: {shown(folder)}}}`. Try: ls {for_shell(folder)}"
            )
        store = f"store the images as {folder / 'CLASS' / 'NAME.png'}, or correct `split:`, the folder's path"
        get = f"{store} below the data root; then check: ls {for_shell(folder)}"
        raise MissingResource("images in one folder per class", where=str(folder), get=get)


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
    where = for_shell(folder)
    return [
        f"the names of the class folders are whole numbers, so labels are in the order of the numbers: {name} has the "
        f"label {order.index(name)}. torchvision's ImageFolder sorts the names as text, where {name} has the label "
        f"{theirs.index(name)}. For a model that was trained on ImageFolder's labels, type: "
        f"(cd {where} && ls -d */ | tr -d / | LC_ALL=C sort > {CLASSES}). To keep this order without this "
        f"warning, type: (cd {where} && ls -d */ | tr -d / | sort -n > {CLASSES})"
    ]


def _image_files(folder: Path, found: Found, numbers: Mapping[str, int]) -> ImageFiles:
    """Label the images of a folder.

    numbers: class -> label.
    """
    examples = [(f"{name}/{one}", numbers[name]) for name, ones in found.images.items() for one in ones]
    return ImageFiles(folder, examples, found.remarks)
