"""Devices and the state of torch in this process."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version

import torch

from robharness.errors import UserError


def checked_device(device: str, local_cuda: Callable[[int], str]) -> str:
    """Return the device, with the index of this process's own GPU if it is a plain "cuda".

    device: as torch names it, e.g. "cuda:1".
    local_cuda: the number of GPUs -> the name of this process's own.
    Raises UserError if torch does not have the device.
    """
    try:
        found = torch.device(device)
        if found.type != "cuda" or not torch.cuda.is_available():
            torch.empty(0, device=found)
            return device
        count = torch.cuda.device_count()  # without a context on the device, which would cost its memory
        if (found.index or 0) >= count:
            raise RuntimeError(f"this machine has {count} GPUs, counted from 0")
        return local_cuda(count) if found.index is None else device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device '{device}' is not available: {reason}. Try: cpu") from None


def device_name(device: str | torch.device) -> str:
    """Return the name of the hardware, e.g. "NVIDIA H100 80GB HBM3" or "x86_64"."""
    target = torch.device(device)
    return torch.cuda.get_device_name(target) if target.type == "cuda" else platform.machine() or "cpu"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute outcomes."""
    return {name: version(name) for name in ("robharness", "torch", "torchvision", "numpy")}
