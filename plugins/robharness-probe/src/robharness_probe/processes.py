"""Processes that train together, as torchrun starts them: their number, and BatchNorm over all of them."""

from __future__ import annotations

import functools
import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


def world() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def summed(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradients."""
    total = values.contiguous().clone()
    dist.all_reduce(total)
    return total


def synchronised(network: M, device: torch.device) -> M:
    """Let each BatchNorm normalise by the batch of all processes, in training. Changes and returns the network.

    On GPUs, a BatchNorm becomes torch's SyncBatchNorm, which does not compute on CPUs. There, and for a subclass with a
    forward pass of its own, such as timm's `BatchNormAct2d`, torch's function of BatchNorm is replaced within the pass.
    """
    for part in network.modules() if world() > 1 else ():
        if isinstance(part, _BatchNorm):
            if device.type == "cuda" and type(part).forward is _BatchNorm.forward:
                # in place, as a network may have it twice, and with its hooks
                part.__class__, part.process_group = nn.SyncBatchNorm, None  # type: ignore[assignment]
            elif device.type != "cuda" or not isinstance(part, nn.SyncBatchNorm):
                kind = _BatchNormOfAnyShape if isinstance(part, nn.SyncBatchNorm) else type(part)
                part.__class__ = _synchronised_class(kind)  # type: ignore[arg-type]
    return network


class _BatchNormOfAnyShape(_BatchNorm):
    """A BatchNorm in place of torch's SyncBatchNorm, which takes inputs of any number of axes."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Take inputs of any shape (N, C, ...)."""


@functools.cache
def _synchronised_class(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    class Synchronised(kind):  # type: ignore[misc, valid-type]
        """A BatchNorm that normalises by the batch of all processes in training."""

        def forward(self, x: Tensor) -> Any:
            if not self.training:
                return super().forward(x)
            with _BatchesOfAllProcesses():
                return super().forward(x)

    return Synchronised


class _BatchesOfAllProcesses(TorchFunctionMode):
    """A mode in which torch's function of BatchNorm computes the statistics of all processes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if function is F.batch_norm else function)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise as `torch.nn.functional.batch_norm` would normalise the inputs of all processes together.

    x: (N, C, ...) inputs of this process.
    The other parameters are those of torch's function.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = summed(torch.tensor(x.numel() // x.shape[1], dtype=wide.dtype, device=x.device))  # parts may be unequal
    mean = _Sum.apply(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
        running_var.lerp_((variance.detach() * count / (count - 1)).to(running_var.dtype), momentum)
    normalised: Tensor = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normalised = normalised * weight.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)
