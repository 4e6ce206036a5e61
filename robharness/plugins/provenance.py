"""Versions and digests of the code that a plugin runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robharness.plugins.calls import plugin_code
from robharness.plugins.registry import Entry, PluginOrigin
from robharness.specs.references import Component, references_in

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def canonical_name(name: str) -> str:
    """Return the form of a distribution's name by which two names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dependency_versions(origin: PluginOrigin) -> list[str]:
    """Return the installed requirements of a plugin, e.g. "numpy 2.4.6", without extras and robharness."""
    try:
        lines = importlib.metadata.requires(origin.distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    found = []
    for requirement in requirements_that_hold(lines):
        if canonical_name(requirement.name) == "robharness":
            continue
        try:
            found.append(f"{requirement.name} {importlib.metadata.version(requirement.name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{requirement.name} (not installed)")
    return found


def code_digest(origin: PluginOrigin) -> str | None:
    """Return the first 12 digits of a SHA-256 of the plugin's Python files, or None if there are none.

    The digest shows changes of an editable plugin, whose version stays.
    """
    if origin.digest is not None:
        return origin.digest[:12]
    parts = origin.location.split(".")
    try:  # the outermost package that is not a mere namespace of several distributions
        with plugin_code(importing=True):
            specs = (importlib.util.find_spec(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
            found = next((spec for spec in specs if spec is not None and spec.origin is not None), None)
    except Exception:  # a package may raise anything
        return None
    if found is None or found.origin is None:
        return None
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = [(str(path.relative_to(folder)), path) for folder in folders for path in folder.rglob("*.py")]
    digest = hashlib.sha256()
    for name, path in sorted(files) or [(Path(found.origin).name, Path(found.origin))]:
        with suppress(OSError):  # a file may be deleted meanwhile
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def requirements_that_hold(lines: Iterable[str]) -> Iterator[Requirement]:
    """Yield the requirements that apply here: no extras, no other platform, no line that cannot be parsed."""
    from packaging.requirements import InvalidRequirement, Requirement  # loading them takes as long as scanning plugins

    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def origins_of_options(entry: Entry, params: Any) -> dict[str, PluginOrigin]:
    """Return the other plugins whose components or encoders options name, by option: "network", "encoder_network"."""
    found = {}
    for name, reference in references_in(params):
        owner = (
            reference.origin if isinstance(reference, Component) else getattr(reference.model, "entry", entry).origin
        )
        if owner not in (None, entry.origin):
            found[name.replace(".", "_")] = owner
    return found


def foreign_components(entry: Entry, params: Any) -> str:
    """Return the components of other plugins that options name, each with its plugin, as text; empty if there are none.

    It belongs to messages on failures, since the code of a component may be at fault.
    """
    components = [each for _, each in references_in(params) if isinstance(each, Component) and each.origin]
    return ", ".join(f"{each.full_name} of {each.origin}" for each in components if each.origin != entry.origin)


def code_of_options(entry: Entry, params: Any) -> dict[str, dict[str, Any]]:
    """Return the code of the plugins in `origins_of_options`, for provenance."""
    return {name: dict(code_of(origin)) for name, origin in origins_of_options(entry, params).items()}


@cache
def code_of(origin: PluginOrigin) -> dict[str, Any]:
    """Return the version and the digest of a plugin's code, and the versions that it stands on."""
    return {"plugin": str(origin), "source": code_digest(origin), "stands_on": dependency_versions(origin)}
