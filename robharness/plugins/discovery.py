"""Discovery of plugins: each is loaded by itself, so that one broken plugin never breaks the tool."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from robharness.errors import PluginLoadError, UserError, describe, did_you_mean
from robharness.plugins import hookspecs
from robharness.plugins.calls import plugin_code, plugin_errors
from robharness.plugins.loose import check_neighbours, loose_plugin
from robharness.plugins.provenance import canonical_name, requirements_that_hold
from robharness.plugins.registry import (
    BUILT_IN_COMMANDS,
    BUILT_IN_SUFFIXES,
    KINDS,
    PluginOrigin,
    PluginRenderer,
    Problem,
    Registry,
)
from robharness.specs.audits import AuditSpec
from robharness.specs.lazy import LazyFunction
from robharness.specs.records import AttackSpec, ThreatModelError
from robharness.text import printable

GROUP = "robharness"
_OWN_REQUIREMENT = re.compile(r"\s*robharness\s*(?:\[[^]]*\]\s*)?[^\s\w.;-]", re.IGNORECASE)
"""A requirement on robharness that names versions or a place; others fit always."""
_HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("robharness_"))


def discover(options: Sequence[str] = ()) -> Registry:
    """Load all installed plugins and those of the option `-p`.

    options: values of `-p`: "./file.py" loads a loose file under its stem, "no:NAME" leaves a namespace out.
    Raises PluginLoadError for a loose file that does not exist or cannot be used, and UserError for other values. An
    error of an installed plugin becomes a `Problem` of the registry.
    """
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise UserError('`plugins` is a list of values of `-p`, which are texts. Try: plugins=["mine.py"]')
    registry = Registry(options=tuple(options))
    blocked = {option.removeprefix("no:") for option in options if option.startswith("no:")}
    loose = [Path(option) for option in dict.fromkeys(options) if not option.startswith("no:")]
    check_neighbours(loose)
    claims: dict[str, list[tuple[PluginOrigin, Any]]] = defaultdict(list)
    installed = list(installed_plugins())
    for source, load in [*installed, *map(loose_plugin, loose)]:
        if source.namespace not in blocked:
            claims[source.namespace].append((source, load))
    names = {source.namespace for source, _ in installed}
    for unknown in sorted(blocked - names):
        near = did_you_mean(unknown, sorted(names)) or "."
        raise PluginLoadError(f"-p no:{unknown}: no such plugin is installed{near} Try: robharness list plugins")
    for namespace, claimants in sorted(claims.items()):
        if len(claimants) > 1:
            both = " and ".join(str(source) for source, _ in claimants)
            for source, _ in claimants:
                name, option = printable(namespace), source.blocking_option
                error = f"both {both} claim the name '{name}'; uninstall one, or block both with {option}"
                registry.problems.append(Problem(origin=source, stage="registration", error=error))
            continue
        source, load = claimants[0]
        take_plugin(registry, source, load)
    for path in loose:
        for problem in registry.problems:
            is_of_file = problem.origin.namespace == path.stem and problem.origin.location == str(path)
            if is_of_file and not problem.part:
                raise PluginLoadError(f"-p {path}: {problem.error}", *problem.details.splitlines())
    return registry


def installed_plugins() -> Iterator[tuple[PluginOrigin, Any]]:
    """Yield the origin of each installed plugin and a function that imports it, once per entry point."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            entry_points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception:  # e.g. a half-deleted package, with a file that cannot be read
            continue
        for entry_point in entry_points:
            try:
                metadata: Any = distribution.metadata  # parsed anew at each access
                name, version = metadata["Name"] or "a nameless package", metadata["Version"] or ""
                requires = metadata.get_all("Requires-Dist") or distribution.requires or []
            except Exception:
                name, version, requires = "a nameless package", "", []
            mark = (canonical_name(name), entry_point.name)
            if mark in seen:
                continue
            seen.add(mark)
            source = PluginOrigin(
                namespace=entry_point.name,
                distribution=name,
                version=version,
                location=entry_point.value.partition(":")[0],
            )

            def load(entry_point: Any = entry_point, requires: list[str] = requires) -> ModuleType:
                _check_version(requires)
                module: ModuleType = entry_point.load()
                return module

            yield source, load


class _Incompatible(Exception):
    pass


@cache
def _own_version() -> str:
    return importlib.metadata.version("robharness")


def _check_version(requires: list[str]) -> None:
    """Raise _Incompatible if one of these requirements excludes this version of robharness."""
    ours = [line for line in requires if _OWN_REQUIREMENT.match(line)]
    for requirement in requirements_that_hold(ours) if ours else ():
        if not requirement.specifier.contains(_own_version(), prereleases=True):
            raise _Incompatible(
                f"it needs robharness{requirement.specifier}, this is {_own_version()}; pip install -U robharness"
            )


