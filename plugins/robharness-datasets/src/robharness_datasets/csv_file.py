"""Images that a CSV file lists: their paths, and columns with labels, splits and ids."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from robharness import MissingResource, UserError, for_shell
from robharness.specs.conventions import NO_LABELS
from robharness_datasets.classes import read_names, read_text
from robharness_datasets.imagenet import wnids
from robharness_datasets.imagenet_subsets import TOTALS, classes_of
from robharness_datasets.images import ImageFiles
from robharness_datasets.listing import shown

OWN_LABELS = "csv"
LARGEST = 2**29
"""Bytes of a file; a list of ImageNet's 1.3 million images has a fifth."""
MOST_NAMED = 5
"""Lines, columns or splits that a message names."""


@dataclass(frozen=True, kw_only=True)
class CsvParams:
    """Options of the data set.

    file: the CSV file, whose first line names the columns.
    root: folder that the images' paths are relative to; by default that of the file.
    path_column: column of the images' paths.
    label_column: column of the labels, numbers or names of classes; null for images without labels.
    class_names: names of the classes in the order of their numbers, or a file with one a line.
    labels: label space, e.g. "imagenet-1k", whose classes may be WordNet ids.
    split_column: column of the splits; by default the whole file is one split, named as the file.
    id_column: column of the ids; by default the paths are the ids.
    delimiter: character between two values of a line.
    """

    file: Path
    root: Path | None = field(default=None, metadata={"runtime": True})
    path_column: str = "path"
    label_column: str | None = "label"
    class_names: tuple[str, ...] | Path | None = None
    labels: str = OWN_LABELS
    split_column: str | None = None
    id_column: str | None = None
    delimiter: str = ","

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter={self.delimiter!r} must be one character")
        if isinstance(self.class_names, tuple) and len(set(self.class_names)) < len(self.class_names):
            raise ValueError("class_names has a name twice")
        if not self.labels.strip():
            raise ValueError("labels is empty")


class Row(NamedTuple):
    """An image of the file: the number of its last line, its path, and the values of the other columns."""

    line: int
    path: str
    label: str
    id: str


def given(params: CsvParams) -> Mapping[str, Any]:
    """Return the label space and the splits of a file."""
    names = params.class_names
    stem = params.file.stem if params.file.stem.isprintable() and params.file.stem.strip() else "all"
    return {
        "labels": NO_LABELS if params.label_column is None else params.labels,
        "splits": () if params.split_column else (stem,),
        **({"classes": len(names)} if isinstance(names, tuple) else {}),
        **({"masks": {name: classes_of(name) for name in TOTALS}} if params.labels == "imagenet-1k" else {}),
    }


def open_csv(params: CsvParams, data_root: Path, split: str) -> ImageFiles:
    """Open the images of a split, in the order of the file. Labels are numbered over all splits of the file.

    Raises MissingResource if the file or images are missing, UserError for a file that cannot be used.
    """
    every = _rows(params)
    rows = [row for name, row in every if params.split_column is None or name == split]
    if not rows:
        names = sorted({name for name, _ in every})
        raise UserError(
            f"no line of {params.file} has the split '{shown(split)}' in its column '{params.split_column}'; it has "
            f"{_some(names)}. Try: edit {for_shell(params.file)}"
        )
    numbers = _numbers(params, [row for _, row in every])
    root = params.file.parent if params.root is None else params.root
    _require_images(params, root, rows)
    images = ImageFiles(root, [(row.path, numbers.get(row.label, 0)) for row in rows])
    images.ids = [row.id for row in rows]
    return images


