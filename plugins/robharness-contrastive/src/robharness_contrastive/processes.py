"""Rows that processes share, which train together as torchrun starts them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from robharness_probe.processes import rank, summed, synchronised, world

__all__ = ["gather", "of_first", "own", "rank", "synchronised", "world"]


def own(total: int, process: int | None = None) -> slice:
    """Return the part of rows that a process has, this one by default. Lengths of parts differ by at most 1."""
    number = rank() if process is None else process
    return slice(total * number // world(), total * (number + 1) // world())


def gather(rows: Tensor, total: int | None = None) -> Tensor:
    """Return the rows of all processes in order. Gradients flow back to their process.

    total: number of rows of all processes, which have parts as `own` gives them; None if these are equally long.
    """
    if world() == 1:
        return rows
    if total is None:
        all_rows: Tensor = _Gather.apply(rows)
        return all_rows
    size, parts = -(-total // world()), [own(total, process) for process in range(world())]
    padded = torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
    found = gather(padded).split(size)
    return torch.cat([each[: part.stop - part.start] for each, part in zip(found, parts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of all processes' gradients with respect to this process's rows."""
        return summed(gradients[0]).chunk(world())[rank()]


def of_first(values: Tensor) -> Tensor:
    """Return the first process's values, of a shape that all processes have."""
    if world() == 1:
        return values
    copy = values.contiguous().clone()
    dist.broadcast(copy, 0)
    return copy
