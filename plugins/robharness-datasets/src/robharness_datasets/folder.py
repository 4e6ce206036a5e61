"""Any folder of pictures with a folder for each class; the split of the suite names it, below the data root."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from robharness import MissingResource, UserError
from robharness_datasets.imagenet import wnids
from robharness_datasets.listing import pictures_below
from robharness_datasets.pictures import PictureFiles

CLASSES = "classes.txt"


def open_folder(root: Path, split: str) -> PictureFiles:
    """The pictures of `<root>/<split>/<class>/`, of a label space of their own; ids such as "cat/one.png".

    Classes are numbered in the order of the lines of `<root>/<split>/classes.txt`, or alphabetically without one.
    Raises MissingResource where nothing is there, and UserError where a class has no pictures or is not in the file.
    """
    folder = _folder(root, split)
    found = pictures_below(folder) if folder.is_dir() else {}
    listed = folder / CLASSES
    if listed.is_file():
        names: Sequence[str] = [
            line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{listed} names the class '{twice[0]}' twice. To mend it: edit {shlex.quote(str(listed))}")
        return _opened(folder, found, {name: number for number, name in enumerate(names)}, f"a class of {listed}")
    if empty := [name for name, pictures in found.items() if not pictures]:
        place = shlex.quote(str(folder / empty[0]))
        raise UserError(f"{folder / empty[0]} has no pictures and would count as a class. To see it: ls -R {place}")
    return _opened(folder, found, {name: number for number, name in enumerate(found)}, "a class")


def open_imagenet_folder(root: Path, split: str) -> PictureFiles:
    """The pictures of `<root>/<split>/<class>/`, of ImageNet's classes: WordNet ids, or numbers from 0 to 999.

    So are ImageNet-V2 (numbers), -Sketch, -A and -R (ids) laid out. Raises as `open_folder`.
    """
    folder = _folder(root, split)
    found = pictures_below(folder) if folder.is_dir() else {}
    numbers = {**wnids(), **{str(number): number for number in wnids().values()}}
    return _opened(folder, found, numbers, "one of ImageNet's classes, by WordNet id or number")


def _folder(root: Path, split: str) -> Path:
    if Path(split).is_absolute() or ".." in Path(split).parts:
        raise UserError(f"the split '{split}' does not lie below {root}. Name the folder above it: --data-root FOLDER")
    return root / split


def _opened(folder: Path, found: Mapping[str, Sequence[str]], numbers: Mapping[str, int], what: str) -> PictureFiles:
    """found: class -> names of its pictures. numbers: class -> its number. what: a key of `numbers`, in words."""
    if not any(found.values()):
        place = shlex.quote(str(folder))
        get = f"put a folder for each class there, as in {folder / 'cat' / 'one.png'}, then type: ls {place}"
        raise MissingResource("pictures in a folder for each class", where=str(folder), get=get)
    if others := sorted(found.keys() - numbers.keys()):
        places = shlex.quote(str(folder / others[0])), shlex.quote(str(folder.parent))
        raise UserError(f"{folder / others[0]} is not {what}. To move it away: mv {places[0]} {places[1]}")
    return PictureFiles(folder, [(f"{name}/{one}", numbers[name]) for name, ones in found.items() for one in ones])
