"""Layouts of publishers' files: where a file has the network's state, and how its keys are renamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from robharness.checkpoints.averages import require_choice
from robharness.checkpoints.choice import choice_in
from robharness.checkpoints.contents import described, is_state, some, states
from robharness.errors import UserError
from robharness.text import printable

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a network's state in a publisher's file.

    name: used in messages.
    inside: the keys that lead to the state, e.g. ("state_dict",).
    prefixes: removed from the beginning of keys, repeatedly until none of them is left.
    rename: regular expressions and their replacements, applied in order.
    drop: regular expressions, matched at the beginning of renamed keys that the network does not have.
    convert: a function that is applied to the state at the end.
    """

    name: str
    inside: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    convert: Callable[[State], State] | None = None


def state(content: Any, layout: Layout) -> State:
    """Return the state in the content of a file, with its keys renamed.

    content: from `read`. If the suite has chosen the state by `inside`, the layout's own keys are not followed.
    Raises UserError if the content has no state at the layout's keys, if two keys get one name, if a key among the
    state's holds no tensor, or if an average of the
    state, with the same keys and shapes, stands beside the state and the suite has not chosen one of them.
    """
    found = renamed(content, layout)
    shapes = _shapes(found)
    require_choice(content, used(layout, content).inside, lambda other: _fits_like(other, layout, shapes))
    return found


def used(layout: Layout, content: Any) -> Layout:
    """Return the layout for reading this content, without its own keys if the suite has chosen the state."""
    return replace(layout, inside=()) if choice_in(content).inside is not None else layout


def renamed(content: Any, layout: Layout) -> State:
    """Return the state in a content by the layout, whatever stands beside it. Raises UserError as `state` does."""
    found, others = divided(content, layout)
    if others:
        raise UserError(f"of its keys, {len(others)} hold no tensors: {some(others)}. Try: save the state without them")
    return found


def divided(content: Any, layout: Layout) -> tuple[State, list[str]]:
    """Return the state in a content by the layout, and the keys among its own that hold no tensors.

    Raises UserError as `state` does.
    """
    whole = content
    for key in used(layout, content).inside:
        if not isinstance(content, Mapping) or key not in content:
            raise UserError(
                f"it has no '{key}', where the layout '{layout.name}' has its weights; it has {described(content)}"
            )
        content = content[key]
    is_whole = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not is_whole and not is_state(content):
        nested = [f"'{path}'" for path in states(whole) if path]
        where = f"; it holds tensors at {some(nested)}" if nested else ""
        raise UserError(
            f"it holds no tensors by name where the layout '{layout.name}' has them, but {described(content)}{where}"
        )
    found: State = {}
    others = []
    for name, value in content.items():
        new = rename(str(name), layout)
        if any(re.match(pattern, new) for pattern in layout.drop):
            continue
        if not isinstance(value, Tensor):
            others.append(str(name))
            continue
        if new in found:
            both = f"'{printable(name)}' and another of its keys one name, '{printable(new)}'"
            raise UserError(f"the layout '{layout.name}' gives {both}")
        found[new] = value
    return layout.convert(found) if layout.convert else found, others


def rename(name: str, layout: Layout) -> str:
    """Return the name of a key by the layout."""
    while prefix := next((prefix for prefix in layout.prefixes if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    for pattern, replacement in layout.rename:
        name = re.sub(pattern, replacement, name)
    return name


def _shapes(found: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: value.shape for name, value in found.items() if not name.endswith("num_batches_tracked")}


def _fits_like(other: Any, layout: Layout, shapes: Mapping[str, Any]) -> bool:
    """Return whether a state has the same keys and shapes by the layout."""
    try:
        return bool(shapes) and _shapes(renamed(other, replace(layout, inside=()))) == shapes
    except UserError:
        return False
