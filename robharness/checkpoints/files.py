"""Reading of checkpoint files: by their content, and without running code that a pickle may hold."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from robharness.checkpoints import archives, safetensor_files
from robharness.checkpoints.bounds import Damaged, Unfit
from robharness.checkpoints.choice import chosen
from robharness.checkpoints.contents import plain
from robharness.checkpoints.formats import Kind, recognise
from robharness.checkpoints.pickles import inspect
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
        if found.refusal:
            raise UserError(f"{path} is no checkpoint: {found.refusal}")
        content = _safetensors(path) if found.kind == "safetensors" else _torch(path, found.kind, allow)
    except OSError as error:
        raise UserError(f"{path} is no checkpoint: {error.strerror or error}. Try: ls -l {for_shell(path)}") from error
    except Unfit as error:
        kind = "is no checkpoint" if isinstance(error, Damaged) else "is not read"
        remedy = error.remedy or f"ls -l {for_shell(path)}"
        raise UserError(f"{path} {kind}: {error}. Try: {remedy}") from error
    return chosen(path, content)


def _torch(path: Path, kind: Kind, allow: Sequence[Any]) -> Any:
    """Read a torch archive without running its code, or with its code if the user trusts this very file."""
    if kind == "torchscript":
        with archives.opened(path) as archive:
            archives.require_sound(path, archive, is_script=True)
            archives.require_checksums(archive)
    if kind in ("torchscript", "tar"):  # which torch reads with their code only
        return _trusted(path, kind, _REASONS[kind])
    if kind == "unknown":
        raise UserError(f"{path} is no checkpoint: its format is not known. Try: ls -l {for_shell(path)}")
    with torch.serialization.safe_globals(list(allow)):
        allowed = {_global_name(each) for each in torch.serialization.get_safe_globals()}
        found = inspect(path, kind, allowed)
        if found.has_lost_tensors:
            raise UserError(
                f"{path} is a pickle of protocol 0, in which torch.save writes tensors so that torch cannot read them. "
                f"Try: save the content again where it is in memory, torch.save(net.state_dict(), FILE)"
            )
        if not found.network and not found.needed and found.protocol in (2, 3):
            return _without_code(path)
    if found.network:
        reason = f"holds a whole network ({printable(found.network)}) instead of its state"
    elif found.needed:
        reason = f"contains more than tensors (it needs {printable(found.needed)})"
    else:
        reason = f"is a pickle of protocol {found.protocol or '0 or 1'}, which torch reads only with its code"
    return _trusted(path, kind, reason, is_network=bool(found.network))


def _global_name(each: Any) -> str:
    return str(each[1]) if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}"


def _without_code(path: Path) -> Any:
    """Read an archive that is inspected. Raises Unfit if torch does not read it all the same."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:  # torch reads a path by its suffix
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return plain(torch.load(file, map_location="cpu", weights_only=True))
    except Unfit:
        raise
    except Exception as error:  # torch raises anything for a pickle that it did not write
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        raise Unfit(f"torch does not read it, {reason[1].rstrip(' .') if reason else _sentence(error)}") from error


_REASONS = {
    "torchscript": "holds a TorchScript program instead of a state",
    "tar": "is a tar archive of an early version of torch, which torch reads only with its code",
}


def _trusted(path: Path, kind: Kind, reason: str, *, is_network: bool = False) -> Any:
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
                    return plain(torch.jit.load(file, map_location="cpu"))  # type: ignore[no-untyped-call]
                return plain(torch.load(file, map_location="cpu", weights_only=False))
        except Unfit:
            raise
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
    )


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensor_files.read(path)
    except ImportError:
        raise UserError(f"{path} needs the package safetensors. Try: pip install safetensors") from None


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
