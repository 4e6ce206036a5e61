"""Find plugins, take each by itself, and keep what they declare: one broken plugin never breaks the tool."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from robharness import hookspecs
from robharness.errors import PluginLoadError, PluginNotFound, did_you_mean
from robharness.specs import AttackSpec, CorruptionSpec, DatasetSpec, MetricSpec, ModelSpec, Spec

GROUP = "robharness"
KINDS: dict[str, type] = {
    "models": ModelSpec,
    "attacks": AttackSpec,
    "corruptions": CorruptionSpec,
    "datasets": DatasetSpec,
    "metrics": MetricSpec,
}
_HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("robharness_"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a plugin came from. digest: sha256 of a loose file, or of a live network's state."""

    namespace: str
    distribution: str
    version: str = ""
    origin: str = ""
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A plugin, or a part of one, that could not be used. stage: version, import, registration or collection."""

    source: Source
    stage: str
    error: str
    details: str = ""

    def __str__(self) -> str:
        return f"plugin '{self.source.namespace}' of {self.source} was left out at {self.stage}: {self.error}"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A spec under its full name, e.g. "mine/resnet50"."""

    name: str
    spec: Any
    source: Source


@dataclass(frozen=True, kw_only=True)
class Registry:
    """What the plugins declare, by kind and full name, and what could not be used. options: of `discover`.

    observers, painters: who looks at results, and who draws them.
    """

    models: dict[str, Entry] = field(default_factory=dict)
    attacks: dict[str, Entry] = field(default_factory=dict)
    corruptions: dict[str, Entry] = field(default_factory=dict)
    datasets: dict[str, Entry] = field(default_factory=dict)
    metrics: dict[str, Entry] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    observers: list[tuple[Source, Any]] = field(default_factory=list)
    painters: list[tuple[Source, Any]] = field(default_factory=list)
    options: tuple[str, ...] = ()

    def find(self, kind: str, name: str) -> Entry:
        """The entry of that kind and full name. Raises PluginNotFound with what to do about it."""
        entries: dict[str, Entry] = getattr(self, kind)
        if name in entries:
            return entries[name]
        raise PluginNotFound(self._not_found(kind, name, entries))

    def _not_found(self, kind: str, name: str, entries: dict[str, Entry]) -> str:
        noun = "data set" if kind == "datasets" else kind.removesuffix("s")
        namespace = name.split("/")[0]
        broken = [problem for problem in self.problems if problem.source.namespace == namespace]
        if broken:
            return f"no {noun} '{name}': {broken[0]}. See: robharness list plugins"
        near = did_you_mean(name, list(entries))
        if "/" not in name:
            near = next((f"; did you mean '{full}'?" for full in entries if full.endswith(f"/{name}")), near)
        known = [source.namespace for source in self.sources]
        if "/" in name and namespace not in known and not (near and did_you_mean(namespace, known)):
            return f"'{name}' needs a plugin '{namespace}', which is not there. Try: pip install robharness-{namespace}"
        return f"no {noun} '{name}'{near or '.'} See: robharness list {kind}"

    def add(self, kind: str, spec: Spec, source: Source) -> Entry:
        """Register a spec under its namespace. Raises ValueError if the name is taken."""
        entries: dict[str, Entry] = getattr(self, kind)
        name = f"{source.namespace}/{spec.name}"
        if name in entries:
            raise ValueError(f"the name '{name}' is declared twice")
        entries[name] = Entry(name=name, spec=spec, source=source)
        return entries[name]


def discover(options: Sequence[str] = ()) -> Registry:
    """Load every installed plugin, and what `-p` asks for.

    options: values of `-p`: "./file.py" loads a loose file under its stem, "no:NAME" leaves a namespace out.
    Raises PluginLoadError for a loose file that is not there or cannot be used; what is wrong with an
    installed plugin becomes a `Problem` of the registry.
    """
    registry = Registry(options=tuple(options))
    blocked = {option.removeprefix("no:") for option in options if option.startswith("no:")}
    loose = [Path(option) for option in dict.fromkeys(options) if not option.startswith("no:")]
    claims: dict[str, list[tuple[Source, Any]]] = defaultdict(list)
    installed = list(installed_plugins())
    for source, load in [*installed, *map(loose_plugin, loose)]:
        if source.namespace not in blocked:
            claims[source.namespace].append((source, load))
    names = {source.namespace for source, _ in installed}
    for unknown in sorted(blocked - names):
        near = did_you_mean(unknown, sorted(names)) or "."
        raise PluginLoadError(f"-p no:{unknown}: no such plugin is installed{near} See: robharness list plugins")
    for namespace, claimants in sorted(claims.items()):
        if len(claimants) > 1:
            both = " and ".join(str(source) for source, _ in claimants)
            for source, _ in claimants:
                error = f"both {both} claim the name '{namespace}'; uninstall one, or block both with -p no:{namespace}"
                registry.problems.append(Problem(source=source, stage="registration", error=error))
            continue
        source, load = claimants[0]
        take_plugin(registry, source, load)
    for path in loose:
        for problem in registry.problems:
            if problem.source.namespace == path.stem and problem.source.origin == str(path):
                raise PluginLoadError(f"-p {path}: {problem.error}\n{problem.details}".rstrip())
    return registry


