"""Resolution of weights: from declared Files and Downloads to paths and their sha256, before anything runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from robharness.errors import MissingResource, MissingResources, UserError, expanded, for_shell
from robharness.planning.files import digest_of
from robharness.plugins.calls import plugin_code
from robharness.plugins.registry import Entry
from robharness.reading import kind_of_file
from robharness.specs.published import Download
from robharness.specs.sources import File, Train

T = TypeVar("T")
TRUST = "--trust"
"""The option that allows a pickle, by its sha256, to run code; subprocesses get it as $ROBHARNESS_TRUST."""

LARGEST = 10**12
"""Bytes of the largest file of weights, on any machine."""

Declared = File | Download | Mapping[str, File | Download]
Override = Path | Mapping[str, Path]
"""The files of a suite that replace the declared ones: a path, or paths by name."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights on this machine.

    path: of the file, or of several files by name, as the model's `build` takes them.
    sha256: of the file's bytes, in hexadecimal, or of each file's by name.
    """

    path: Path | Mapping[str, Path]
    sha256: str | Mapping[str, str]


def resolve(entry: Entry, override: Override | None, data_root: Path) -> Weights | None:
    """Find the weights of a model: the suite's own files, or those that its spec declares.

    override: the suite's own files.
    Returns None if neither gives any.
    Raises MissingResource for a file that is missing, UserError for a file whose sha256 is not the declared one.
    """
    declared = entry.spec.weights
    if override is None and isinstance(declared, Train):
        raise UserError(
            f"{entry.name} has no weights before a suite trains it, and no file of weights is given. "
            f"Try: robharness train --help"
        )
    if override is not None:
        given = override if isinstance(override, Mapping) else {"": override}
        paths = _each(given, lambda name, path: _given(entry, name, path))
    elif declared is not None:
        parts = declared if isinstance(declared, Mapping) else {"": declared}
        paths = _each(parts, lambda name, part: _found(entry, name, part, data_root))
    else:
        return None
    digests = {name: known_digest(path) for name, path in paths.items()}
    if override is None and declared is not None:
        _check(entry, declared, paths, digests)
    return Weights(path=paths[""], sha256=digests[""]) if "" in paths else Weights(path=paths, sha256=digests)


def _each(parts: Mapping[str, T], find: Callable[[str, T], Path]) -> dict[str, Path]:
    """Return the path of each part. Raises MissingResource or MissingResources for files that are missing."""
    paths, missing = {}, []
    for name, part in parts.items():
        try:
            paths[name] = find(name, part)
        except MissingResource as error:
            missing.append(error)
    if len(missing) > 1:
        raise MissingResources(missing)
    if missing:
        raise missing[0]
    return paths


def _given(entry: Entry, name: str, path: Path) -> Path:
    _refuse_other_kinds(entry, name, path)
    if not path.is_file():
        raise MissingResource(_describe(entry, name), where=str(path), get="correct `weights:` in the suite")
    return path


def _found(entry: Entry, name: str, declared: File | Download, data_root: Path) -> Path:
    path = locate(declared, data_root)
    if path is not None:
        _refuse_other_kinds(entry, name, path)
    if path is None or not path.is_file():
        what, licence = _describe(entry, name), entry.spec.licence
        raise missing_file(declared, path, what, get=f"see {entry.origin}", licence=licence)
    return path


def missing_file(
    declared: File | Download, path: Path | None, what: str, *, get: str, licence: str = ""
) -> MissingResource:
    """Return the error of a declared file that is missing.

    path: its place; None if it belongs to a package that is not installed.
    what: the file in words.
    get: how to get it if the record does not say so.
    """
    if isinstance(declared, File) and declared.origin is None:
        get = declared.hint(path or Path(declared.path)).removeprefix("To get it: ") or get
        return MissingResource(what, where=where(declared, path), get=get, licence=licence)
    source = declared.origin if isinstance(declared, File) else declared
    return MissingResource(what, where=where(declared, path), source=source, place=path, licence=licence)


def _refuse_other_kinds(entry: Entry, name: str, path: Path) -> None:
    """Raise UserError if there is something at a path that is not a file, such as a folder."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return
        kind = f"a link to {path.readlink()}, which is not there"
    except OSError as error:
        kind = f"not accessible ({error.strerror})"
    else:
        if not (found := kind_of_file(mode)):
            if reason := too_large(path.stat().st_size):
                raise UserError(f"{_describe(entry, name)}: {path} {reason}. Try: ls -l {for_shell(path)}")
            return
        kind = f"{found}, not a file"
    raise UserError(f"{_describe(entry, name)}: {path} is {kind}. Try: ls -l {for_shell(path)}")


def too_large(size: int) -> str:
    """Return why a file of weights of that many bytes is not read, or an empty text.

    Such a file, often of holes alone, would be hashed for hours, and then fill the memory.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        memory = LARGEST
    if size <= min(memory, LARGEST):
        return ""
    return f"has {size / 1e9:,.0f} GB, more than the memory of this machine ({memory / 1e9:,.0f} GB)"


def _check(entry: Entry, declared: Declared, paths: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    """Compare each sha256 with the declared one, which may be a prefix, as publishers print. Raises UserError."""
    for name, part in (declared if isinstance(declared, Mapping) else {"": declared}).items():
        if part.sha256 is not None and not digests[name].startswith(part.sha256):
            hint = part.hint(paths[name]) or f"To get it: see {entry.origin}"
            raise UserError(
                f"{_describe(entry, name)} at {paths[name]} have sha256 {digests[name]}, {entry.origin} declares "
                f"{part.sha256}. {hint.replace('To get it:', 'To get the right file:')}"
            )


def _describe(entry: Entry, name: str) -> str:
    return f"the weights of {entry.name}" + (f" ('{name}')" if name else "")


def locate(declared: File | Download, data_root: Path) -> Path | None:
    """Return the path of a file; None if its package is not installed."""
    if isinstance(declared, Download):
        return data_root / "weights" / declared.file_name
    if declared.package is None:
        return data_root / expanded(declared.path)
    try:
        with plugin_code(importing=True):  # it imports the packages above
            found = importlib.util.find_spec(declared.package)
    except Exception:  # a package may raise anything
        found = None
    folders = list(found.submodule_search_locations or []) if found else []
    return Path(folders[0]) / declared.path if folders else None


def where(declared: File | Download | Path, path: Path | None) -> str:
    """Describe the place where a file is expected."""
    if path is None and isinstance(declared, File):
        return f"the Python package '{declared.package}', which is not installed"
    return str(path)


def file_digest(path: Path) -> str:
    """Read a file and return its sha256, in hexadecimal. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def known_digest(path: Path) -> str:
    """Return the sha256 of a file, which is read once per state; see `digest_of`. Raises UserError."""
    try:
        return digest_of(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"the weights {path} cannot be read: {error.strerror}. Try: ls -l {for_shell(path)}")
