"""Reports and comparisons as files: the suffix of a file chooses the renderer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from robharness.errors import UserError, exists, for_shell, link_to_nothing, nearest_word
from robharness.plugins.registry import Registry
from robharness.reading import kind_of_file
from robharness.report.renderers import Registered, renderers
from robharness.store.files import FileSystem

T = TypeVar("T")
Typed = Callable[[Path], str]
"""A function that returns the words that a user types to write a report into a file, for messages."""


def as_option(path: Path) -> str:
    """Return the option of a verb that writes its result into a file."""
    return f"-o {for_shell(path)}"


def as_call(path: Path) -> str:
    """Return the call of Python that writes the report into a file."""
    return f"results.save({str(path)!r})"


def find_renderer(path: Path, registry: Registry, typed: Typed = as_option) -> Registered:
    """Return the renderer for the suffix of a file.

    Raises UserError if no renderer has this suffix, or if several plugins have one.
    """
    found = by_suffix(path, renderers(registry), typed)
    if len(found) > 1:
        origins = [each.origin for each in found if each.origin]
        raise UserError(
            f"{typed(path)}: several plugins render '{path.suffix}' files: {', '.join(map(str, origins))}. "
            f"Try: {origins[0].blocking_option}"
        )
    return found[0]


def by_suffix(path: Path, available: Mapping[str, T], typed: Typed = as_option) -> T:
    """Return what is available for the suffix of a file. Raises UserError if there is nothing."""
    if path.suffix not in available:
        suffix = nearest_word(path.suffix, available) or ".json"
        proposed = path.with_suffix(suffix) if path.name else Path("report.json")
        raise UserError(
            f"{typed(path)}: no renderer has the suffix '{path.suffix}'; there are {', '.join(available)}. "
            f"Try: {typed(proposed)}"
        )
    return available[path.suffix]


def check_place(path: Path, start: Path, typed: Typed = as_option) -> None:
    """Raise a UserError if no file can be written at a path, before the work for it.

    start: the folder that a relative path is relative to.
    """
    place = start / path
    try:
        if place.exists() and not place.is_file():  # which the file would replace
            raise OSError(0, f"it is {kind_of_file(place.stat().st_mode)}, not a file")
        if not place.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(place.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, start, typed, error) from None


def write(path: Path, content: bytes, start: Path, typed: Typed = as_option) -> None:
    """Write a file whole: an error leaves an earlier file of this name unchanged.

    start: as for `check_place`.
    Raises UserError if it cannot be written.
    """
    check_place(path, start, typed)
    try:
        FileSystem().write(start / path, content)
    except OSError as error:
        raise _unwritable(path, start, typed, error) from None


def _unwritable(path: Path, start: Path, typed: Typed, error: OSError) -> UserError:
    place, folder = start / path, for_shell(path.parent)
    is_absent = not exists(place.parent) and not link_to_nothing(place.parent)
    command = f"mkdir -p {folder}" if is_absent else f"ls -ld {folder}"
    return UserError(f"{typed(path)}: cannot be written: {error.strerror}. Try: {command}")
