"""Digest of a network's state."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def state_digest(net: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted([*net.named_parameters(), *net.named_buffers()], key=lambda item: item[0]):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
