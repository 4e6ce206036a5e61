"""Published checkpoints into networks: safely read, renamed as their publishers lay them out, loaded to the letter."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robharness.errors import UserError
from robharness.planning.weights import TRUST, file_digest

State = dict[str, Tensor]
SHOWN = 4
"""Keys of a kind that an error lists; of the others it gives the number."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a publisher lays a network's state out in a file.

    name: for messages. inside: keys that lead to the state, e.g. ("state_dict",). prefixes: what keys begin with: each
    loses the first that it has, again and again until it has none. rename: regular expressions and what replaces
    them, one after the other. drop: regular expressions of renamed keys, from their beginning, that the network has no
    place for. convert: what is left to be done to the state, at last.
    """

    name: str
    inside: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    convert: Callable[[State], State] | None = None


def read(path: Path, allow: Sequence[Any] = ()) -> Any:
    """What is in a file: a state, or whatever its publisher put around it; on the CPU.

    Files that end in .safetensors are read as such, others by torch with `weights_only`. allow: classes that a pickle
    may name beside tensors, e.g. argparse.Namespace. Raises UserError where the file is none, or needs more than that.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        needed = re.search(r"GLOBAL (\S+)|(?:class|global|type) (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and needed:
            return _distrusted(path, needed[1] or needed[2], error)
        raise UserError(f"{path} is no checkpoint: {_first_line(error)}. See: ls -l {path}") from error


def state(content: Any, layout: Layout) -> State:
    """The state in what `read` gave, as the layout says. Raises UserError where the layout's keys lead nowhere."""
    for key in layout.inside:
        if not isinstance(content, Mapping) or key not in content:
            raise UserError(
                f"it has no '{key}', where the layout '{layout.name}' has its weights; it has {_keys(content)}"
            )
        content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"it holds no tensors by name where the layout '{layout.name}' has them, but {_keys(content)}")
    found: State = {}
    for name, value in content.items():
        new = _renamed(str(name), layout)
        if any(re.match(pattern, new) for pattern in layout.drop):
            continue
        if new in found:
            raise UserError(f"the layout '{layout.name}' gives '{name}' and another of its keys one name, '{new}'")
        found[new] = value
    return layout.convert(found) if layout.convert else found


def load(
    net: nn.Module, source: Any, layouts: Sequence[Layout], allow: Sequence[Any] = (), where: Path | None = None
) -> Layout:
    """Fill a network with a checkpoint, by the first of the layouts that fits to the letter; which one that was.

    source: a path, or what `read` gave of the file `where`. The network may be on the meta device; it is on the CPU
    afterwards. Counters of batches, `num_batches_tracked`, need not be there. Raises UserError with what is missing,
    unexpected or of another shape by the layout that comes nearest.
    """
    file, content = (source, read(source, allow)) if isinstance(source, Path) else (where or "the checkpoint", source)
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    misfits: list[tuple[float, str]] = []
    for layout in layouts:
        try:
            found = state(content, layout)
        except UserError as error:
            misfits.append((math.inf, str(error)))
            continue
        count, told = _misfit(wanted, found)
        if not count:
            fill(net, found)
            return layout
        misfits.append((count, f"by the layout '{layout.name}', which is nearest, {told}"))
    nearest = min(misfits, key=lambda misfit: misfit[0])[1]
    names = ", ".join(layout.name for layout in layouts)
    known = f" Layouts that were tried: {names}." if len(layouts) > 1 else ""
    raise UserError(f"{file} does not fit {type(net).__name__}: {nearest}.{known} See: robharness list models")


def fill(net: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Copy a state into a network, on the CPU and in the network's own types and strides; counters may be left out.

    Raises ValueError where a buffer on the meta device is no part of the state, and so would stay without values.
    """
    if any(value.is_meta for value in net.state_dict().values()):
        kept = {name: value for name, value in net.named_buffers() if not value.is_meta}
        lost = {name for name, value in net.named_buffers() if value.is_meta} - net.state_dict().keys()
        if lost:
            raise ValueError(f"{min(lost)} is no part of the state; build {type(net).__name__} off the meta device")
        net.to_empty(device="cpu")
        for name, value in net.named_buffers():
            if name in kept:
                value.copy_(kept[name])
            elif name.endswith(_COUNTER):
                value.zero_()
    state = net.state_dict()  # its metadata say which version of each module's state this is
    for name in [name for name in state if not name.endswith(_COUNTER)]:
        del state[name]
    state.update(found)
    net.load_state_dict(state, strict=True)


_COUNTER = "num_batches_tracked"


def _misfit(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many keys do not fit, and which, in words."""
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unexpected = [name for name in found if name not in wanted]
    shapes = [f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name])}"
              for name in wanted if name in found and found[name].shape != wanted[name]]  # fmt: skip
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    told = [f"{len(names)} keys are {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    return len(missing) + len(unexpected) + len(shapes), "; ".join(told)


def _renamed(name: str, layout: Layout) -> str:
    while prefix := next((prefix for prefix in layout.prefixes if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    for pattern, replacement in layout.rename:
        name = re.sub(pattern, replacement, name)
    return name


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _keys(content: Any) -> str:
    return _some([f"'{key}'" for key in content]) if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _safetensors(path: Path) -> State:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path} needs the package safetensors. To get it: pip install safetensors") from None
    try:
        return dict(load_file(path))
    except Exception as error:
        raise UserError(f"{path} is no safetensors file: {_first_line(error)}. See: ls -l {path}") from error


def _distrusted(path: Path, needed: str, error: Exception) -> Any:
    """A pickle that names more than tensors: it can run any code, so the user must say that this very file may."""
    digest = file_digest(path)
    if digest in os.environ.get("ROBHARNESS_TRUST", "").split(","):
        return torch.load(path, map_location="cpu", weights_only=False)
    raise UserError(
        f"{path} holds more than tensors (it needs {needed}), and such a pickle can run any code. If you trust whoever "
        f"made the file with sha256 {digest}, add: {TRUST} {digest}"
    ) from error


def _first_line(error: Exception) -> str:
    """Without what torch advises, which is to run what the file holds."""
    return re.split(r"[\n.(]", str(error) or type(error).__name__)[0].strip()
