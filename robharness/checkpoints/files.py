"""Reading of checkpoint files: by their content, and without running code that a pickle may hold."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robharness.checkpoints.choice import chosen
from robharness.checkpoints.contents import with_states
from robharness.checkpoints.formats import Kind, recognise
from robharness.checkpoints.pickles import Inspection, inspect
from robharness.errors import UserError, for_shell
from robharness.planning.weights import TRUST, file_digest
from robharness.text import printable


def read(path: Path, allow: Sequence[Any] = ()) -> Any:
    """Return the content of a checkpoint file, on the CPU: a state, or the objects that contain it.

    path: a file of torch.save or of safetensors, whatever its name.
    allow: classes that a pickle may contain beside tensors, e.g. argparse.Namespace.
    If the suite chooses a state in this file, by `inside` or `strip`, that state is returned.
    Raises UserError if the file is no checkpoint, contains other classes, or has no state that the suite chooses.
    """
    path = Path(path)
    try:
        found = recognise(path)
    except OSError as error:
        raise UserError(f"{path} is no checkpoint: {error.strerror}. Try: ls -l {for_shell(path)}") from error
    if found.refusal:
        raise UserError(f"{path} is no checkpoint: {found.refusal}")
    return chosen(path, _safetensors(path) if found.kind == "safetensors" else _torch(path, found.kind, allow))


def _torch(path: Path, kind: Kind, allow: Sequence[Any]) -> Any:
    """Read a torch archive without running its code, or with its code if the user trusts this very file."""
    if kind in ("torchscript", "tar"):  # which torch reads with their code only
        return _trusted(path, kind, _REASONS[kind], None)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals(list(allow)),
            path.open("rb") as file,  # torch reads a path by its suffix
        ):
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # the refusal says so
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        inspection = inspect(path, kind) if kind != "unknown" else None
        if kind == "unknown" or _is_damage(error, inspection):
            damage = "" if kind == "unknown" else "it is cut off or damaged, "
            reason = _first_line(error) or type(error).__name__
            raise UserError(f"{path} is no checkpoint: {damage}{reason}. Try: ls -l {for_shell(path)}") from error
        if inspection and inspection.has_lost_tensors:
            raise UserError(
                f"{path} is a pickle of protocol 0, in which torch.save writes tensors so that torch cannot read them. "
                f"Try: save the content again where it is in memory, torch.save(net.state_dict(), FILE)"
            ) from error
        needed = re.search(r"GLOBAL (\S+)|(?:class|global|type) ([\w.]+\.\w+)", str(error))
        name = (needed[1] or needed[2]).rstrip(".") if needed else inspection.needed if inspection else ""
        if inspection and inspection.network:
            reason = f"holds a whole network ({printable(inspection.network)}) instead of its state"
        elif name or inspection is None or inspection.protocol in (2, 3):
            reason = "contains more than tensors" + (f" (it needs {printable(name)})" if name else "")
        else:
            protocol = inspection.protocol or "0 or 1"
            reason = f"is a pickle of protocol {protocol}, which torch reads only with its code"
        return _trusted(path, kind, reason, error, inspection is not None and bool(inspection.network))


_REASONS = {
    "torchscript": "holds a TorchScript program instead of a state",
    "tar": "is a tar archive of an early version of torch, which torch reads only with its code",
}


def _is_damage(error: Exception, inspection: Inspection | None) -> bool:
    """Return whether an error of the safe reader comes from a file that is cut off or damaged."""
    if inspection is not None and not inspection.is_whole:
        return True
    is_refusal = isinstance(error, pickle.UnpicklingError)
    return not is_refusal and (inspection is None or isinstance(error, RuntimeError | EOFError | OSError))


def _trusted(path: Path, kind: Kind, reason: str, error: Exception | None, is_network: bool = False) -> Any:
    """Read a file with its code if the user trusts this very file, since the code can do anything.

    reason: why the file is not read without its code.
    is_network: whether the file holds a whole network.
    Raises UserError if the file's sha256 is not in $ROBHARNESS_TRUST, or if its code cannot be imported.
    """
    digest = file_digest(path)
    if digest in os.environ.get("ROBHARNESS_TRUST", "").split(","):
        try:
            with path.open("rb") as file:
                if kind == "torchscript":
                    return with_states(torch.jit.load(file, map_location="cpu"))  # type: ignore[no-untyped-call]
                return with_states(torch.load(file, map_location="cpu", weights_only=False))
        except Exception as problem:
            raise UserError(
                f"{path} is trusted, but it cannot be read: {type(problem).__name__}: {_sentence(problem)}. "
                f"Try: save the state alone where that code is, torch.save(net.state_dict(), FILE)"
            ) from problem
    pickled = "such a program" if kind == "torchscript" else "such a pickle"
    save = " Try: save the state alone where its code is, torch.save(net.state_dict(), FILE)." if is_network else ""
    raise UserError(
        f"{path} {reason}, and {pickled} can run any code.{save} If you trust the authors of the file with sha256 "
        f"{digest}, add: {TRUST} {digest}"
    ) from error


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path} needs the package safetensors. Try: pip install safetensors") from None
    try:
        return dict(load_file(path))
    except Exception as error:
        raise UserError(
            f"{path} is no checkpoint: it is a safetensors file that is cut off or damaged, {_sentence(error)}. "
            f"Try: ls -l {for_shell(path)}"
        ) from error


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _first_line(error: Exception) -> str:
    """Return the first sentence of an error, without torch's advice to run the code in the file."""
    return re.split(r"[\n.(]", str(error) or type(error).__name__)[0].strip()
