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
from robharness.plugins.calls import plugin_errors, shown
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
        _check_length(len(text))
    except yaml.Endless as error:
        return yaml.Document(data=None, errors=[(1, 1, (), error.sentence)], unread={()})
    document = yaml.parse(text)
    for path, sentence in values.problems.items() if () not in document.unread else ():
        if path not in document.values:
            continue  # it is in a mapping or a list that cannot be read to its end
        document.unread.add(path)
        if len(document.errors) < yaml.MOST_ERRORS:
            document.errors.append((*document.values[path], path, sentence))
    return document


def as_json(value: Any) -> str:
    """Return a value of Python as JSON, which YAML reads. Raises ValueError, with the reason, for others."""
    values = _Values()
    try:
        plain = values.plain(value, ())
    except yaml.Endless as error:
        raise ValueError(error.sentence) from None
    if values.problems:
        path, reason = next(iter(values.problems.items()))
        raise ValueError(f"{'.'.join(map(printable, path))}: {reason}" if path else reason)
    return json.dumps(plain, ensure_ascii=False)


def _check_length(characters: int) -> None:
    if characters > LARGEST:
        raise yaml.Endless((1, 1), f"the mapping has more than {LARGEST} characters as JSON")


class _Unreadable(Exception):
    """A value that a suite cannot have; the text is the reason."""


class _Values:
    """Reads values of Python as plain data, one at a time: a mapping or a list may yield items without end.

    problems: path -> why the value there, which is None in the data, cannot be read.
    count: of the values that were read.
    characters: of the keys and texts among them.
    """

    def __init__(self) -> None:
        self.problems: dict[yaml.Path, str] = {}
        self.count = self.characters = 0

    def plain(self, value: Any, path: yaml.Path, inside: tuple[int, ...] = ()) -> Any:
        """Return a value as plain data; a value that is none becomes None and a problem.

        inside: ids of the mappings and lists that contain the value.
        Raises yaml.Endless for too many values or characters.
        """
        self.count += 1
        yaml.check_size((1, 1), self.count, len(path) + 1 if id(value) not in inside else 1)
        try:
            with plugin_errors():  # a class of the caller's may raise anything
                if id(value) in inside:
                    raise _Unreadable("the value contains itself")
                inside = (*inside, id(value))
                if isinstance(value, Mapping):
                    items = ((self._text(_key(key)), item) for key, item in value.items())
                    return {key: self.plain(item, (*path, key), inside) for key, item in items}
                if isinstance(value, list | tuple):
                    return [self.plain(item, (*path, at), inside) for at, item in enumerate(value)]
                scalar = _scalar(value)
                return self._text(scalar) if isinstance(scalar, str) else scalar
        except yaml.Endless:
            raise
        except _Unreadable as error:
            self.problems[path] = str(error)
        except Exception as error:
            self.problems[path] = f"cannot be read: {describe(error)}"
        return None

    def _text(self, text: str) -> str:
        self.characters += len(text)
        _check_length(self.characters)
        return text


def _key(key: Any) -> str:
    """Return a key as a text. Raises _Unreadable if it is none."""
    if not isinstance(key, str):
        raise _Unreadable(f"a key must be a text; got {shown(key)}")
    return _checked(key, is_key=True)


def _checked(text: str, *, is_key: bool = False) -> str:
    """Return a text as a plain one. Raises _Unreadable if a suite may not have it."""
    if problem := yaml.text_problem(plain := str.__str__(text), is_key=is_key):
        raise _Unreadable(problem)
    return plain


def _scalar(value: Any) -> Any:
    """Return a text, a number, a truth value or None as JSON has it. Raises _Unreadable for others."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()  # a number of NumPy or torch
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return _checked(value)
    if isinstance(value, numbers.Integral):
        number = int(value)
        if number.bit_length() > 996:
            raise _Unreadable("an integer of more than 300 digits")
        return number
    if isinstance(value, Fraction):  # a budget as it was written, or 1/3
        return _checked(str(value))
    if isinstance(value, numbers.Real):
        return float(value)
    raise _Unreadable("a suite has mappings, lists, texts, numbers, true, false and None; "
                      f"got {printable(type(value).__name__)}")  # fmt: skip