def stands_on(source: Source) -> list[str]:
    """What a plugin's distribution requires, as installed, e.g. "numpy 2.4.6"; extras and robharness left out."""
    try:
        lines = importlib.metadata.requires(source.distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    found = []
    for requirement in _requirements(lines):
        if canonicalize_name(requirement.name) == "robharness":
            continue
        try:
            found.append(f"{requirement.name} {importlib.metadata.version(requirement.name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{requirement.name} (not installed)")
    return found


def source_digest(source: Source) -> str | None:
    """The first 12 digits of a SHA-256 of the plugin's Python files, or None where there are none to be found.

    An editable plugin changes without a new version; this tells.
    """
    if source.digest is not None:
        return source.digest[:12]
    parts = source.origin.split(".")
    try:  # the outermost package that is not a mere namespace of several distributions
        specs = (importlib.util.find_spec(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
        found = next((spec for spec in specs if spec is not None and spec.origin is not None), None)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = [(str(path.relative_to(folder)), path) for folder in folders for path in folder.rglob("*.py")]
    digest = hashlib.sha256()
    for name, path in sorted(files) or [(Path(found.origin).name, Path(found.origin))]:
        with suppress(OSError):  # a file that goes away meanwhile is as good as gone
            digest.update(f"{name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """Those that hold here: no extras, no other platform; what cannot be read is left out."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def installed_plugins() -> Iterator[tuple[Source, Any]]:
    """Where each is, and a function that imports it; each entry point once, although a path may list it twice."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            entry_points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception:  # anybody's half-deleted package, with a file that cannot be read
            continue
        for entry_point in entry_points:
            try:
                name, version = distribution.metadata["Name"] or "a nameless package", distribution.version or ""
                requires = distribution.requires or []
            except Exception:
                name, version, requires = "a nameless package", "", []
            mark = (canonicalize_name(name), entry_point.name)
            if mark in seen:
                continue
            seen.add(mark)
            source = Source(
                namespace=entry_point.name,
                distribution=name,
                version=version,
                origin=entry_point.value.partition(":")[0],
            )

            def load(entry_point: Any = entry_point, requires: list[str] = requires) -> ModuleType:
                _check_version(requires)
                module: ModuleType = entry_point.load()
                return module

            yield source, load


def loose_plugin(path: Path) -> tuple[Source, Any]:
    """The same of a Python file. Raises PluginLoadError where there is none."""
    if path.suffix != ".py" or not path.is_file():
        raise PluginLoadError(f"-p {path}: no such Python file. Give the path of one, or no:NAME to leave a plugin out")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = Source(namespace=path.stem, distribution=str(path), origin=str(path), digest=digest)

    def load() -> ModuleType:
        name = f"robharness_loose_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickles look their module up
        spec.loader.exec_module(module)
        return module

    return source, load


class _Incompatible(Exception):
    pass


def _check_version(requires: list[str]) -> None:
    own = Version(importlib.metadata.version("robharness"))
    for requirement in _requirements(requires):
        fits = requirement.specifier.contains(own, prereleases=True)
        if canonicalize_name(requirement.name) == "robharness" and not fits:
            raise _Incompatible(f"it needs robharness{requirement.specifier}, this is {own}; pip install -U robharness")


def take_plugin(registry: Registry, source: Source, load: Any) -> None:
    """One plugin through its stages; what fails becomes a problem, and nothing of a failed stage stays."""
    stage = "import"
    try:
        plugin = load()
        stage = "registration"
        manager = _manager(plugin)
        stage = "collection"
        found = {kind: _collect(manager, kind, record) for kind, record in KINDS.items()}
        staged = Registry()
        for kind, specs in found.items():
            for spec in specs:
                staged.add(kind, spec, source)
    except (Exception, SystemExit) as error:  # a plugin may raise anything at all, sys.exit included
        if isinstance(error, _Incompatible):
            stage = "version"
        details = "" if isinstance(error, _Incompatible | _Misspelt) else traceback.format_exc()
        text = f"{error}" if isinstance(error, _Incompatible | _Misspelt) else f"{type(error).__name__}: {error}"
        registry.problems.append(Problem(source=source, stage=stage, error=text, details=details))
        return
    registry.sources.append(source)
    for kind in KINDS:
        getattr(registry, kind).update(getattr(staged, kind))
    for hook, takers in (
        (manager.hook.robharness_run_finished, registry.observers),
        (manager.hook.robharness_pictures, registry.painters),
    ):
        if hook.get_hookimpls():
            takers.append((source, hook))


class _Misspelt(Exception):
    pass


def _manager(plugin: object) -> pluggy.PluginManager:
    """A manager of this plugin alone. Raises _Misspelt for a hook that does not exist or lacks its marker."""
    manager = pluggy.PluginManager("robharness")
    manager.add_hookspecs(hookspecs)
    for name in dir(plugin):
        value = getattr(plugin, name, None)
        if not inspect.isroutine(value):
            continue
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if marked and name not in _HOOKS:
            raise _Misspelt(f"there is no hook '{name}'{did_you_mean(name, _HOOKS)}")
        if not marked and name in _HOOKS:
            raise _Misspelt(f"the function '{name}' lacks @robharness.hookimpl")
    manager.register(plugin)
    return manager


def _collect(manager: pluggy.PluginManager, kind: str, record: type) -> list[Any]:
    specs = []
    results: list[Iterable[Any]] = getattr(manager.hook, f"robharness_{kind}")()
    for result in results:
        for spec in result:
            if not isinstance(spec, record):
                raise TypeError(f"robharness_{kind} yielded {type(spec).__name__}, not {record.__name__}")
            specs.append(spec)
    return specs
