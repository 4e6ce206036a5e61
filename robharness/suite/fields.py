"""Reading of single records of a suite; every error is collected with its place in the file."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robharness.errors import (
    ERROR_LENGTH,
    PluginNotFound,
    UserError,
    describe,
    did_you_mean,
    glob_matches,
    nearest_word,
)
from robharness.plugins import Entry, Registry
from robharness.plugins.calls import plugin_code
from robharness.suite import yaml
from robharness.suite.records import LARGEST_INTEGER
from robharness.suite.resolved import with_absolute_paths
from robharness.text import printable, quoted_commands


class TooManyErrors(Exception):
    """A suite has more errors than are collected."""


class FieldReader:
    """Reads records from a parsed YAML document and collects errors instead of raising the first.

    document: the parsed text with the place of every value.
    registry: entries of the installed plugins, which names in the suite refer to.
    errors: (line, column, path, sentence) each.
    settled: places that get no further errors, as those of an item whose pattern was wrong for an earlier entry.
    """

    def __init__(self, document: yaml.Document, registry: Registry) -> None:
        self.document, self.registry = document, registry
        self.errors = list(document.errors)
        self.absent_plugins: set[str] = set()
        self.settled: set[yaml.Path] = set()
        self._not_read = {where for *_, where, _ in document.errors}
        self._holds_unread = {where[:n] for where in (*self._not_read, *document.unread) for n in range(len(where) + 1)}

    def error(self, path: yaml.Path, sentence: str, *, at_key: bool = False, once: bool = False) -> None:
        """Add an error at a value, or at its key; a path that the file lacks gets the place of its nearest parent.

        A value that could not be read has its error already.
        once: whether any error at the same path makes this one needless, as where many models meet one mistake.
        Raises TooManyErrors instead of adding one more than `yaml.MOST_ERRORS`.
        """
        if any(path[:length] in self.document.unread for length in range(len(path) + 1)):
            return
        if path in self.settled or (path and path in self._not_read) or (once and self.has_error(path)):
            return
        places = self.document.keys if at_key else self.document.values
        at = path
        while at not in places and at:
            at, places = at[:-1], self.document.values
        error = (*places.get(at, (1, 1)), path, sentence)
        if error in self.errors:
            return
        if len(self.errors) >= yaml.MOST_ERRORS:
            raise TooManyErrors
        self.errors.append(error)

    def has_error(self, path: yaml.Path) -> bool:
        """Return whether there is an error at exactly this path."""
        return any(where == path for *_, where, _ in self.errors)

    def is_unread(self, path: yaml.Path) -> bool:
        """Return whether a value, or a key, a value or a `<<` inside of it, could not be read."""
        return path in self._holds_unread

    def is_lost(self, key: str) -> bool:
        """Return whether the whole value of a key of the suite could not be read."""
        return (key,) in self.document.unread

    def lose(self, path: yaml.Path) -> None:
        """Treat a value as one that could not be read, and that has its error."""
        self.document.unread.add(path)
        self._holds_unread |= {path[:n] for n in range(len(path) + 1)}

    def line(self, path: yaml.Path, beside: yaml.Path) -> str:
        """Return the place of a value in a sentence: "line 3", or with its file if that is not the one of `beside`."""
        place, source = self.document.values[path], self.document.source_of(path)
        is_here = source.is_file and source is self.document.source_of(beside)
        return f"line {place[0] % yaml.LINES}" if is_here else self.document.shown(place)

    def is_changed(self, path: yaml.Path) -> bool:
        """Return whether models or perturbations may be others than those of the file that a value is written in."""
        source = self.document.source_of(path)
        return source.is_file and (source is not self.document.sources[0] or self.document.is_set)

    def folder(self, path: yaml.Path) -> Path:
        """Return the folder that a relative path in the suite is relative to: that of the file it is written in."""
        return self.document.source_of(path).folder

    def record(self, cls: type, raw: dict[str, Any], path: yaml.Path, entry: Entry | None = None) -> Any:
        """Return an instance of the dataclass, or None after adding its errors.

        entry: the plugin's entry that the dataclass is of; None for a record of the core.
        Unknown keys of `raw` itself are left to the caller; those of nested records are errors.
        """
        try:
            with plugin_code():
                raw = self.nested(cls, raw, path)
                return _adapter(cls).validate_json(json.dumps(raw), strict=True)  # `true` is not 1, "5" is not 5
        except ValidationError as error:
            self.invalid(error.errors(), path)
        except Exception as error:  # a plugin's record may raise anything
            owner = "" if entry is None else f"{entry.name} ({entry.origin}): "
            self.error(path, f"{owner}the options {cls.__name__} cannot be read: {describe(error)}")
        return None

    def params(self, entry: Entry, options: dict[str, Any], path: yaml.Path) -> Any:
        """Return the options of an entry with the paths that the suite gives relative to the folders of its files.

        The returned object is a copy, which no code of the plugin has. Returns None after adding an error, and for an
        entry without options.
        """
        before = len(self.errors)
        for key, value in options.items():
            self.integers(value, (*path, key))
        if entry.spec.params is None or len(self.errors) > before:
            return None
        params = self.record(entry.spec.params, options, path, entry)
        if params is None:
            return None
        try:
            with plugin_code():
                changes = {key: with_absolute_paths(getattr(params, key), self.folder, (*path, key)) for key in options}
                changes = {key: value for key, value in changes.items() if value != getattr(params, key)}
                params = copy.deepcopy(dataclasses.replace(params, **changes) if changes else params)
            return self.with_references(entry, params, path)
        except Exception as error:  # there is no home folder, or the plugin's record raises
            sentence = str(error) if isinstance(error, UserError) else describe(error)
            self.error(path, f"{entry.name} ({entry.origin}): {sentence}")
            return None

    def with_references(self, entry: Entry, params: Any, path: yaml.Path) -> Any:
        """Return options whose references to models and components are resolved, or None after adding errors."""
        return params

    def integers(self, value: Any, path: yaml.Path) -> None:
        """Add an error for each integer of an option that 64 bits cannot hold, as NumPy and torch need."""
        if isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            limit = f"at most {LARGEST_INTEGER}" if value > 0 else f"at least {-LARGEST_INTEGER}"
            self.error(path, f"an integer of an option is {limit}; got {printable(value)}")
        for key, item in (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        ):
            self.integers(item, (*path, key))

    def invalid(self, items: Sequence[Any], path: yaml.Path) -> None:
        """Add the validation errors of pydantic, one for each place.

        If a value fits none of several alternatives, pydantic has an error for each. The errors of the alternative that
        comes closest are added, or one error that names all of them.
        """
        alternatives: dict[yaml.Path, dict[str | int, list[Any]]] = {}
        for item in items:
            loc = item["loc"]
            depth = next((at for at in range(len(loc)) if self._is_alternative(item, at, path)), None)
            if depth is None:
                self._add_invalid(item, path)
            else:
                inner = {**item, "loc": (*loc[:depth], *loc[depth + 1 :])}
                alternatives.setdefault(loc[:depth], {}).setdefault(loc[depth], []).append(inner)
        for loc, several in alternatives.items():
            self.invalid(_closest(loc, list(several.values())), path)

    def _is_alternative(self, item: Any, depth: int, path: yaml.Path) -> bool:
        """Return whether a part of an error's location is the name of an alternative instead of a key in the suite."""
        loc = item["loc"]
        is_missing_key = item["type"] == "missing" and depth == len(loc) - 1
        return not is_missing_key and (*path, *loc[: depth + 1]) not in self.document.values

    def missing(self, path: yaml.Path, key: str, known: str = "") -> None:
        """Add the error of a missing key, unless a key or a `<<` that was not read may have been it.

        known: further words on what the key may be.
        """
        unread = (*path, key) in self.document.unread
        if not unread and not any(error[2] in (path, (*path, "<<")) for error in self.document.errors):
            self.error(path, f"missing key '{key}'{known and '; '}{known}")

    def _add_invalid(self, item: Any, path: yaml.Path) -> None:
        """Add a validation error of pydantic as a sentence that quotes the value."""
        where = (*path, *item["loc"])
        value, context = item.get("input"), item.get("ctx", {})
        sentence = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            self.missing(where[:-1], str(where[-1]))
        elif item["type"] == "literal_error":
            allowed = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            self.error(
                where, f"{printable(repr(value))} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}"
            )
        elif isinstance(value, dict | list):
            self.error(where, sentence)
        else:
            is_quoted = sentence.startswith(repr(value)[:40])  # longer ones have an ellipsis there
            self.error(where, sentence if is_quoted else f"{sentence}; got {printable(repr(value))}")

    def unknown(self, path: yaml.Path, key: str, known: Sequence[str]) -> None:
        """Add the error of a key that does not exist, with the nearest key or all keys that do."""
        hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
        self.error(path, f"unknown key '{printable(key)}'{hint}", at_key=True)

    def known(
        self, raw: dict[str, Any], path: yaml.Path, known: Sequence[str], *, others: bool = False
    ) -> dict[str, Any]:
        """Return the known keys of a mapping, after adding the errors of the others.

        The key that a misspelt one comes nearest to counts as there, with a value that could not be read.
        others: whether there may be further keys, which are no errors.
        """
        for key in raw:
            if key in known:
                continue
            if not others:
                self.unknown((*path, key), key, known)
            meant = nearest_word(key, known)
            if meant is not None and meant not in raw:
                self.lose((*path, meant))
        return {key: raw[key] for key in raw if key in known}

    def nested(self, cls: Any, raw: dict[str, Any], path: yaml.Path) -> dict[str, Any]:
        """Return the values of a record, after adding unknown keys of records inside of it, which pydantic ignores."""
        values = dict(raw)
        for name, kind in _type_hints(cls).items():
            inner = next((each for each in _parts(kind) if _is_plain_record(each)), None)
            if inner is not None and name in raw:
                values[name] = self._nested(inner, raw[name], (*path, name))
        return values

    def _nested(self, record: Any, value: Any, path: yaml.Path) -> Any:
        """Return a value of one record, or of a list of them, as `nested` does."""
        if isinstance(value, list):
            return [self._nested(record, each, (*path, at)) for at, each in enumerate(value)]
        if not isinstance(value, dict):
            return value
        return self.nested(record, self.known(value, path, field_names(record)), path)

    def items(self, raw: dict[str, Any], key: str) -> Iterator[tuple[yaml.Path, dict[str, Any]]]:
        """Yield the well-formed mappings of the list `models`, `attacks` or `corruptions`, with their paths."""
        noun, listed = key.removesuffix("s"), raw.get(key, [])
        if not isinstance(listed, list):
            self.error((key,), f"'{key}' is a list of mappings")
            return
        for index, entry in enumerate(listed):
            if not isinstance(entry, dict):
                self.error(
                    (key, index), f"one of '{key}' is a mapping such as {{{noun}: NAME}}; got {printable(repr(entry))}"
                )
            elif noun not in entry:
                self.missing((key, index), noun)
            elif not isinstance(entry[noun], str):
                self.error((key, index, noun), f"the name of one {noun} goes here; got {printable(repr(entry[noun]))}")
            else:
                yield (key, index), entry

    def entry(self, kind: str, name: Any, path: yaml.Path) -> Entry | None:
        """Return the plugins' entry of that name, or None; a name that is not a string is another check's error."""
        try:
            return self.registry.find(kind, name) if isinstance(name, str) else None
        except PluginNotFound as error:
            if error.plugin not in self.absent_plugins:  # one plugin that is not there is one mistake
                self.error(path, str(error))
            self.absent_plugins |= {error.plugin} if error.plugin else set()
            return None

    def entries(self, kind: str, ref: type, raw: dict[str, Any], path: yaml.Path) -> Iterator[tuple[Entry, Any, Any]]:
        """Yield each plugin entry that an item of a list names, with the item's record and the plugin's params.

        A pattern such as mine/* means all that match. A place that is wrong for one of them gets no error for those
        that follow. An item that could not be read in full yields none.
        """
        noun = kind.removesuffix("s")
        every: dict[str, Entry] = getattr(self.registry, kind)
        own, before = field_names(ref), len(self.errors)
        matched = meant(every, raw[noun])
        if not matched:
            self.entry(kind, raw[noun], (*path, noun))
        self.options(raw, path, own, matched)
        reference = self.record(ref, {key: raw[key] for key in raw if key in own}, path)
        for entry in matched:
            start = len(self.errors)
            params = self.params(entry, plugin_options(raw, entry), path)
            is_read = reference is not None and not self.is_unread(path)
            if is_read and len(self.errors) == start and (params is not None or entry.spec.params is None):
                yield entry, reference, params
            self.settled = {where for *_, where, _ in self.errors[before:]}
        self.settled = set()

    def options(self, raw: dict[str, Any], path: yaml.Path, own: Sequence[str], matched: Sequence[Entry]) -> None:
        """Add the errors of an item's keys that are neither its own nor options of every entry that it means."""
        options = {entry.name: field_names(entry.spec.params) if entry.spec.params else [] for entry in matched}
        others = [key for key in dict.fromkeys(key for names in options.values() for key in names) if key not in own]
        shared = [key for key in others if all(key in names for names in options.values())]
        for key in {*raw} & {*others} - {*shared}:
            name = next(name for name, names in options.items() if key not in names)
            self.error((*path, key), f"the pattern means {name}, too, which has no option '{key}'", at_key=True)
        keys = {key: raw[key] for key in raw if key in shared or key not in others}
        self.known(keys, path, [*own, *shared], others=not matched)


