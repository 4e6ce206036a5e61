"""Reading of single records of a suite; every error is collected with its place in the file."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from robharness.errors import PluginNotFound, UserError, describe, did_you_mean
from robharness.plugins import Entry, Registry
from robharness.plugins.folder import current_folder
from robharness.suite import yaml
from robharness.suite.resolved import with_absolute_paths


class FieldReader:
    """Reads records from a parsed YAML document and collects errors instead of raising the first.

    document: the parsed text with the place of every value.
    registry: entries of the installed plugins, which names in the suite refer to.
    errors: (line, column, path, sentence) each.
    folder: of the suite, to which the paths of options are relative.
    """

    def __init__(self, document: yaml.Document, registry: Registry) -> None:
        self.document, self.registry, self.folder = document, registry, current_folder()
        self.errors = list(document.errors)

    def error(self, path: yaml.Path, sentence: str, *, at_key: bool = False) -> None:
        """Add an error at a value, or at its key; a path that the file lacks gets the place of its nearest parent."""
        places = self.document.keys if at_key else self.document.values
        at = path
        while at not in places and at:
            at, places = at[:-1], self.document.values
        self.errors.append((*places.get(at, (1, 1)), path, sentence))

    def line(self, path: yaml.Path) -> int:
        """Return the line of a value, from 1."""
        return self.document.values[path][0]

    def record(self, cls: type, raw: dict[str, Any], path: yaml.Path) -> Any:
        """Return an instance of the dataclass, or None after adding its errors.

        Unknown keys of `raw` itself are left to the caller; those of nested records are errors.
        """
        try:
            self.nested(cls, raw, path)
            return _adapter(cls).validate_json(json.dumps(raw), strict=True)  # strict: `true` is not 1, "5" is not 5
        except ValidationError as error:
            for item in error.errors():
                self.invalid(item, path)
        except Exception as error:  # a plugin's record may raise anything
            self.error(path, f"the options {cls.__name__} cannot be read: {type(error).__name__}: {error}")
        return None

    def with_files(self, params: Any, options: dict[str, Any], path: yaml.Path) -> Any:
        """Return the options with the paths that the suite gives relative to its folder."""
        if params is None:
            return None
        try:
            changes = {key: with_absolute_paths(getattr(params, key), self.folder) for key in options}
            changes = {key: value for key, value in changes.items() if value != getattr(params, key)}
            return dataclasses.replace(params, **changes) if changes else params
        except Exception as error:  # there is no home folder, or the plugin's record raises
            self.error(path, str(error) if isinstance(error, UserError) else describe(error))
            return None

    def invalid(self, item: Any, path: yaml.Path) -> None:
        """Add a validation error of pydantic as a sentence that quotes the value."""
        where = path
        for part in item["loc"]:
            if (*where, part) in self.document.values:
                where = (*where, part)
        value, context = item.get("input"), item.get("ctx", {})
        sentence = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            self.error(where, f"missing key '{item['loc'][-1]}'")
        elif item["type"] == "literal_error":
            allowed = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            self.error(where, f"{value!r} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}")
        elif isinstance(value, dict | list):
            self.error(where, sentence)
        else:
            self.error(where, sentence if sentence.startswith(repr(value)) else f"{sentence}; got {value!r}")

    def unknown(self, path: yaml.Path, key: str, known: Sequence[str]) -> None:
        """Add the error of a key that does not exist, with the nearest key or all keys that do."""
        hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
        self.error(path, f"unknown key '{key}'{hint}", at_key=True)

    def nested(self, cls: Any, raw: dict[str, Any], path: yaml.Path) -> None:
        """Add unknown keys of records inside of a record, at any depth, which pydantic ignores."""
        for name, kind in get_type_hints(cls).items() if dataclasses.is_dataclass(cls) else ():
            inner = next((each for each in (kind, *get_args(kind)) if dataclasses.is_dataclass(each)), None)
            value = raw.get(name)
            if inner is None or not isinstance(value, dict):
                continue
            known = field_names(inner)
            for key in value:
                if key not in known:
                    self.unknown((*path, name, key), key, known)
            self.nested(inner, value, (*path, name))

    def items(self, raw: dict[str, Any], key: str) -> Iterator[tuple[yaml.Path, dict[str, Any]]]:
        """Yield the well-formed mappings of the list `models`, `attacks` or `corruptions`, with their paths."""
        noun, listed = key.removesuffix("s"), raw.get(key, [])
        if not isinstance(listed, list):
            self.error((key,), f"'{key}' is a list of mappings")
            return
        for index, entry in enumerate(listed):
            if not isinstance(entry, dict):
                self.error((key, index), f"one of '{key}' is a mapping such as {{{noun}: NAME}}; got {entry!r}")
            elif noun not in entry:
                self.error((key, index), f"missing key '{noun}'")
            elif not isinstance(entry[noun], str):
                self.error((key, index, noun), f"the name of one {noun} goes here; got {entry[noun]!r}")
            else:
                yield (key, index), entry

    def entry(self, kind: str, name: Any, path: yaml.Path) -> Entry | None:
        """Return the plugins' entry of that name, or None; a name that is not a string is another check's error."""
        try:
            return self.registry.find(kind, name) if isinstance(name, str) else None
        except PluginNotFound as error:
            self.error(path, str(error))
            return None

    def entries(self, kind: str, ref: type, raw: dict[str, Any], path: yaml.Path) -> Iterator[tuple[Entry, Any, Any]]:
        """Yield each plugin entry that an item of a list names, with the item's record and the plugin's params.

        A pattern such as mine/* means all that match; as in a shell, its stars do not match a slash.
        """
        noun = kind.removesuffix("s")
        every: dict[str, Entry] = getattr(self.registry, kind)
        own = field_names(ref)
        reference = self.record(ref, {key: raw[key] for key in raw if key in own}, path)
        depth, pattern = raw[noun].count("/"), raw[noun]
        alike = [name for name in every if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]
        matched = [every[name] for name in (alike if pattern not in every else [pattern])]
        if not matched:
            self.entry(kind, raw[noun], (*path, noun))
        for entry in matched:
            cls = entry.spec.params
            known = field_names(cls) if cls is not None else []
            for key in raw:
                if key not in own and key not in known:
                    self.unknown((*path, key), key, [*own, *known])
            before = len(self.errors)
            options = plugin_options(raw, entry)
            params = None if cls is None else self.with_files(self.record(cls, options, path), options, path)
            if reference is not None and len(self.errors) == before:
                yield entry, reference, params


@cache
def _adapter(record: type) -> TypeAdapter[Any]:
    return TypeAdapter(record)


def field_names(record: Any) -> list[str]:
    """Return the field names of a dataclass, in order."""
    return [item.name for item in dataclasses.fields(record)]


def plugin_options(raw: dict[str, Any], entry: Entry) -> dict[str, Any]:
    """Return those keys that are options of the plugin."""
    known = field_names(entry.spec.params) if entry.spec.params else []
    return {key: raw[key] for key in raw if key in known}
