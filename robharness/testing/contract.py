"""Checks and their subjects: every spec of a plugin, loaded as the command line loads it. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from robharness.errors import ContractViolation, PluginLoadError, UserError, did_you_mean
from robharness.planning.commands import data_root as default_data_root
from robharness.plugins import KINDS, Entry, PluginOrigin, Registry, installed_plugins, loose_plugin, take_plugin
from robharness.specs.conventions import LABEL_SPACES

PLUGIN = "plugin"
"""The kind of checks of a plugin as a whole, beside those of `KINDS`."""


class Broken(AssertionError):
    """A plugin breaks a rule of the contract."""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """The location of a plugin, the same in every process.

    place: its module's name, or the path of a loose file.
    """

    namespace: str
    place: str

    @classmethod
    def find(cls, plugin: str | Path | ModuleType) -> Plugin:
        """Find a plugin by its module, its module's name, its namespace or its path.

        Raises PluginLoadError if there is none.
        """
        if isinstance(plugin, ModuleType):
            return cls._of_module(plugin)
        if isinstance(plugin, Path) or plugin.endswith(".py"):
            path = Path(plugin).absolute()
            return cls(namespace=path.stem, place=str(path))
        origins = [origin for origin, _ in installed_plugins()]
        for origin in origins:
            if plugin in (origin.namespace, origin.location):
                return cls(namespace=origin.namespace, place=origin.location)
        if _is_importable(plugin):
            return cls(namespace=plugin.rpartition(".")[2].removeprefix("robharness_"), place=plugin)
        known = did_you_mean(plugin, [name for origin in origins for name in (origin.namespace, origin.location)])
        raise PluginLoadError(
            f"'{plugin}' is neither an installed plugin nor a module{known or '.'} Try: robharness list plugins"
        )

    @classmethod
    def _of_module(cls, module: ModuleType) -> Plugin:
        """Return the plugin by its name if another process can import that, else by its file."""
        file = getattr(module, "__file__", None)
        spec = importlib.util.find_spec(module.__name__) if _is_importable(module.__name__) else None
        if spec is not None and spec.origin == file:
            return cls.find(module.__name__)
        if file is None:
            raise PluginLoadError(f"the module '{module.__name__}' has no file; give the path of one")
        return cls.find(Path(file))

    @property
    def registry(self) -> Registry:
        """The specs that this plugin alone declares. Raises PluginLoadError if it cannot be used."""
        return _registry(self)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@cache
def _registry(plugin: Plugin) -> Registry:
    registry = Registry()
    if plugin.place.endswith(".py"):
        source, load = loose_plugin(Path(plugin.place))
    else:
        found = [each for each in installed_plugins() if each[0].location == plugin.place]
        named = PluginOrigin(namespace=plugin.namespace, distribution=plugin.place, location=plugin.place)
        source, load = found[0] if found else (named, lambda: import_module(plugin.place))
    take_plugin(registry, source, load)
    for problem in registry.problems:
        raise PluginLoadError(f"{problem}\n{problem.details}".rstrip())
    return registry


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A spec with the author's settings, or a whole plugin if the kind is "plugin".

    name: within the plugin; of a data set with its split, "digits/test".
    split: of a data set, else "".
    options, weights, classes, images: see `parametrize_with_checks`.
    It can be pickled; another process loads the plugin again.
    """

    plugin: Plugin
    kind: str
    name: str
    split: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Any = None
    data_root: Path = Path()
    classes: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"weights": self.files}

    @property
    def entry(self) -> Entry:
        """The registry's entry of the spec."""
        name = self.name.removesuffix(f"/{self.split}") if self.split else self.name
        found: Entry = getattr(self.plugin.registry, self.kind)[f"{self.plugin.namespace}/{name}"]
        return found

    @cached_property
    def params(self) -> Any:
        """The options as the plugin's own record. Raises UserError."""
        return params_of(self.entry, self.options)

    @cached_property
    def files(self) -> Path | dict[str, Path] | None:
        """The weights that the author gives; a function is called to make them."""
        given = self.weights() if callable(self.weights) else self.weights
        if isinstance(given, Mapping):
            return {name: Path(path) for name, path in given.items()}
        return None if given is None else Path(given)

    def size_of(self, labels: str) -> int:
        """Return the number of classes of a label space. Raises UserError if it is not known."""
        known = {**LABEL_SPACES, **self.classes}
        if labels not in known:
            raise UserError(f"the number of classes of '{labels}' is not known; write classes={{'{labels}': N}}")
        return known[labels]


