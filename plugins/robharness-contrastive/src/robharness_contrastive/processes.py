"""Processes that train together, as torchrun starts them: their number, rows that they share, and their BatchNorm."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robharness_contrastive.dual import replace_parts

M = TypeVar("M", bound=nn.Module)


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


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
        return _summed(gradients[0]).chunk(world())[rank()]


def of_first(values: Tensor) -> Tensor:
    """Return the first process's values, of a shape that all processes have."""
    if world() == 1:
        return values
    copy = values.contiguous().clone()
    dist.broadcast(copy, 0)
    return copy


def synchronised(network: M, device: torch.device) -> M:
    """Let each BatchNorm normalise by the batch of all processes, in training. Changes and returns the network."""
    if world() == 1:
        return network
    if device.type == "cuda":
        converted: M = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    return replace_parts(network, _BatchNorm, _SyncBatchNorm.of)


class _SyncBatchNorm(_BatchNorm):
    """A BatchNorm over all processes for the CPU, where torch's does not compute."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> _SyncBatchNorm:
        """Make one that shares the weights and statistics of another BatchNorm."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers = norm._parameters, norm._buffers
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = _summed(torch.tensor(x.numel() // x.shape[1], dtype=wide.dtype))  # processes may have unequal parts
        mean = _Sum.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normalised: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    def _check_input_dim(self, x: Tensor) -> None:
        """Take inputs of any shape (N, C, ...)."""

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch; without momentum they are means over all batches."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    total = values.contiguous().clone()
    dist.all_reduce(total)
    return total
