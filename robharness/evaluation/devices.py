"""Devices and the state of torch in this process."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version

import torch

from robharness.errors import UserError, did_you_mean
from robharness.imports import MKL_MODE


def checked_device(device: str, local_cuda: Callable[[int], str]) -> str:
    """Return the device, with the index of this process's own GPU if it is a plain "cuda".

    device: as torch names it, e.g. "cuda:1".
    local_cuda: the number of GPUs -> the name of this process's own.
    Raises UserError, with the devices that torch has, for any other device.
    """
    try:
        found = torch.device(device if re.fullmatch(r"[a-z]+(:[0-9]+)?", device) else "")
        if found.type not in ("cpu", "cuda", "mps", "xpu") and not hasattr(torch, found.type):
            raise RuntimeError  # torch knows the name alone
        if found.type == "meta" or (found.type == "cpu" and found.index is not None):
            raise RuntimeError
        if found.type != "cuda" or not torch.cuda.is_available():
            torch.empty(0, device=found)
            return device
        count = torch.cuda.device_count()  # without a context on the device, which would cost its memory
        if (found.index or 0) >= count:
            raise RuntimeError(f"this machine has {count} GPUs, counted from 0")
        return local_cuda(count) if found.index is None else device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        available = available_devices()
        why = str(error).partition(". ")[0].splitlines()[0].rstrip(".") if device.startswith("cuda") else ""
        why = f" ({why})" if why and "Device string" not in why else ""
        near = _did_you_mean(device, available) or "."
        raise UserError(
            f"the device '{device}' is not available: torch finds {', '.join(available)} here{why}{near} "
            f"Try: {available[-1]}"
        ) from None


_OTHER_NAMES = {"gpu": ("cuda", "mps", "xpu"), "nvidia": ("cuda",), "apple": ("mps",), "metal": ("mps",)}
"""Names of devices in other programs -> those that torch may have for them."""


def available_devices() -> list[str]:
    """Return the devices of this machine by the names that torch has for them, the processor first."""
    found = [
        "cpu",
        *(f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)),
    ]
    found += [kind for kind in ("mps", "xpu") if getattr(torch, kind).is_available()]
    return found


def _did_you_mean(device: str, available: Sequence[str]) -> str:
    """Return the suggestion of a device that this machine has, or an empty text."""
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in available))
    kind, _, index = device.lower().partition(":")
    if kind in _OTHER_NAMES:
        found = next((other for other in _OTHER_NAMES[kind] if other in kinds), "")
        return f"; did you mean '{found}'?" if found else ", and no GPU."
    for name in (f"{kind}:{index}", kind):
        if name != device and name in (*available, *kinds):
            return f"; did you mean '{name}'?"
    return did_you_mean(device, [*kinds, *available])


def device_name(device: str | torch.device) -> str:
    """Return the name of the hardware, e.g. "NVIDIA H100 80GB HBM3" or "x86_64"."""
    target = torch.device(device)
    return torch.cuda.get_device_name(target) if target.type == "cuda" else platform.machine() or "cpu"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute outcomes, and the mode of MKL's products."""
    versions = {name: _version(name) for name in ("robharness", "torch", "torchvision", "numpy")}
    return versions | {MKL_MODE: os.environ.get(MKL_MODE, "default")}


@cache
def _version(name: str) -> str:
    return version(name)
