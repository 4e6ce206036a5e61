"""Devices, processes and precision of a training, as Lightning Fabric's."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision


def fabric(device: str, precision: str) -> Fabric:
    """Return a Fabric that is launched, on a device and for all processes that torchrun started.

    device: as torch names it.
    precision: "32-true" or another name of Fabric's. Those that end with "-mixed" hold on every device, also "16-mixed"
        on a CPU.
    """
    kind, _, index = device.partition(":")
    kind = "cuda" if kind == "cuda" else "cpu"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    mixed: Any = [_Mixed(precision, kind)] if precision.endswith("-mixed") else []  # type: ignore[arg-type]
    made = Fabric(
        accelerator=kind,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes > 1 else [int(index)] if index else 1,
        num_nodes=processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if processes > 1 else 1,
        strategy="ddp" if processes > 1 else "auto",
        precision=None if mixed else precision,  # type: ignore[arg-type]
        plugins=mixed,
    )
    made.launch()
    return made


def scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """Return the scaler of losses in half precision, None for other precisions."""
    precision = fabric.strategy.precision
    return precision.scaler if isinstance(precision, MixedPrecision) else None


class _Mixed(MixedPrecision):
    """Mixed precision that leaves inputs in float32. Half precision would round pixels and the steps of attacks."""

    def convert_input(self, data: Any) -> Any:
        return data