def meant(entries: dict[str, Entry], pattern: str) -> list[Entry]:
    """Return the entries that a name or a pattern means. As in a shell, the stars of a pattern do not match a slash."""
    if pattern in entries:
        return [entries[pattern]]
    depth = pattern.count("/")
    return [entry for name, entry in entries.items() if name.count("/") == depth and glob_matches(name, pattern)]


def _closest(loc: Sequence[str | int], alternatives: Sequence[list[Any]]) -> list[Any]:
    """Return the errors of the alternative that a value comes closest to, or one error that names all alternatives.

    loc: of the value.
    alternatives: errors of pydantic for each alternative.
    """
    items = [item for each in alternatives for item in each]
    if len(items) == 1:
        return items
    near = [each for each in alternatives if not any(_is_another_kind(item, loc) for item in each)]
    if near:
        return min(near, key=len)
    words = [item for item in items if item["type"] == "literal_error" and isinstance(item["input"], str)]
    if words:
        return words[:1]
    kinds = dict.fromkeys(item["msg"].removeprefix("Input should be ") for item in items if item["loc"] == loc)
    return [{**items[0], "loc": loc, "type": "union", "msg": f"Input should be {' or '.join(kinds)}"}]


def _is_another_kind(item: Any, loc: Sequence[str | int]) -> bool:
    """Return whether an error of pydantic says that the value at this location is of another type than expected."""
    kind = str(item["type"])
    return bool(item["loc"] == loc) and (kind == "literal_error" or kind.endswith("_type"))