def take_plugin(registry: Registry, source: PluginOrigin, load: Any) -> None:
    """Load one plugin and add its specs to the registry. After an error, only a Problem is added.

    load: imports the plugin and returns it.
    """
    stage = "import"
    try:
        with plugin_code(importing=True):
            plugin = load()
            stage = "registration"
            manager = _manager(plugin)
            stage = "collection"
            found = {kind: _collect(manager, kind, record) for kind, record in KINDS.items()}
            renderers = _collect_renderers(manager)
            audits = _collect(manager, "audits", AuditSpec)
            staged = Registry()
            staged.commands.update(_commands(manager, source, registry))
            for kind, specs in found.items():
                for spec in specs:
                    staged.add(kind, spec, source)
            unknown = {name: why for name, entry in staged.attacks.items() if (why := _unknown_threat(entry.spec))}
            staged.executors.update(_executors(manager, source))
    except Exception as error:  # a plugin may raise anything at all
        if isinstance(error, _Incompatible):
            stage = "version"
        details = "" if isinstance(error, _Incompatible | _Misspelt) else traceback.format_exc()
        text = str(error) if isinstance(error, _Incompatible | _Misspelt) else describe(error)
        registry.problems.append(Problem(origin=source, stage=stage, error=text, details=details))
        return
    registry.origins.append(source)
    for name, why in unknown.items():
        del staged.attacks[name]
        registry.problems.append(Problem(origin=source, stage=stage, error=why, part=name))
    for kind in (*KINDS, "executors"):
        getattr(registry, kind).update(getattr(staged, kind))
    registry.commands.update(staged.commands)
    takers = registry.observers | {"robharness_figures": registry.figure_hooks}
    for name, hooks in takers.items():
        if (hook := getattr(manager.hook, name)).get_hookimpls():
            hooks.append((source, hook))
    registry.renderers.extend((source, renderer) for renderer in renderers)
    registry.audits.extend((source, audit) for audit in audits)


def _unknown_threat(spec: AttackSpec) -> str:
    """Return why an attack has no threat model at its defaults, or an empty text. Nothing is imported for it."""
    if isinstance(spec.threat, LazyFunction) or hasattr(spec.params, "__post_init__"):  # which may import a library
        return ""
    try:
        with plugin_errors():
            spec.threat(spec.params())  # type: ignore[operator]
    except ThreatModelError as error:
        return str(error)
    except Exception:  # of options without a default, for example; a suite that uses the attack says so
        pass
    return ""


class _Misspelt(Exception):
    pass


def _manager(plugin: object) -> pluggy.PluginManager:
    """Return a manager of this plugin alone. Raises _Misspelt for a hook that does not exist or lacks its marker."""
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
            values = {item.name: getattr(spec, item.name) for item in fields(record)}
            values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
            specs.append(record(**values))  # which the plugin has no reference to
    return specs


def _collect_renderers(manager: pluggy.PluginManager) -> list[PluginRenderer]:
    """Return the renderers that a plugin yields. Raises TypeError or ValueError for one that is invalid."""
    found: list[PluginRenderer] = []
    for renderer in chain.from_iterable(manager.hook.robharness_renderers()):
        texts = [getattr(renderer, attribute, None) for attribute in ("name", "suffix")]
        if not all(isinstance(text, str) for text in texts) or not callable(getattr(renderer, "render", None)):
            found_type = type(renderer).__name__
            raise TypeError(f"robharness_renderers yielded {found_type}, which needs `name`, `suffix` and `render`")
        if not re.fullmatch(r"\.[a-z0-9]+", renderer.suffix):
            raise ValueError(f"a renderer's suffix is a dot with lower-case letters or digits, not '{renderer.suffix}'")
        if renderer.suffix in BUILT_IN_SUFFIXES:
            raise ValueError(f"the suffix '{renderer.suffix}' has a built-in renderer")
        if renderer.suffix in [other.suffix for other in found]:
            raise ValueError(f"the suffix '{renderer.suffix}' is declared twice")
        found.append(PluginRenderer(name=renderer.name, suffix=renderer.suffix, render=renderer.render))
    return found


def _executors(manager: pluggy.PluginManager, source: PluginOrigin) -> dict[str, tuple[PluginOrigin, Any]]:
    """Return the plugin's executors by full name. Raises TypeError or ValueError for one that cannot be registered."""
    executors: dict[str, tuple[PluginOrigin, Any]] = {}
    for result in manager.hook.robharness_executors():
        for item in result:
            if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and callable(item[1])):
                raise TypeError(f"robharness_executors yielded {type(item).__name__}, not a name and a function")
            name = f"{source.namespace}/{item[0]}"
            if name in executors:
                raise ValueError(f"the name '{name}' is declared twice")
            executors[name] = source, item[1]
    return executors


def _commands(
    manager: pluggy.PluginManager, source: PluginOrigin, registry: Registry
) -> dict[str, tuple[PluginOrigin, Any]]:
    """Return the plugin's commands by name. Raises TypeError or ValueError for one that cannot be registered."""
    commands: dict[str, tuple[PluginOrigin, Any]] = {}
    for command in chain.from_iterable(manager.hook.robharness_commands()):
        import click

        if not isinstance(command, click.Command):
            raise TypeError(f"robharness_commands yielded {type(command).__name__}, not a click.Command")
        if not command.name or command.name in BUILT_IN_COMMANDS:
            raise ValueError(f"the command '{command.name}' is built in; give it another name")
        if command.name in commands:
            raise ValueError(f"the command '{command.name}' is declared twice")
        if command.name in registry.commands:
            raise ValueError(f"the command '{command.name}' is one of {registry.commands[command.name][0]} already")
        commands[command.name] = source, command
    return commands
