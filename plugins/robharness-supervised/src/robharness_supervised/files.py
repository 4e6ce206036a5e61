"""Reading checkpoint files that contain a state dict directly or under a key."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robharness import UserError
from robharness.checkpoints import Layout, LeftOver, load, load_trunk, read

ALLOWED = (Namespace,)
"""Classes that pickles may name besides tensors: training scripts save their options as a Namespace."""
CONTAINERS = ("state_dict", "model", "net", "model_state_dict")
"""Keys under which training scripts save the state dict."""


def content(path: Path) -> Any:
    """Return the content of a file. Raises UserError if it cannot be read safely."""
    return read(path, ALLOWED)


def inside(content: Any) -> tuple[str, ...]:
    """Return the key that leads to the state dict, or an empty tuple if the content is the state dict."""
    entries = content if isinstance(content, Mapping) else {}
    return next(((key,) for key in CONTAINERS if isinstance(entries.get(key), Mapping)), ())


def keys(content: Any) -> list[str]:
    """Return the names of the state dict's tensors, as in the file."""
    for key in inside(content):
        content = content[key]
    return (
        [name for name, value in content.items() if isinstance(value, Tensor)] if isinstance(content, Mapping) else []
    )


def fill(net: nn.Module, path: Path, content: Any, layouts: Sequence[Layout]) -> None:
    """Load a file's content strictly. Raises UserError, which names the file, if no layout matches the network."""
    load(net, content, layouts, ALLOWED, where=path)


def fill_trunk(
    net: nn.Module, path: Path, content: Any, layouts: Sequence[Layout], *, network: str, removed: Sequence[str] = ()
) -> LeftOver:
    """Load a file's content into a network without its classifier; see `robharness.checkpoints.load_trunk`."""
    return load_trunk(net, content, layouts, ALLOWED, where=path, network=network, removed=removed)


def one(weights: Any, name: str) -> Path:
    """Return the only file of a model. Raises UserError if several files are given.

    name: the model's name, for the message.
    """
    if isinstance(weights, Mapping):
        raise UserError(
            f"{name} takes one file, not {', '.join(weights)}. "
            f"Try: set `weights: ./{next(iter(weights), 'own')}.pt` in the suite"
        )
    return Path(weights)