def params_of(entry: Entry, options: Mapping[str, Any]) -> Any:
    """Return the options of a spec, read as from a suite, or None if the spec has no options. Raises UserError."""
    cls = entry.spec.params
    known = [item.name for item in fields(cls)] if cls is not None else []
    short = entry.spec.name
    for key in options:
        if key not in known:
            near = did_you_mean(key, known) or f"; it has {', '.join(known) or 'none'}"
            raise UserError(f"{entry.name} has no option '{key}'{near}. Correct options={{'{short}': ...}}")
    if cls is None:
        return None
    try:
        return TypeAdapter(cls).validate_json(json.dumps(dict(options), default=str), strict=True)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}{': ' * bool(item['loc'])}{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise UserError(f"the options of {entry.name} are wrong: {wrong}. Correct options={{'{short}': ...}}") from None


Rule = Callable[[Subject], None]
"""A rule of the contract: its name is the check's name, the first line of its docstring is the requirement."""


@dataclass(frozen=True)
class Check:
    """A rule for a spec, which is checked by a call. Its text is the id of a pytest item."""

    subject: Subject
    rule: Rule

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.__name__

    @property
    def requirement(self) -> str:
        """The requirement of the rule, as a sentence."""
        return (self.rule.__doc__ or "").partition("\n")[0].removesuffix(".")

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"

    def __call__(self) -> None:
        """Check the rule. Raises Broken, with a sentence that names the spec, the rule and the observation."""
        __tracebackhide__ = True
        try:
            self.rule(self.subject)
        except (Broken, ContractViolation) as error:
            raise self._broken(f"breaks {self.name}", str(error)) from error.__cause__
        except UserError as error:
            raise self._broken(f"cannot be checked for {self.name}", str(error)) from None
        except Exception as error:  # a plugin may raise anything
            raise self._broken(f"breaks {self.name}", f"it raised {type(error).__name__}: {error}") from error

    def _broken(self, verb: str, observation: str) -> Broken:
        return Broken(f"{self.subject} of {self.subject.plugin.place} {verb} ({self.requirement}): {observation}")


def checks(
    plugin: str | Path | ModuleType,
    *,
    only: str | Sequence[str] = "*",
    leave_out: str | Sequence[str] = (),
    data_root: str | Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, Any] | None = None,
    classes: Mapping[str, int] | None = None,
    images: Mapping[str, Mapping[str, Any]] | None = None,
    splits: Mapping[str, str | Sequence[str]] | None = None,
) -> list[Check]:
    """Return the checks of a plugin; the parameters are those of `parametrize_with_checks`."""
    found = Plugin.find(plugin)
    settings = {"options": options or {}, "weights": weights or {}, "images": images or {}, "splits": splits or {}}
    subjects = list(_subjects(found, default_data_root(data_root), classes or {}, settings))
    for parameter, by_spec in settings.items():
        for pattern in by_spec:
            if not any(_fits(pattern, subject) for subject in subjects):
                names = [subject.name for subject in subjects]
                raise UserError(f"{parameter}={{'{pattern}': ...}} fits no spec{did_you_mean(pattern, names) or '.'}")
    every = [Check(subject, rule) for subject in subjects for rule in rules_of(subject)]
    selected = [check for check in every if _matches(only, check) and not _matches(leave_out, check)]
    if not selected:
        ids = sorted({str(check.subject) for check in every})
        raise UserError(f"nothing of {found.place} is left to check; it has {', '.join(ids)}")
    return selected


def rules_of(subject: Subject) -> list[Rule]:
    """Return the rules for this spec, in the order of checking."""
    module = import_module(f"robharness.testing.{subject.kind}")  # here, since some kinds import torch
    if subject.kind == "datasets" and not subject.split:
        return [module.split_named]
    spec = None if subject.kind == PLUGIN else subject.entry.spec
    when: Mapping[Rule, Callable[[Any], bool]] = getattr(module, "WHEN", {})
    return [rule for rule in module.RULES if rule not in when or when[rule](spec)]


def _subjects(
    plugin: Plugin, root: Path, classes: Mapping[str, int], settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[Subject]:
    common: dict[str, Any] = {"plugin": plugin, "data_root": root, "classes": classes}
    yield Subject(kind=PLUGIN, name=plugin.namespace, **common)
    for kind in KINDS:
        entries: Mapping[str, Entry] = getattr(plugin.registry, kind)
        for entry in entries.values():
            own = {key: _setting(by_spec, kind, entry.spec.name) for key, by_spec in settings.items()}
            chosen = own.pop("splits")
            for split in _splits(entry, chosen) if kind == "datasets" else ("",):
                name = f"{entry.spec.name}/{split}" if split else entry.spec.name
                yield Subject(kind=kind, name=name, split=split, **common, **{**own, "options": own["options"] or {}})


def _splits(entry: Entry, chosen: str | Sequence[str] | None) -> Sequence[str]:
    """Return the splits of a data set to check: the chosen ones, or else all declared ones.

    Returns one empty name if any split may be one and none is chosen. Raises UserError for an undeclared split.
    """
    declared = entry.spec.splits
    if chosen is None:
        return declared or ("",)
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if declared and name not in declared:
            near = did_you_mean(name, declared) or f"; it has {', '.join(declared)}"
            raise UserError(f"{entry.name} has no split '{name}'{near}. Correct splits={{'{entry.spec.name}': ...}}")
    return names or ("",)


def _setting(by_spec: Mapping[str, Any], kind: str, name: str) -> Any:
    """Return the setting of a spec: by its name, or else by the first glob that fits; None if there is none."""
    exact = [by_spec[key] for key in (f"{kind}/{name}", name) if key in by_spec]
    globs = [value for key, value in by_spec.items() if fnmatchcase(name, key) or fnmatchcase(f"{kind}/{name}", key)]
    return next(iter([*exact, *globs]), None)


def _fits(pattern: str, subject: Subject) -> bool:
    name = subject.name.removesuffix(f"/{subject.split}") if subject.split else subject.name
    return subject.kind != PLUGIN and (fnmatchcase(name, pattern) or fnmatchcase(f"{subject.kind}/{name}", pattern))


def _matches(patterns: str | Sequence[str], check: Check) -> bool:
    names = (check.subject.name, str(check.subject), str(check))
    every = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for name in names for pattern in every)
