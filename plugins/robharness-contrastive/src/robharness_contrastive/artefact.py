"""Files of a training in its folder: those of `robharness_probe.artefact`, and TensorBoard's events."""

from __future__ import annotations

from pathlib import Path

from robharness import UserError
from robharness_probe.artefact import (
    CHECKPOINT,
    METRICS,
    WEIGHTS,
    finish,
    log,
    log_once,
    resume,
    rewind,
    save_checkpoint,
)

__all__ = [
    "CHECKPOINT",
    "METRICS",
    "TENSORBOARD",
    "WEIGHTS",
    "finish",
    "log",
    "log_once",
    "resume",
    "rewind",
    "save_checkpoint",
    "write_tensorboard",
]

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event files, if the recipe asks for them."""


def write_tensorboard(folder: Path, stage: str, epoch: int, values: dict[str, float]) -> None:
    """Write values of an epoch as TensorBoard's events. Raises UserError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("`tensorboard: true` needs the package tensorboard. Try: pip install tensorboard") from None
    with SummaryWriter(str(folder / TENSORBOARD)) as writer:
        for name, value in values.items():
            writer.add_scalar(f"{stage}/{name}", value, epoch)
