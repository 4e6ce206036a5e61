"""A suite's choice of the state in a file: `inside`, the path that leads to it, and `strip`, a prefix of its keys.

A model's `build` gets the path of a file alone. The choice is therefore kept in a context variable, which `read` looks
up by the file, so that it holds for every plugin that reads by this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robharness.checkpoints.contents import at, common_prefix, described, is_state, some, states
from robharness.errors import UserError, did_you_mean
from robharness.suite.yaml import quoted

CHOICE_LENGTH = 400
"""Most characters of keys that an error advises to write in a suite."""


@dataclass(frozen=True, kw_only=True)
class StateChoice:
    """The choice of a state in one file.

    inside: dotted path of the keys that lead to the state; None leaves the choice to the layout.
    strip: prefix that is removed from keys; keys without it are left out; None leaves keys as they are.
    """

    inside: str | None = None
    strip: str | None = None

    def __str__(self) -> str:
        """Return the keys of a suite, as in "`inside: teacher` and `strip: module.`"."""
        return self.for_file("")

    def for_file(self, name: str) -> str:
        """Return the keys of a suite for the file of that name, as in "`inside: {backbone: teacher}`".

        Values are in quotes if YAML would read the bare text as something else, such as a number.
        name: of the file in `weights`; empty if `weights` is one file.
        """
        given = {"inside": self.inside, "strip": self.strip}
        values = {key: quoted(value) for key, value in given.items() if value is not None}
        texts = {key: f"{{{quoted(name)}: {value}}}" if name else value for key, value in values.items()}
        return " and ".join(f"`{key}: {text}`" for key, text in texts.items())


class ChosenState(dict[str, Any]):
    """The content of a file after the suite's choice.

    choice: of the suite.
    whole: the content of the file.
    unstripped: the chosen state with its keys as in the file; the content of the file if `inside` is not given.
    """

    choice: StateChoice
    whole: Any
    unstripped: Any


@dataclass(kw_only=True)
class _Build:
    """The choices of one model, and the files that were read.

    names: of files in `weights`, if there are several.
    is_pinned: whether the files are the publisher's own, so that the plugin's layout knows which state is meant.
    """

    choices: Mapping[str, StateChoice] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    is_pinned: bool = False
    read: set[str] = field(default_factory=set)


_CURRENT: ContextVar[_Build | None] = ContextVar("robharness_state_choice", default=None)


@contextmanager
def choosing(
    choices: Mapping[Path, StateChoice], *, names: Mapping[str, Path] | None = None, is_pinned: bool = False
) -> Iterator[None]:
    """Apply the choices to the files that `read` and `load` read in this context.

    choices: by file.
    names: files by their names in `weights`, if there are several, for messages.
    is_pinned: whether the files are the publisher's own, known by their sha256. Their layout then decides which of two
        equal states is meant.
    Raises UserError at the end if a file with a choice was not read, since the choice had no effect.
    """
    current = _Build(
        choices={os.path.realpath(file): choice for file, choice in choices.items()},
        names={os.path.realpath(file): name for name, file in (names or {}).items()},
        is_pinned=is_pinned,
    )
    token = _CURRENT.set(current)
    try:
        yield
    finally:
        _CURRENT.reset(token)
    for file, choice in current.choices.items():
        if file not in current.read:
            raise UserError(
                f"{choice} has no effect on {file}, since the plugin does not read it by robharness.checkpoints. "
                f"Try: save the state in a file of its own and leave {choice} out of the suite"
            )


def chosen(path: Path, content: Any) -> Any:
    """Return the content of a file after the choice of the suite, if there is one. Raises UserError if it has none."""
    current, file = _CURRENT.get(), os.path.realpath(path)
    if current is None or file not in current.choices:
        return content
    current.read.add(file)
    choice, inner = current.choices[file], content
    if choice.inside is not None:
        inner = _inside(path, content, choice.inside)
    if not isinstance(inner, Mapping):
        known = list(states(content))
        raise UserError(f"{path} holds {described(content)}, not a state{_try_one(path, 'inside', '', known)}")
    stripped = inner if choice.strip is None else _stripped(path, inner, choice.strip)
    result = ChosenState(stripped)
    result.choice, result.whole, result.unstripped = choice, content, inner
    return result


def whole(content: Any) -> Any:
    """Return the whole content of the file from which `read` returned a content."""
    return content.whole if isinstance(content, ChosenState) else content


def unstripped(content: Any) -> Any:
    """Return a content that `read` returned, with its keys as in the file, whatever prefix the suite strips."""
    return content.unstripped if isinstance(content, ChosenState) else content


def choice_in(content: Any) -> StateChoice:
    """Return the choice by which `read` returned a content."""
    return content.choice if isinstance(content, ChosenState) else StateChoice()


def name_of(file: Path | None) -> str:
    """Return the name of a file in `weights`, or an empty text if `weights` is one file."""
    current = _CURRENT.get()
    return current.names.get(os.path.realpath(file), "") if current and file else ""


def is_pinned() -> bool:
    """Return whether the files are the publisher's own, known by their sha256."""
    current = _CURRENT.get()
    return current is not None and current.is_pinned