def _parts(kind: Any) -> Iterator[Any]:
    """Yield a type, those of its alternatives, and those of the items of a sequence."""
    yield kind
    if get_origin(kind) in (Union, types.UnionType, tuple, list):
        for each in get_args(kind):
            yield from _parts(each)


def _is_plain_record(kind: Any) -> bool:
    """Return whether a type is a dataclass whose keys are its fields; references read theirs themselves."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "__get_pydantic_core_schema__")


@cache
def _adapter(record: type) -> TypeAdapter[Any]:
    return TypeAdapter(record)


@cache
def _type_hints(record: type) -> dict[str, Any]:
    return get_type_hints(record) if dataclasses.is_dataclass(record) else {}


def sentence_of(error: Exception) -> str:
    """Return the error as a part of a sentence, with its type unless the message is one of our records or checks."""
    return (
        quoted_commands(printable(error, ERROR_LENGTH))
        if isinstance(error, ValueError | TypeError)
        else describe(error)
    )


def field_names(record: Any) -> list[str]:
    """Return the field names of a dataclass, in order."""
    return [item.name for item in dataclasses.fields(record)]


def plugin_options(raw: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """Return those keys that are options of the plugin."""
    known = field_names(entry.spec.params) if entry.spec.params else []
    return {key: raw[key] for key in raw if key in known}
