"""The text of a suite, from its file or from a mapping in Python. Both have bounds, and errors with their places."""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from robharness.errors import UserError, describe, for_shell, nearest_existing
from robharness.reading import read_regular
from robharness.suite import yaml
from robharness.text import printable

LARGEST = 2**19
"""Bytes of a suite's text. PyYAML reads them in about a second; a suite of 1,000 models has a tenth."""


def from_file(path: Path) -> yaml.Document:
    """Return the document in a file, with its errors. Raises UserError if the file cannot be read."""
    try:
        content = read_regular(path, LARGEST)
    except OSError as error:
        reason = f"cannot read the suite: {error.strerror}"
        raise UserError(f"{path}: {reason}. Try: ls {for_shell(nearest_existing(path.parent))}") from None
    try:
        return yaml.parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            line, column, sentence = 1, 1, "the file is UTF-16; save it as UTF-8"
        else:
            line, column = yaml.place_in(content[: error.start].decode("utf-8"), error.start)
            sentence = f"the byte 0x{content[error.start]:02x} is no UTF-8; save the file as UTF-8"
        return yaml.Document(data=None, errors=[(line, column, (), sentence)], unread={()})


def from_mapping(suite: Mapping[str, Any]) -> yaml.Document:
    """Return the document of a mapping in Python, whose places are those in its JSON, and its errors."""
    values = _Values()
    try:
        text = json.dumps(values.plain(suite, ()), ensure_ascii=False, indent=1)
    except yaml.Endless as error:
        return yaml.Document(data=None, errors=[(1, 1, (), error.sentence)], unread={()})
    if len(text) > LARGEST:
        sentence = f"the mapping has {len(text)} characters as JSON; at most {LARGEST}"
        return yaml.Document(data=None, errors=[(1, 1, (), sentence)], unread={()})
    document = yaml.parse(text)
    for path, sentence in values.problems.items() if () not in document.unread else ():
        document.errors.append((*document.values[path], path, sentence))
        document.unread.add(path)
    return document


class _Values:
    """Reads values of Python as plain data.

    problems: path -> why the value there, which is None in the data, cannot be read.
    """

    def __init__(self) -> None:
        self.problems: dict[yaml.Path, str] = {}
        self.count = 0

    def plain(self, value: Any, path: yaml.Path, inside: tuple[int, ...] = ()) -> Any:
        """Return a value as plain data; a value that is none becomes None and a problem.

        inside: ids of the mappings and lists that contain the value.
        Raises yaml.Endless for too many values.
        """
        self.count += 1
        yaml.check_size((1, 1), self.count, len(path) + 1 if id(value) not in inside else 1)
        try:
            if id(value) in inside:
                raise ValueError("the value contains itself")
            if isinstance(value, Mapping):
                items = [(_key(key), item) for key, item in value.items()]
                return {key: self.plain(item, (*path, key), (*inside, id(value))) for key, item in items}
            if isinstance(value, list | tuple):
                return [self.plain(item, (*path, at), (*inside, id(value))) for at, item in enumerate(value)]
            return _scalar(value)
        except yaml.Endless:
            raise
        except (ValueError, TypeError) as error:
            self.problems[path] = str(error)
        except Exception as error:  # a class of the caller's may raise anything
            self.problems[path] = f"cannot be read: {describe(error)}"
        return None


def _key(key: Any) -> str:
    """Return a key as a text. Raises TypeError or ValueError if it is none."""
    if not isinstance(key, str):
        raise TypeError(f"a key must be a text; got {printable(repr(key))}")
    if problem := yaml.text_problem(text := str.__str__(key), is_key=True):
        raise ValueError(problem)
    return text


def _scalar(value: Any) -> Any:
    """Return a text, a number, a truth value or None as JSON has it. Raises TypeError or ValueError for others."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()  # a number of NumPy or torch
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        if problem := yaml.text_problem(text := str.__str__(value)):
            raise ValueError(problem)
        return text
    if isinstance(value, numbers.Integral):
        if int(value).bit_length() > 996:
            raise ValueError("an integer of more than 300 digits")
        return int(value)
    if isinstance(value, Fraction):  # a budget as it was written, or 1/3
        return str(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError("a suite has mappings, lists, texts, numbers, true, false and None; "
                    f"got {printable(type(value).__name__)}")  # fmt: skip
