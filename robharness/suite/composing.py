"""Suites that are made of several parts: files that they extend, defaults of items, and values that are set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robharness.errors import UserError, did_you_mean, expanded
from robharness.plugins import Registry
from robharness.plugins.process import current_folder
from robharness.suite import source, yaml
from robharness.suite.command_lines import relative
from robharness.suite.joining import Joined
from robharness.suite.settings import Setting, apply
from robharness.suite.taking import LISTS, every_key, takes
from robharness.text import printable

MOST_FILES = 10
"""Files of one suite: its own, the one that it extends, the one that this extends, and so on."""


class _Refused(Exception):
    """A suite whose parts cannot be joined; the errors of the documents say why."""


def compose(
    document: yaml.Document, path: Path, shown: str, settings: Iterable[Setting], registry: Registry
) -> tuple[yaml.Document, tuple[Path, ...]]:
    """Return a suite's document with what it extends, what is set and its defaults, and the files that it extends.

    document: of the suite's own file, or of a mapping.
    path: of the suite; the paths in a mapping are relative to its folder.
    shown: the suite as messages show it.
    settings: values that are set, the last one of a key last.
    registry: the plugins, whose options say which items take a default.
    Errors, also those of the files that are extended, are in the document's `errors`, and never raised.
    """
    files = [(document, path)]
    joined = Joined(document, current_folder())
    joined.add_source(yaml.Source(shown=shown, folder=path.parent))
    try:
        if isinstance(document.data, dict):
            joined = _with_extended(files, joined)
            ordered = sorted(settings, key=lambda setting: setting.steps[0] != "defaults")
            early = [setting for setting in ordered if setting.steps[0] == "defaults"]
            for setting in early:
                apply(setting, joined, registry)
            _apply_defaults(joined, registry)
            for setting in ordered[len(early) :]:
                apply(setting, joined, registry)
    except yaml.Endless as error:
        joined.document.errors.insert(0, (*error.place, (), error.sentence))
        return _unread(joined.document), ()
    except _Refused:
        return _unread(joined.document), ()
    return joined.document, tuple(each for _, each in files[1:])


def _unread(document: yaml.Document) -> yaml.Document:
    """Return a document without data, whose errors are those that were found so far."""
    return yaml.Document(data=None, errors=document.errors[: yaml.MOST_ERRORS], unread={()}, sources=document.sources)


# --- extends ----------------------------------------------------------------------------------------------------------


def _with_extended(files: list[tuple[yaml.Document, Path]], joined: Joined) -> Joined:
    """Return the suite joined with the files that it extends, the nearest of which are added to `files`.

    Raises _Refused, after adding the error to the suite's document, if one cannot be read.
    """
    errors, sources = joined.document.errors, joined.document.sources
    seen = [_real(files[0][1])]
    while "extends" in (last := files[-1][0]).data:
        place = last.values[("extends",)]
        if ("extends",) in last.unread:  # which has its error already
            raise _Refused
        base, reason = _base_of(last.data["extends"], sources[-1], seen)
        part = None
        if base is not None:
            try:
                part = source.from_file(base)
            except UserError as error:
                reason = str(error)
        if base is None or part is None:
            errors.append((*place, ("extends",), reason))
            raise _Refused
        part = joined.placed(part, joined.add_source(yaml.Source(shown=str(base), folder=base.absolute().parent)))
        joined.add_errors(part)
        if not isinstance(part.data, dict):
            if not part.errors:
                errors.append((*place, ("extends",), f"{printable(base)} is no suite, which is a mapping of keys"))
            raise _Refused
        files.append((part, base.absolute()))
        seen.append(_real(base))
    return _merged(joined, [part for part, _ in files])


def _merged(joined: Joined, parts: list[yaml.Document]) -> Joined:
    """Merge documents, the last of which is the one that all others change."""
    if len(parts) == 1:
        return joined
    base, own = parts[-1], joined.document
    whole = Joined(
        yaml.Document(data=base.data, values=base.values, keys=base.keys, errors=own.errors, unread=base.unread,
                      sources=own.sources), joined.start,
    )  # fmt: skip
    for part in reversed(parts[:-1]):
        whole.merge(part)
    whole.remove("extends")
    return whole


def _base_of(value: Any, written: yaml.Source, seen: list[str]) -> tuple[Path | None, str]:
    """Return the path of a file that is extended, or None and the reason why there is none.

    written: where the path is written.
    seen: the real paths of the files that were read.
    """
    if not isinstance(value, str) or not value.strip():
        return None, f"the path of one suite goes here; got {printable(repr(value))}"
    try:
        path = written.folder / expanded(value)
    except UserError as error:
        return None, str(error)
    real, normal = _real(path), Path(os.path.normpath(path.absolute()))
    base = relative(normal if _real(normal) == real else path, current_folder())
    if real in seen:
        circle = " -> ".join(printable(Path(each).name) for each in [*seen[seen.index(real) :], real])
        return None, f"files extend each other in a circle: {circle}; leave `extends` out of one of them"
    if len(seen) >= MOST_FILES:
        return None, f"more than {MOST_FILES} files extend each other; join some of them"
    return base, ""


def _real(path: Path) -> str:
    return os.path.realpath(path)


# --- defaults ---------------------------------------------------------------------------------------------------------


def _apply_defaults(joined: Joined, registry: Registry) -> None:
    """Give each item of `models`, `attacks` and `corruptions` the values of `defaults` that it takes and has not."""
    document = joined.document
    given = document.data.get("defaults")
    if isinstance(given, dict):
        for kind, values in given.items():
            place = ("defaults", kind)
            if kind not in LISTS:
                hint = did_you_mean(kind, LISTS) or f"; known: {', '.join(LISTS)}"
                _error(joined, place, f"unknown key '{printable(kind)}'{hint}", at_key=True)
            elif not isinstance(values, dict):
                _error(
                    joined, place, f"a mapping such as {{{_EXAMPLES[kind]}}} goes here; got {printable(repr(values))}"
                )
            else:
                _apply_to_items(joined, registry, kind, values)
    elif "defaults" in document.data:
        sentence = "'defaults' is a mapping of lists to mappings, such as {models: {epochs: 2}}"
        _error(joined, ("defaults",), sentence)
    joined.remove("defaults")


_EXAMPLES = {"models": "epochs: 2", "attacks": "nested: true", "corruptions": "severity: [1, 3, 5]"}


def _apply_to_items(joined: Joined, registry: Registry, kind: str, values: dict[str, Any]) -> None:
    """Give each item of a list the defaults that it takes; a default that none takes is an error."""
    listed, noun = joined.document.data.get(kind), kind.removesuffix("s")
    items = listed if isinstance(listed, list) else []
    part = yaml.Document(
        data={"defaults": {kind: values}}, values=joined.document.values.copy(), keys=joined.document.keys.copy(),
        unread=joined.document.unread.copy(),
    )  # fmt: skip
    for key in sorted(values, key=lambda key: key != noun):  # the name first, which says what the item takes
        able = [index for index, item in enumerate(items) if isinstance(item, dict)
                and (key == noun or takes(registry, kind, item, key))]  # fmt: skip
        if items and not able:
            known = every_key(registry, kind, items)
            sentence = f"no item of '{kind}' takes the key '{printable(key)}'"
            _error(joined, ("defaults", kind, key), f"{sentence}{did_you_mean(key, known)}", at_key=True)
        for index in able:
            if key not in items[index] and not _is_unread(joined.document, (kind, index, key)):
                joined.put((kind, index, key), part, ("defaults", kind, key))
                joined.document.defaults[kind, index, key] = ("defaults", kind, key)


def _is_unread(document: yaml.Document, path: yaml.Path) -> bool:
    return any(path[:length] in document.unread for length in range(len(path) + 1))


def _error(joined: Joined, path: yaml.Path, sentence: str, *, at_key: bool = False) -> None:
    """Add an error at a value, or at its key, unless the value could not be read and has its error."""
    document = joined.document
    if _is_unread(document, path) or len(document.errors) >= yaml.MOST_ERRORS:
        return
    document.errors.append((*(document.keys if at_key else document.values)[path], path, sentence))


# --- errors -----------------------------------------------------------------------------------------------------------


def error_lines(document: yaml.Document, errors: Iterable[tuple[int, int, yaml.Path, str]]) -> list[str]:
    """Return the errors of a suite as lines, by their places; one mistake in a shared value is one line."""
    lines: dict[tuple[str, str], str] = {}
    for line, column, where, sentence in sorted(errors, key=lambda error: (error[:2], error[3])):
        number, shown, shared = line // yaml.LINES, document.shown((line, column)), where
        default = document.defaults.get(where[:3])
        if default is not None and document.values[default][0] // yaml.LINES == number:
            shared = default + where[3:]
        path = f"{'.'.join(map(printable, shared))}: " if shared else ""
        is_shared = shared != where or not document.sources[number].is_file
        lines.setdefault((shown, sentence if is_shared else f"{path}{sentence}"), f"{shown}: {path}{sentence}")
    return list(lines.values())
