"""Loading of published checkpoints: read safely, rename by their publisher's layout, load strictly."""

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
"""Number of keys that an error lists; the others are counted."""


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


def read(path: Path, allow: Sequence[Any] = ()) -> Any:
    """Return the content of a checkpoint file, on the CPU: a state, or the objects that contain it.

    path: a .safetensors file, or else a file that torch reads with `weights_only`.
    allow: classes that a pickle may contain beside tensors, e.g. argparse.Namespace.
    Raises UserError if the file is no checkpoint, or contains other classes.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        needed = re.search(r"GLOBAL (\S+)|(?:class|global|type) (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and needed:
            return _read_trusted(path, needed[1] or needed[2], error)
        raise UserError(f"{path} is no checkpoint: {_first_line(error)}. Try: ls -l {path}") from error


def state(content: Any, layout: Layout) -> State:
    """Return the state in the content of a file, with its keys renamed.

    content: from `read`.
    Raises UserError if the content has no state at the layout's keys, or if two keys get one name.
    """
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
    """Fill a network with a checkpoint by the first layout whose keys and shapes all fit; return that layout.

    net: may be on the meta device; it is on the CPU afterwards.
    source: a path, or the content that `read` returned.
    layouts: tried in order.
    allow: see `read`.
    where: the path of `source` if that is a content, for messages.
    Counters of batches, `num_batches_tracked`, may be missing.
    Raises UserError with the keys that are missing, unexpected or of another shape by the closest layout.
    """
    file, content = (source, read(source, allow)) if isinstance(source, Path) else (where or "the checkpoint", source)
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    mismatches: list[tuple[float, str]] = []
    for layout in layouts:
        try:
            found = state(content, layout)
        except UserError as error:
            mismatches.append((math.inf, str(error)))
            continue
        count, message = _mismatch(wanted, found)
        if not count:
            fill(net, found)
            return layout
        mismatches.append((count, f"by the closest layout, '{layout.name}', {message}"))
    closest = min(mismatches, key=lambda mismatch: mismatch[0])[1]
    names = ", ".join(layout.name for layout in layouts)
    tried = f" Layouts that were tried: {names}." if len(layouts) > 1 else ""
    raise UserError(f"{file} does not fit {type(net).__name__}: {closest}.{tried} Try: robharness list models")


def fill(net: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Copy a state into a network, on the CPU, with the network's own types and strides.

    net: may be on the meta device.
    found: the state; counters of batches may be missing.
    Raises ValueError if a buffer on the meta device is not part of the state, and so would have no values.
    """
    if any(value.is_meta for value in net.state_dict().values()):
        buffers = {name: value for name, value in net.named_buffers() if not value.is_meta}
        lost = {name for name, value in net.named_buffers() if value.is_meta} - net.state_dict().keys()
        if lost:
            raise ValueError(f"{min(lost)} is not part of the state; build {type(net).__name__} off the meta device")
        net.to_empty(device="cpu")
        for name, value in net.named_buffers():
            if name in buffers:
                value.copy_(buffers[name])
            elif name.endswith(_COUNTER):
                value.zero_()
    state = net.state_dict()  # its metadata hold the version of each module's state
    for name in [name for name in state if not name.endswith(_COUNTER)]:
        del state[name]
    state.update(found)
    net.load_state_dict(state, strict=True)


_COUNTER = "num_batches_tracked"


def _mismatch(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> tuple[int, str]:
    """Return the number of keys that do not fit, and a text that names some of them."""
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unexpected = [name for name in found if name not in wanted]
    shapes = [f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name])}"
              for name in wanted if name in found and found[name].shape != wanted[name]]  # fmt: skip
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    texts = [f"{len(names)} keys are {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    return len(missing) + len(unexpected) + len(shapes), "; ".join(texts)


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
        raise UserError(f"{path} is no safetensors file: {_first_line(error)}. Try: ls -l {path}") from error


def _read_trusted(path: Path, needed: str, error: Exception) -> Any:
    """Read a pickle that contains more than tensors if the user trusts this very file, since it can run any code.

    needed: the class that the pickle contains.
    Raises UserError, from the given error, if the file's sha256 is not in $ROBHARNESS_TRUST.
    """
    digest = file_digest(path)
    if digest in os.environ.get("ROBHARNESS_TRUST", "").split(","):
        return torch.load(path, map_location="cpu", weights_only=False)
    raise UserError(
        f"{path} contains more than tensors (it needs {needed}), and such a pickle can run any code. If you trust the "
        f"authors of the file with sha256 {digest}, add: {TRUST} {digest}"
    ) from error


def _first_line(error: Exception) -> str:
    """Return the first sentence of an error, without torch's advice to run the code in the file."""
    return re.split(r"[\n.(]", str(error) or type(error).__name__)[0].strip()
