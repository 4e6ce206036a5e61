"""Joining of parsed texts: a suite's file, those that it extends, and values that are set, with the place of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from robharness.suite import yaml


class Joined:
    """A document that other documents are merged into.

    document: its data are changed in place, with the places of values and keys.
    start: the working directory, which paths of options are relative to.
    """

    def __init__(self, document: yaml.Document, start: Path) -> None:
        self.document, self.start = document, start

    def add_source(self, source: yaml.Source) -> int:
        """Add a source, and return its number."""
        self.document.sources.append(source)
        return len(self.document.sources) - 1

    def placed(self, part: yaml.Document, number: int, *, keeps_lines: bool = True) -> yaml.Document:
        """Return a document with its places in a source; without lines, all of them are the source itself."""

        def move(place: tuple[int, int]) -> tuple[int, int]:
            return (number * yaml.LINES + place[0], place[1]) if keeps_lines else (number * yaml.LINES, 1)

        return replace(
            part,
            values={path: move(place) for path, place in part.values.items()},
            keys={path: move(place) for path, place in part.keys.items()},
            errors=[(*move(error[:2]), *error[2:]) for error in part.errors],
        )

    def add_errors(self, part: yaml.Document) -> None:
        """Add the errors of a part, up to the number that is collected."""
        self.document.errors.extend(part.errors[: yaml.MOST_ERRORS - len(self.document.errors)])

    def error(self, number: int, sentence: str, path: yaml.Path = ()) -> None:
        """Add an error at a source without lines."""
        if len(self.document.errors) < yaml.MOST_ERRORS:
            self.document.errors.append((number * yaml.LINES, 1, path, sentence))

    def at(self, path: yaml.Path) -> Any:
        """Return the value at a path; None if there is none."""
        found: Any = self.document.data
        for step in path:
            is_there = step in found if isinstance(found, dict) else isinstance(found, list)
            found = found[step] if is_there else None
        return found

    def put(self, path: yaml.Path, part: yaml.Document, at: yaml.Path = ()) -> None:
        """Put the value at the path `at` of another document into the place of the value at a path.

        Mappings on the way that do not exist are created, with the place of the new value. Raises yaml.Endless if the
        document gets too large.
        """
        document, place = self.document, part.values[at]
        for length in range(1, len(path)):
            self._expand(path[:length])
            if self.at(path[:length]) is None:
                self._set(path[:length], {})
                document.values[path[:length]] = document.keys[path[:length]] = place
                document.unread.discard(path[:length])
        self._forget(path, self.at(path))
        value: Any = part.data
        for step in at:
            value = value[step]
        if isinstance(path[-1], str):
            document.keys[path] = part.keys.get(at, place)
        self._set(path, self._copied(value, path, part, at))

    def merge(self, part: yaml.Document, path: yaml.Path = ()) -> None:
        """Merge the mapping at a path of another document into the one there: key by key, lists replaced whole."""
        here, others = self.at(path), part.data
        for step in path:
            others = others[step]
        self.document.values[path] = part.values[path]
        for key, value in others.items():
            inner = (*path, key)
            if isinstance(value, dict):
                self._expand(inner)
            if isinstance(value, dict) and isinstance(here.get(key), dict):
                self.document.keys[inner] = part.keys[inner]
                self.merge(part, inner)
            else:
                self.put(inner, part, inner)

    def remove(self, key: str) -> None:
        """Remove a key of the whole document; the places of its values stay, for errors."""
        self.document.data.pop(key, None)

    def _expand(self, path: yaml.Path) -> None:
        """Replace the name of a data set by the mapping that it stands for, so that keys can be added."""
        name, document = self.at(path), self.document
        if path == ("data",) and isinstance(name, str):
            document.data["data"] = {"name": name}
            document.values["data", "name"], document.keys["data", "name"] = document.values[path], document.keys[path]

    def _set(self, path: yaml.Path, value: Any) -> None:
        self.at(path[:-1])[path[-1]] = value

    def _forget(self, path: yaml.Path, value: Any) -> None:
        """Forget the places of a value and of all values inside of it."""
        self.document.values.pop(path, None)
        self.document.unread.discard(path)
        for key, inner in _items(value):
            self.document.keys.pop((*path, key), None)
            self._forget((*path, key), inner)

    def _copied(self, value: Any, path: yaml.Path, part: yaml.Document, at: yaml.Path) -> Any:
        """Return a copy of a value, after adding the places of all values inside of it."""
        document = self.document
        yaml.check_size(part.values[at], len(document.values) + 1, len(path) + 1)
        document.values[path] = part.values[at]
        if at in part.unread:
            document.unread.add(path)
        if isinstance(value, dict):
            document.keys.update({(*path, key): part.keys[(*at, key)] for key in value})
            return {key: self._copied(inner, (*path, key), part, (*at, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._copied(inner, (*path, index), part, (*at, index)) for index, inner in enumerate(value)]
        return value


def _items(value: Any) -> list[tuple[str | int, Any]]:
    return list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
