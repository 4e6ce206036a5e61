"""Processes that train together, as torchrun starts them: their number, and rows that they share."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes in order; each has the same number. Gradients flow back to their process."""
    all_rows: Tensor = rows if world() == 1 else _Gather.apply(rows)
    return all_rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of all processes' gradients with respect to this process's rows."""
        return _summed(gradients[0]).chunk(world())[rank()]


def shared(rows: Tensor) -> Tensor:
    """Return rows that every process has, unchanged. Their gradient becomes the sum of all processes' gradients."""
    same: Tensor = rows if world() == 1 else _Shared.apply(rows)
    return same


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of all processes' gradients."""
        return _summed(gradient)


def _summed(gradient: Tensor) -> Tensor:
    total = gradient.contiguous().clone()
    dist.all_reduce(total)
    return total
