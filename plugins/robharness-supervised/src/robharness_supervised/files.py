"""Checkpoint files into networks, whether a file holds a bare state or one under a key."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robharness import UserError
from robharness.checkpoints import Layout, load, read

ALLOWED = (Namespace,)
"""What pickles may name beside tensors: training scripts keep their options."""
CONTAINERS = ("state_dict", "model", "net", "model_state_dict")
"""The keys under which training scripts keep a network's state."""


def content(path: Path) -> Any:
    """What a file holds; raises UserError where it cannot be read, or not safely."""
    return read(path, ALLOWED)


def inside(content: Any) -> tuple[str, ...]:
    """The key that leads to the state, or none where it lies bare."""
    held = content if isinstance(content, Mapping) else {}
    return next(((key,) for key in CONTAINERS if isinstance(held.get(key), Mapping)), ())


def keys(content: Any) -> list[str]:
    """The names of the state's tensors, as they are in the file."""
    for key in inside(content):
        content = content[key]
    return (
        [name for name, value in content.items() if isinstance(value, Tensor)] if isinstance(content, Mapping) else []
    )


def fill(net: nn.Module, path: Path, content: Any, layouts: Sequence[Layout]) -> None:
    """Load what a file holds, strictly; raises UserError that names the file where it does not fit."""
    load(net, content, layouts, ALLOWED, where=path)


def one(weights: Any, name: str) -> Path:
    """The one file that a model takes; raises UserError where several are given."""
    if isinstance(weights, Mapping):
        raise UserError(
            f"{name} takes one file, not {', '.join(weights)}. Write: weights: ./{next(iter(weights), 'my')}.pt"
        )
    return Path(weights)