def _rows(params: CsvParams) -> list[tuple[str, Row]]:
    """Return the lines of the file, each with its split. Raises UserError, with the line of the first mistake."""
    file = params.file
    if not file.exists():
        raise MissingResource("the CSV file of the images", where=str(file), get="correct `file:` in the suite")
    lines = _lines(params, read_text(file, LARGEST))
    _, header = next(lines, (1, []))
    columns = [name.strip() for name in header]
    places = {}
    for option in ("path_column", "label_column", "split_column", "id_column"):
        name = getattr(params, option)
        if name is None:
            continue
        if columns.count(name) != 1:
            found = "no column" if name not in columns else "several columns"
            more = "; for images without labels write `label_column: null`" if option == "label_column" else ""
            raise UserError(
                f"{file} has {found} '{shown(name)}'; its first line has {_some(columns)}. Write `{option}: NAME` in "
                f"the suite{more}. Try: head -n 1 {for_shell(file)}"
            )
        places[option] = columns.index(name)
    rows: list[tuple[str, Row]] = []
    seen: dict[str, int] = {}
    for number, values in lines:
        if len(values) != len(columns):
            count = f"{len(values)} values, and the first line has {len(columns)}"
            raise _wrong(file, number, f"has {count}; write values with '{params.delimiter}' in quotes")
        row = {option: values[place].strip() for option, place in places.items()}
        id = row.get("id_column", row["path_column"])
        if not row["path_column"] or not id:
            raise _wrong(file, number, f"has no {'id' if row['path_column'] else 'path'}")
        if id in seen:
            hint = "" if params.id_column else "; for one image twice, write `id_column: NAME` in the suite"
            raise _wrong(file, number, f"has the {'id' if params.id_column else 'path'} of line {seen[id]}{hint}")
        seen[id] = number
        label = row.get("label_column", "")
        if not label and params.label_column is not None:
            raise _wrong(file, number, "has no label")
        rows.append((row.get("split_column", ""), Row(number, row["path_column"], label, id)))
    if not rows:
        raise UserError(f"{file} lists no images. Try: edit {for_shell(file)}")
    return rows


def _lines(params: CsvParams, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, with their numbers from 1. Raises UserError for what is no CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=params.delimiter, strict=True)
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield reader.line_num, values
    except csv.Error as error:
        raise _wrong(params.file, reader.line_num, f"is no CSV: {error}") from None


def _numbers(params: CsvParams, rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of the class by label, as it is written. Raises UserError, with the line of the mistake."""
    if params.label_column is None:
        return {}
    names = params.class_names
    known = read_names(names) if isinstance(names, Path) else names
    if known is not None:
        numbers = {name: number for number, name in enumerate(known)}
    elif params.labels == "imagenet-1k":
        numbers = dict(wnids())
    elif params.labels == OWN_LABELS and not all(map(_is_number, (row.label for row in rows))):
        numbers = {name: number for number, name in enumerate(sorted({row.label for row in rows}))}
    else:
        numbers = {}
    count = len(known) if known is not None else None
    for row in rows:
        if row.label in numbers:
            continue
        if not _is_number(row.label) or (count is not None and int(row.label) >= count):
            what = f"one of the {count} names of `class_names`, nor a number below"
            if count is None:
                what = f"a number of a class of '{params.labels}'; name the classes by `class_names:` in the suite"
            raise _wrong(params.file, row.line, f"has the label '{shown(row.label)}', which is not {what}")
        numbers[row.label] = int(row.label)
    return numbers


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 10


def _require_images(params: CsvParams, root: Path, rows: Sequence[Row]) -> None:
    """Raise MissingResource if images are missing; each folder is listed once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for row in rows:
        folder, name = os.path.split(os.path.join(root, row.path))
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder))
            except (OSError, ValueError):
                listed[folder] = set()
        if name not in listed[folder]:
            missing.append(f"line {row.line}: {shown(row.path)}")
    if missing:
        more = f" and {len(missing) - MOST_NAMED:,} more" if len(missing) > MOST_NAMED else ""
        what = f"{len(missing):,} of {len(rows):,} images of {params.file} ({'; '.join(missing[:MOST_NAMED])}{more})"
        get = f"correct the paths, or write their folder as `root:` in the suite; then check: ls {for_shell(root)}"
        raise MissingResource(what, where=str(root), get=get)


def _wrong(file: Path, line: int, what: str) -> UserError:
    return UserError(f"{file}:{line}: this line {what}. Try: edit {for_shell(file)}")


def _some(names: Sequence[str]) -> str:
    """Return some names for a message."""
    named = ", ".join(f"'{shown(name)}'" for name in names[:MOST_NAMED])
    return f"{named} and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else named or "none"
