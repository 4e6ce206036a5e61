"""Image folders with one folder per class; the suite's split is the folder's path below the data root."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from robharness import MissingResource, UserError
from robharness_datasets.imagenet import wnids
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import images_below

CLASSES = "classes.txt"


def open_folder(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<split>/<class>/`, with a label space of their own and ids such as "cat/one.png".

    Classes are numbered in the order of the lines of `<root>/<split>/classes.txt`, or alphabetically without that file.

    root: the data root.
    split: path of the folder below the data root.
    Raises MissingResource if there are no images, UserError if a class has no images or is not in the file.
    """
    folder = _folder(root, split)
    found = images_below(folder) if folder.is_dir() else {}
    listed = folder / CLASSES
    if listed.is_file():
        names: Sequence[str] = [
            line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{listed} names the class '{twice[0]}' twice. Try: edit {shlex.quote(str(listed))}")
        return _image_files(folder, found, {name: number for number, name in enumerate(names)}, f"a class of {listed}")
    if empty := [name for name, images in found.items() if not images]:
        path = shlex.quote(str(folder / empty[0]))
        raise UserError(f"{folder / empty[0]} has no images and would count as a class. Try: ls -R {path}")
    return _image_files(folder, found, {name: number for number, name in enumerate(found)}, "a class")


def open_imagenet_folder(root: Path, split: str) -> ImageFiles:
    """Open the images of `<root>/<split>/<class>/`, labelled with ImageNet's classes.

    The folders are named by WordNet ids (ImageNet-Sketch, -A, -R) or by class numbers from 0 to 999 (ImageNet-V2).

    root: the data root.
    split: path of the folder below the data root.
    Raises MissingResource if there are no images, UserError if a folder is not named after one of the classes.
    """
    folder = _folder(root, split)
    found = images_below(folder) if folder.is_dir() else {}
    numbers = {**wnids(), **{str(number): number for number in wnids().values()}}
    return _image_files(folder, found, numbers, "one of ImageNet's classes, by WordNet id or number")


def _folder(root: Path, split: str) -> Path:
    if Path(split).is_absolute() or ".." in Path(split).parts:
        raise UserError(f"the split '{split}' is not below the data root {root}. Try: robharness run --data-root DIR")
    return root / split


def _image_files(
    folder: Path, found: Mapping[str, Sequence[str]], numbers: Mapping[str, int], expected: str
) -> ImageFiles:
    """Label the images of a folder.

    found: class -> names of its images.
    numbers: class -> label.
    expected: description of a key of `numbers`, for the message.
    """
    if not any(found.values()):
        get = f"store the images as {folder / 'CLASS' / 'NAME.png'}, then check: ls {shlex.quote(str(folder))}"
        raise MissingResource("images in one folder per class", where=str(folder), get=get)
    if unknown := sorted(found.keys() - numbers.keys()):
        path, target = shlex.quote(str(folder / unknown[0])), shlex.quote(str(folder.parent))
        raise UserError(f"{folder / unknown[0]} is not {expected}. Try: mv {path} {target}")
    return ImageFiles(folder, [(f"{name}/{one}", numbers[name]) for name, ones in found.items() for one in ones])
