"""The content of a checkpoint file: nested containers, some of which are states, each at a dotted path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robharness.checkpoints.bounds import DENSE, SAVE, Unfit, require_tree
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


def plain(content: Any) -> Any:
    """Return the content in plain containers: networks are replaced by their states, arrays of numbers by tensors.

    Tensors lose their gradients, their hooks and whatever attributes they have.
    Raises Unfit for a content that is nested without end, or a tensor that is not dense.
    """
    require_tree(content, _inner)
    return _plain(content, {})


def _inner(content: Any) -> Iterable[Any]:
    if isinstance(content, dict):
        return dict.values(content)  # attributes of the object may hide its methods
    if isinstance(content, Mapping):
        return content.values()
    return content if isinstance(content, list | tuple) else ()


def _plain(content: Any, known: dict[int, Any]) -> Any:
    """Return plain containers; `known` holds those of containers that are there several times."""
    if isinstance(content, Tensor):
        return _dense(content)
    if isinstance(content, np.ndarray):
        try:
            return torch.from_numpy(content.astype(content.dtype.newbyteorder("="), order="C"))
        except TypeError:  # torch has no such type
            return content
    if isinstance(content, nn.Module):
        return {name: _plain(value, known) for name, value in content.state_dict().items()}
    if not isinstance(content, Mapping | list | tuple) or isinstance(content, torch.Size):
        return content
    if id(content) not in known:
        if isinstance(content, Mapping):
            items = dict.items(content) if isinstance(content, dict) else content.items()
            known[id(content)] = {key: _plain(value, known) for key, value in items}
        else:
            values = [_plain(value, known) for value in content]
            known[id(content)] = tuple(values) if isinstance(content, tuple) else values
    return known[id(content)]


def _dense(value: Tensor) -> Tensor:
    """Return the tensor without its gradient, hooks and attributes. Raises Unfit unless it is dense, on the CPU."""
    if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
        kind = f"a tensor of the class {type(value).__name__}"
    elif value.is_nested:
        kind = "a nested tensor"
    elif value.layout != torch.strided:
        kind = "a sparse tensor"
    elif value.is_quantized:
        kind = "a quantised tensor"
    elif value.device.type != "cpu":
        kind = f"a tensor on the device '{value.device.type}'"
    else:
        return Tensor.detach(value)
    raise Unfit(f"it holds {kind}, and {DENSE}", SAVE)


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