def _inside(path: Path, content: Any, inside: str) -> Mapping[str, Any]:
    found, written = at(content, inside), StateChoice(inside=inside).for_file(name_of(path))
    if len(found) > 1:
        raise UserError(
            f"{path} has {len(found)} values at {written}, since its keys contain dots. "
            f"Try: save the state in a file of its own"
        )
    if found and is_state(found[0]):
        return dict(found[0])
    known = [name for name in states(content) if name]
    what = f"has no state at {written}" if found else f"has nothing at {written}"
    raise UserError(f"{path} {what}; {_available(content, known)}{_try_one(path, 'inside', inside, known)}")


def _available(content: Any, known: list[str]) -> str:
    if known:
        return f"its states are at {some(known)}"
    return "it is a state itself" if is_state(content) else f"it holds {described(content)}"


def _try_one(path: Path, key: str, wanted: str, known: list[str]) -> str:
    known = [name for name in known if len(name) <= CHOICE_LENGTH]
    if not known:
        return f". Try: leave `{key}` out of the suite"
    hint = did_you_mean(wanted, known)
    nearest = next((name for name in known if hint and f"'{name}'" in hint), known[0])
    return f"{hint or '.'} Try: set {StateChoice(**{key: nearest}).for_file(name_of(path))} in the suite"


def _stripped(path: Path, content: Any, prefix: str) -> Any:
    """Return the content with the prefix removed from the keys of its states, without keys that lack the prefix.

    A state in which no key has the prefix stays as it is. A dot after the prefix may be left out.
    """
    known = states(content)
    keys = [str(key) for found in known.values() for key in found]
    if not any(key.startswith(prefix) for key in keys):
        begins = sorted({f"{key.split('.')[0]}." for key in keys if "." in key})
        common = common_prefix(keys)
        options = [common] if common else begins
        hint = (
            f"keys begin with {some([f'`{option}`' for option in options])}"
            if options
            else f"it holds {described(content)}"
        )
        written = StateChoice(strip=prefix).for_file(name_of(path))
        raise UserError(f"no key in {path} begins with {written}; {hint}{_try_one(path, 'strip', prefix, options)}")
    if all(key[len(prefix) :].startswith(".") for key in keys if key.startswith(prefix)):
        prefix += "."
    return _strip_states(content, prefix)


def _strip_states(content: Any, prefix: str) -> Any:
    if is_state(content):
        kept = {str(key)[len(prefix) :]: value for key, value in content.items() if str(key).startswith(prefix)}
        return kept or dict(content)
    if isinstance(content, Mapping):
        return {key: _strip_states(value, prefix) for key, value in content.items()}
    return [_strip_states(value, prefix) for value in content] if isinstance(content, list | tuple) else content
