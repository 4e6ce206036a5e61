"""Settings: values that the option `--set KEY=VALUE`, or `overrides` in Python, change in a suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from robharness.errors import UserError, did_you_mean
from robharness.plugins.calls import plugin_errors
from robharness.suite import source, yaml
from robharness.suite.joining import Joined
from robharness.suite.taking import LISTS, SUITE_KEYS, every_key, names_of, takes
from robharness.text import printable

MOST_SETTINGS = 1000
_STEP = r'(?:"[^"]*"|[^".=]+)'
_KEY = re.compile(rf"{_STEP}(?:\.{_STEP})*")
_SHOWN = 100
"""Characters of a setting that messages show."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value that is set in a suite.

    key: steps with dots between: "models.*.epochs". A step with a dot or an equals sign is in double quotes.
    value: YAML, by the same rules as in the file.
    is_option: whether it was an option of the command line; otherwise it was given in Python.
    """

    key: str
    value: str
    is_option: bool = True

    def __str__(self) -> str:
        return f"{self.key}={self.value}"

    @property
    def place(self) -> str:
        """The setting as messages show it, in front of an error."""
        text = printable(str(self), _SHOWN)
        return f"--set {text}" if self.is_option else f"overrides {text}"

    @property
    def steps(self) -> list[str]:
        return [step.strip('"') for step in re.findall(_STEP, self.key)]


def parse_setting(text: str) -> Setting:
    """Return the setting of a text, KEY=VALUE. Raises ValueError, with the reason, for other texts."""
    found = _KEY.match(text)
    if found is None or text[found.end() : found.end() + 1] != "=":
        raise ValueError(f"'{printable(text, _SHOWN)}' is not KEY=VALUE; KEY is a path such as models.0.epochs")
    if problem := yaml.text_problem(text) or yaml.text_problem(found.group(), is_key=True):
        raise ValueError(f"'{printable(text, _SHOWN)}': {problem}")
    return Setting(key=found.group(), value=text[found.end() + 1 :])


Overrides = Mapping[str, Any] | tuple[Setting, ...] | None
"""Values to set, by their keys, or settings that were read already."""


def as_settings(overrides: Overrides) -> tuple[Setting, ...]:
    """Return the settings of a mapping, "models.*.epochs" -> 1, in its order. Raises UserError for anything else."""
    if overrides is None:
        return ()
    if isinstance(overrides, Mapping):
        with plugin_errors():  # a class of the caller's may raise anything
            pairs = list(islice(overrides.items(), MOST_SETTINGS + 1))
        found = tuple(_from_python(key, value) for key, value in pairs)
    elif isinstance(overrides, tuple) and all(isinstance(each, Setting) for each in overrides):
        found = overrides
    else:
        raise UserError(f"`overrides` is a mapping of keys to values. Try: {_EXAMPLE}")
    if len(found) > MOST_SETTINGS:
        raise UserError(f"more than {MOST_SETTINGS} settings. Try: a suite that `extends` the other one")
    return found


_EXAMPLE = 'overrides={"models.*.epochs": 1}'


def _from_python(key: Any, value: Any) -> Setting:
    try:
        setting = parse_setting(f"{key}={source.as_json(value)}" if isinstance(key, str) else "")
    except ValueError as error:
        reason = str(error) if isinstance(key, str) else f"a key is a text; got {printable(repr(key))}"
        raise UserError(f"overrides: {reason}. Try: {_EXAMPLE}") from None
    return Setting(key=setting.key, value=setting.value, is_option=False)


class NoPlace(Exception):
    """A key that leads to no value of the suite; the text says why."""


def apply(setting: Setting, joined: Joined, registry: Any) -> None:
    """Set one value in a suite. Its errors get the setting as their place, and are added to the suite's.

    registry: the plugins, whose options say which items `*` means.
    Raises yaml.Endless if the suite gets too large.
    """
    number = joined.add_source(yaml.Source(shown=setting.place, folder=joined.start, is_file=False))
    value = joined.placed(yaml.parse(setting.value), number, keeps_lines=False)
    value.values.setdefault((), (number * yaml.LINES, 1))  # which an empty text has not
    if value.errors:
        joined.add_errors(value)
        return
    try:
        places = list(_places(setting.steps, joined, registry))
    except NoPlace as error:
        joined.error(number, str(error))
        return
    for path in places:
        joined.put(path, value)


def _places(steps: list[str], joined: Joined, registry: Any) -> Iterator[yaml.Path]:
    """Yield the paths of the values that a key means; mappings on the way that the suite lacks are created later.

    Raises NoPlace if there are none.
    """
    found: list[yaml.Path] = [()]
    if steps[0] == "extends":
        raise NoPlace("`extends` is a key of files alone; write it into the suite")
    for at, step in enumerate(steps):
        values = [(path, joined.at(path)) for path in found]
        found = [(*path, key) for path, inner in values for key in _keys(step, path, inner, steps[at + 1 :], registry)]
        if not found:
            raise NoPlace(f"'{_shown(steps[:at])}' is empty, so that `*` means nothing" if at else "`*` means nothing")
    is_every = len(steps) > 2 and steps[0] in LISTS and steps[1] == "*"
    if is_every:
        found = [path for path in found if takes(registry, steps[0], joined.at(path[:2]), steps[2])]
        if not found:
            known = every_key(registry, steps[0], joined.at((steps[0],)))
            sentence = f"no item of '{steps[0]}' takes the key '{printable(steps[2])}'"
            raise NoPlace(f"{sentence}{did_you_mean(steps[2], known)}")
    yield from found


def _keys(step: str, path: yaml.Path, inner: Any, rest: list[str], registry: Any) -> list[str | int]:
    """Return the keys or indices that a step means in a value.

    inner: the value at the path; None also for one that the suite lacks.
    rest: the steps that follow.
    """
    name = f"'{_shown(path)}'" if path else "the suite"
    inner = {"name": inner} if path == ("data",) and isinstance(inner, str) else inner  # the short form of a mapping
    if isinstance(inner, list):
        return _indices(step, path, inner)
    if inner is not None and not isinstance(inner, dict):
        raise NoPlace(f"{name} is {printable(repr(inner))}, which has no '{printable(step)}'")
    values = inner or {}
    if step == "*":
        return list(values)
    if step not in values and rest:
        known = [*values, *(SUITE_KEYS if not path else [])]
        if not path and step not in known:
            raise NoPlace(f"a suite has no key '{printable(step)}'{did_you_mean(step, known)}")
        if (not path and step in (*LISTS, "metrics")) or rest[0] == "*" or rest[0].isdecimal():
            raise NoPlace(f"{name} has no '{printable(step)}'{did_you_mean(step, values)}")
    return [step]


def _indices(step: str, path: yaml.Path, items: list[Any]) -> list[str | int]:
    """Return the indices that a step means in a list: `*`, a number, or the label or the name of an item."""
    name = _shown(path)
    if step == "*":
        return list(range(len(items)))
    if step.isdecimal() and len(step) < 10:
        if int(step) >= len(items):
            some = f"it has {len(items)}, from {name}.0 to {name}.{len(items) - 1}" if items else "it is empty"
            raise NoPlace(f"'{name}' has no item {step}; {some}")
        return [int(step)]
    named = [names_of(path[0], item) if len(path) == 1 else () for item in items]
    found = [index for index, names in enumerate(named) if names[:1] == (step,)]
    found = found or [index for index, names in enumerate(named) if step in names]
    if not found:
        known = [each for names in named for each in names[:1]]
        hint = did_you_mean(step, [*known, *(each for names in named for each in names)])
        raise NoPlace(f"'{name}' has no item '{printable(step)}'{hint or '; write its index, from 0, or *'}")
    if len(found) > 1:
        places = " or ".join(f"{name}.{index}" for index in found[:5])
        raise NoPlace(f"several items of '{name}' are called '{printable(step)}'; write {places}")
    return list(found)


def _shown(path: Iterable[str | int]) -> str:
    return ".".join(printable(step) for step in path)
