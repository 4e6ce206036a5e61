"""The content of a checkpoint file: nested containers, some of which are states, each at a dotted path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.text import printable

DEPTH = 4
"""Number of keys of the longest path at which states are searched."""
SHOWN = 4
"""Number of keys that an error lists; the others are counted."""
KEY_LENGTH = 120
"""Most characters of a key that an error lists."""


def children(content: Any) -> dict[str, Any]:
    """Return the values of a mapping by key, or of a list by index, as texts; empty for anything else."""
    if isinstance(content, Mapping):
        return {str(key): value for key, value in content.items()}
    if isinstance(content, list | tuple):
        return {str(index): value for index, value in enumerate(content[:100])}
    return {}


def is_state(content: Any) -> bool:
    """Return whether the content is a mapping that holds tensors by name.

    A container of states is none, even if it holds a tensor, such as the state of a random generator, beside them.
    """
    if not isinstance(content, Mapping):
        return False
    names = [str(name) for name, value in content.items() if isinstance(value, Tensor)]
    if 2 * len(names) > len(content) and any("." in name for name in names):
        return True
    return bool(names) and not any(_holds_state(value, DEPTH - 1) for value in content.values())


def _holds_state(content: Any, depth: int) -> bool:
    values = children(content).values()
    return any(isinstance(value, Tensor) for value in values) or (
        depth > 0 and any(_holds_state(value, depth - 1) for value in values)
    )


def states(content: Any) -> dict[str, Mapping[str, Any]]:
    """Return the states in a content by dotted path, in the file's order; the content itself is at "".

    States of optimizers are left out.
    """
    return dict(_states(content, "", DEPTH))


def _states(content: Any, path: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_state(content):
        yield path, content
    elif depth:
        for key, value in children(content).items():
            if "optim" not in key.lower() and key != "":
                yield from _states(value, f"{path}.{key}" if path else key, depth - 1)


def at(content: Any, path: str) -> list[Any]:
    """Return what is at a dotted path: nothing, one value, or several, since keys may contain dots."""
    found = []
    for key, value in children(content).items():
        if key == path:
            found.append(value)
        elif path.startswith(f"{key}."):
            found += at(value, path.removeprefix(f"{key}."))
    return found


def with_states(content: Any) -> Any:
    """Return the content with every network replaced by its state, and every array of numbers by a tensor."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, np.ndarray):
        try:
            return torch.from_numpy(content.astype(content.dtype.newbyteorder("="), order="C"))
        except TypeError:  # torch has no such type
            return content
    if isinstance(content, Mapping):
        return {key: with_states(value) for key, value in content.items()}
    return [with_states(value) for value in content] if isinstance(content, list | tuple) else content


def some(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - SHOWN
    return ", ".join(printable(name, KEY_LENGTH) for name in names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def described(content: Any) -> str:
    """Return the first keys of a mapping, in quotes, or the type of anything else."""
    return (
        some([f"'{key}'" for key in content])
        if isinstance(content, Mapping)
        else f"a {printable(type(content).__name__)}"
    )


def common_prefix(names: Sequence[str]) -> str:
    """Return the longest prefix, up to a dot, that all of these two or more names have; else an empty text."""
    if len(names) < 2:
        return ""
    parts = []
    for part in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(part)) > 1:
            break
        parts.append(part[0])
    return "".join(f"{part}." for part in parts)
