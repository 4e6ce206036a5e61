"""Number types of a checkpoint: those of the network, or a refusal, since a cast makes another network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from robharness.checkpoints.contents import some
from robharness.checkpoints.mismatches import COUNTER
from robharness.errors import for_shell

OtherTypes = Mapping[tuple[torch.dtype, torch.dtype], list[str]]
"""(type in the file, type in the network) -> the keys of these tensors."""


def other_types(net: nn.Module, found: Mapping[str, Tensor]) -> OtherTypes:
    """Return the keys of a state whose tensors have another number type than the network's.

    Counters of batches have no effect in evaluation, and may have any type.
    """
    other: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    for name, own in net.state_dict().items():
        if name in found and found[name].dtype != own.dtype and not name.endswith(COUNTER):
            other.setdefault((found[name].dtype, own.dtype), []).append(name)
    return other


def refusal(other: OtherTypes, file: Path | None = None) -> str:
    """Return the end of a sentence that begins with the file, and the command that converts it.

    other: not empty.
    file: the file; without, the sentence has no command.
    """
    facts = [f"{_name(kind)} where the network has {_name(own)} ({some(keys)})" for (kind, own), keys in other.items()]
    return f"has numbers of another type: {'; '.join(facts)}. A cast would make another network. {_remedy(other, file)}"


def _remedy(other: OtherTypes, file: Path | None) -> str:
    is_kept = all(  # a half or a double, an integer of another length
        kind.is_floating_point == own.is_floating_point and not (_NOT_CONVERTED & {kind, own}) for kind, own in other
    )
    if file is None or not is_kept or len({kind for kind, _ in other}) < len(other):
        return "Save it with the types of the network"
    converted = file.with_name(f"{file.stem}-{_name(next(iter(other))[1])}.pt")
    types = ", ".join(f"{kind}: {own}" for kind, own in other)
    code = (
        "import pathlib, torch; from robharness import checkpoints; from torch.utils._pytree import tree_map; "
        f"to = {{{types}}}; cast = lambda v: v.to(to.get(v.dtype, v.dtype)) if isinstance(v, torch.Tensor) else v; "
        f"torch.save(tree_map(cast, checkpoints.read(pathlib.Path({str(file)!r}))), {str(converted)!r})"
    )
    command = f"python -c {for_shell(code)}"
    return f"To convert it into {converted.name}, for `weights:` of the suite, try: {command}"


_NOT_CONVERTED = {torch.bool, torch.int8, torch.uint8, torch.complex64, torch.complex128}
"""Types of masks, of quantised and of complex numbers, of which a conversion would not keep the meaning."""


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
