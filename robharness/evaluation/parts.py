"""Parts of a network that it does not register, such as those of a plain list, which `eval()` and `to()` miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def unregistered_parts(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (place, part) for each module in a plain attribute, such as a list, a tuple or a mapping."""
    seen = {id(module) for module in net.modules()}
    pending = [(place, module) for place, module in net.named_modules()]
    while pending:
        place, module = pending.pop(0)
        own = {"_parameters", "_buffers", "_modules"}
        for name, value in list(vars(module).items()):
            if name in own or name.endswith("_hooks"):
                continue
            for inner, part in _modules_in(value, f"{place}.{name}" if place else name):
                if id(part) not in seen:
                    seen.add(id(part))
                    yield inner, part
                    children = [(f"{inner}.{name}", child) for name, child in part.named_modules() if name]
                    seen.update(id(child) for _, child in children)
                    pending += [(inner, part), *children]


def _modules_in(value: Any, place: str, depth: int = 4) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield place, value
    elif depth and isinstance(value, Mapping):
        for key, item in list(value.items()):
            yield from _modules_in(item, f"{place}[{key!r}]", depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(list(value)):
            yield from _modules_in(item, f"{place}[{index}]", depth - 1)


def parts_in_training_mode(net: nn.Module) -> list[str]:
    """Return the places of all parts, registered or not, that are in training mode."""
    registered = [place for place, module in net.named_modules() if module.training and place]
    hidden = [place for place, part in unregistered_parts(net) if any(module.training for module in part.modules())]
    return [*(f"'{place}'" for place in (*registered, *hidden))]
