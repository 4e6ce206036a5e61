"""Tensors: plain ones, equal ones, copies, memory formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def apart(chunk: Tensor, x: Tensor) -> Tensor:
    """Return the chunk, or a copy if it is a view of x, so that nothing that a network writes reaches x."""
    return chunk.clone() if chunk.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else chunk


def other_than_plain(value: Any) -> str | None:
    """Return a description of a value that is no plain, dense, strided, real tensor, or None if it is one.

    Subclasses are refused, since they can answer for their own shape and values.
    """
    if type(value) not in (Tensor, nn.Parameter):
        return type(value).__name__
    if value.is_quantized:
        return "a quantised tensor"
    if value.layout is not torch.strided or value.is_nested:
        return f"a tensor of layout {'nested' if value.is_nested else str(value.layout).removeprefix('torch.')}"
    return "a complex tensor" if value.is_complex() else None


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same type, device, shape and values; NaN equals NaN."""
    if (a.dtype, a.device, a.shape) != (b.dtype, b.device, b.shape):
        return False
    if torch.equal(a, b):
        return True
    return a.is_floating_point() and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def with_memory_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return the same values with exactly the strides of this memory format.

    `Tensor.contiguous` keeps the strides of a tensor with one channel, and kernels are chosen by strides: a padded pass
    would get other last bits than a full one.
    """
    wanted = torch.empty_like(x, device="meta", memory_format=memory_format).stride()
    if x.stride() == wanted:
        return x
    return torch.empty_like(x, memory_format=memory_format).copy_(x)


def memory_formats(device: torch.device, *, low: bool) -> dict[int, torch.memory_format]:
    """Return the memory format by number of axes: 4 for images, 5 for videos; others stay contiguous.

    low: whether gradients have low precision.
    Channels last is faster for convolutions on a CPU, and for images in low precision or TF32 on a GPU. In float32 on
    an H100, ResNet-50's passes take 1.28 times longer with channels last. On two CPU cores, R(2+1)D-18's passes take
    0.66 of the time, its gradients 0.84.
    """
    if device.type == "cpu":
        return {4: torch.channels_last, 5: torch.channels_last_3d}
    return {4: torch.channels_last} if low or torch.backends.cudnn.allow_tf32 else {}
