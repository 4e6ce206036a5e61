"""Files of a training in its folder: weights, checkpoints, and a log of metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robharness import UserError, checkpoints, for_shell

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.pt", "metrics.jsonl", "weights.safetensors"


def finish(state: dict[str, Tensor], folder: Path) -> None:
    """Write the weights in one atomic step, then delete the checkpoints, which are not needed any more."""
    temporary = folder / f"{WEIGHTS}.writing"
    save_file(state, temporary)
    temporary.replace(folder / WEIGHTS)
    for path in folder.glob(f"*{CHECKPOINT}"):
        path.unlink()


def save_checkpoint(
    path: Path, epoch: int, learner: nn.Module, optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint in one atomic step: a crash leaves the new file or the old one.

    epoch: number of epochs that are done.
    scaler: of the loss in half precision; None if it is not scaled.
    """
    states: dict[str, Any] = {"learner": learner, "optimizer": optimizer}
    if scaler is not None:
        states["scaler"] = scaler
    temporary = path.with_suffix(".writing")
    with temporary.open("wb") as file:
        torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in states.items()}}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def resume(
    path: Path, learner: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> int:
    """Restore the states in a checkpoint. Returns the number of epochs that are done, 0 without a checkpoint.

    scaler: of the loss in half precision, as in `save_checkpoint`.

    Raises UserError for a file that is damaged, or that belongs to another training.
    """
    if not path.is_file():
        return 0
    checkpoint = checkpoints.read(path)
    try:
        epoch: int = checkpoint["epoch"]
        if type(epoch) is not int:
            raise TypeError("its epoch is no whole number")
        learner.load_state_dict(checkpoint["learner"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if scaler is not None:
            scaler.load_state_dict(checkpoint["scaler"])
    except Exception as error:  # a state that does not fit may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is no checkpoint of this training: {reason}. Try: rm {for_shell(path)}") from error
    return epoch


def log(folder: Path, line: dict[str, Any]) -> None:
    """Append a line to the log of metrics."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def log_once(folder: Path, line: dict[str, Any]) -> None:
    """Append a line unless the log has a line with the same keys, as after a resumed training."""
    if not any(line.keys() == logged.keys() for logged in _lines(folder)):
        log(folder, line)


def rewind(folder: Path, stage: str, epochs: int) -> None:
    """Delete the log's lines about later epochs of a stage, which will be trained again, and all lines after them."""
    lines = []
    for line in _lines(folder):
        if (line.get("stage") == stage and line["epoch"] > epochs) or "held_out" in line:
            break
        lines.append(line)
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / METRICS
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return  # a line that was cut off by a crash
        if not isinstance(found, dict):
            return
        yield found
