"""Registry of the specs that plugins declare, and of the plugins that could not be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from robharness.errors import ERROR_LENGTH, PluginNotFound, did_you_mean, for_shell, glob_matches
from robharness.specs.audits import AuditSpec
from robharness.specs.records import AttackSpec, ComponentSpec, CorruptionSpec, DatasetSpec, MetricSpec, ModelSpec, Spec
from robharness.text import printable

KINDS: dict[str, type] = {
    "models": ModelSpec,
    "attacks": AttackSpec,
    "corruptions": CorruptionSpec,
    "datasets": DatasetSpec,
    "components": ComponentSpec,
    "metrics": MetricSpec,
}

BUILT_IN_SUFFIXES = (".html", ".json", ".csv", ".parquet", ".tex", ".md", ".txt")
"""Suffixes of the built-in renderers of reports, which no plugin may take."""


BUILT_IN_COMMANDS = frozenset(
    (
        "run",
        "train",
        "fetch",
        "plan",
        "submit",
        "status",
        "report",
        "compare",
        "check",
        "verify",
        "merge",
        "export-adversarial",
        "export-corruptions",
        "list",
        "show",
        "schema",
    )
)
"""Verbs of the command line, which no plugin may take."""


OBSERVERS = ("robharness_run_started", "robharness_cell_finished", "robharness_run_finished")
"""Hooks that are told of runs, and yield nothing."""


_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,60}[A-Za-z0-9])?")
"""A name that a package may have; another text is no part of a command that installs one."""


@dataclass(frozen=True, kw_only=True)
class PluginOrigin:
    """Origin of a plugin.

    namespace: first part of the names of its specs.
    distribution: name of the installed distribution, or path of a loose file.
    version: version of the distribution.
    location: module, or path of a loose file.
    digest: sha256 of a loose file, or of a live network's state.
    """

    namespace: str
    distribution: str
    version: str = ""
    location: str = ""
    digest: str | None = None

    def __str__(self) -> str:
        """Return the distribution and its version as visible characters."""
        return f"{printable(self.distribution)} {printable(self.version)}".strip()

    @property
    def blocking_option(self) -> str:
        """The option that leaves the plugin out, for a command line."""
        return f"-p {for_shell(f'no:{self.namespace}')}"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A plugin, or a part of one, that could not be used.

    origin: origin of the plugin.
    stage: version, import, registration or collection.
    error: the error in one sentence.
    details: its traceback, if it helps.
    part: full name of the attack that is left out alone; empty if the whole plugin is.
    """

    origin: PluginOrigin
    stage: str
    error: str
    details: str = ""
    part: str = ""

    def __str__(self) -> str:
        error = printable(self.error, ERROR_LENGTH)
        what = f"attack '{printable(self.part)}'" if self.part else f"plugin '{printable(self.origin.namespace)}'"
        return f"{what} of {self.origin} was left out at {self.stage}: {error}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A spec under its full name, e.g. "mine/resnet50"."""

    name: str
    spec: Any
    origin: PluginOrigin


@dataclass(frozen=True, kw_only=True)
class PluginRenderer:
    """A renderer of a plugin; see `robharness.report.renderers.base`."""

    name: str
    suffix: str
    render: Callable[[Any], str | bytes]


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The specs that plugins declare, by kind and full name, and the plugins that could not be used.

    observers: name of a hook that is told of runs -> the plugins that have it, and their hooks.
    figure_hooks: hooks that draw figures of results.
    audits: the attacks that plugins declare for audits.
    renderers: the renderers of reports that plugins add.
    executors: full name -> the plugin, and the function that makes the executor.
    commands: name -> the plugin, and its command.
    options: as `discover` takes them.
    """

    models: dict[str, Entry] = field(default_factory=dict)
    attacks: dict[str, Entry] = field(default_factory=dict)
    corruptions: dict[str, Entry] = field(default_factory=dict)
    datasets: dict[str, Entry] = field(default_factory=dict)
    components: dict[str, Entry] = field(default_factory=dict)
    metrics: dict[str, Entry] = field(default_factory=dict)
    origins: list[PluginOrigin] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    observers: dict[str, list[tuple[PluginOrigin, Any]]] = field(
        default_factory=lambda: {name: [] for name in OBSERVERS}
    )
    figure_hooks: list[tuple[PluginOrigin, Any]] = field(default_factory=list)
    audits: list[tuple[PluginOrigin, AuditSpec]] = field(default_factory=list)
    renderers: list[tuple[PluginOrigin, PluginRenderer]] = field(default_factory=list)
    executors: dict[str, tuple[PluginOrigin, Callable[[], Any]]] = field(default_factory=dict)
    commands: dict[str, tuple[PluginOrigin, Any]] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of that kind and full name. Raises PluginNotFound with a command that helps."""
        entries: dict[str, Entry] = getattr(self, kind)
        if name in entries:
            return entries[name]
        raise self._not_found(kind, name, entries)

    def find_all(self, name: str) -> list[tuple[str, Entry]]:
        """Return all entries of a name with their kinds: a full name, one without its plugin, or a pattern.

        Raises PluginNotFound, with a command that helps, if there are none.
        """
        every = [(kind, entry) for kind in KINDS for entry in getattr(self, kind).values()]
        for matches in (
            lambda other: other == name,
            lambda other: "/" not in name and other.endswith(f"/{name}"),
            lambda other: glob_matches(other, name),
        ):
            if found := [(kind, entry) for kind, entry in every if matches(entry.name)]:
                return found
        names = [entry.name if "/" in name else entry.name.rpartition("/")[2] for _, entry in every]
        raise self._not_found("plugins", name, {each: entry for each, (_, entry) in zip(names, every, strict=True)})

    def _not_found(self, kind: str, name: str, entries: dict[str, Entry]) -> PluginNotFound:
        noun = {"datasets": "data set", "plugins": "part of a plugin"}.get(kind, kind.removesuffix("s"))
        namespace, shown = name.split("/")[0], printable(name)
        broken = [
            problem for problem in self.problems if problem.origin.namespace == namespace and problem.part in ("", name)
        ]
        if broken:
            message = f"no {noun} '{shown}': {broken[0]}. Try: robharness list plugins"
            return PluginNotFound(message, plugin=namespace)
        near = did_you_mean(name, list(entries))
        if "/" not in name:
            near = next((f"; did you mean '{printable(full)}'?" for full in entries if full.endswith(f"/{name}")), near)
        known = [origin.namespace for origin in self.origins]
        if "/" in name and namespace not in known and not (near and did_you_mean(namespace, known)):
            install = (
                f"pip install robharness-{namespace}" if _PACKAGE.fullmatch(namespace) else "robharness list plugins"
            )
            message = f"'{shown}' needs a plugin '{printable(namespace)}', which is not there. Try: {install}"
            return PluginNotFound(message, plugin=namespace)
        return PluginNotFound(f"no {noun} '{shown}'{near or '.'} Try: robharness list {kind}")

    def add(self, kind: str, spec: Spec, origin: PluginOrigin) -> Entry:
        """Register a spec under its namespace. Raises ValueError if the name is taken."""
        entries: dict[str, Entry] = getattr(self, kind)
        name = f"{origin.namespace}/{spec.name}"
        if name in entries:
            raise ValueError(f"the name '{name}' is declared twice")
        entries[name] = Entry(name=name, spec=spec, origin=origin)
        return entries[name]
