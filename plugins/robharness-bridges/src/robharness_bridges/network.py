"""The classifier as a differentiable torch.nn.Module, which the wrapped libraries require."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robharness import Classifier


def as_images(x: Tensor) -> Tensor:
    """Return videos, (N, C, T, H, W), as images with their frames below each other, (N, C, T * H, W); images as is.

    Several attacks take images only. The values, the number of channels and all norms stay the same. An attack that
    treats every pixel alike therefore gives the same result in both shapes. The result is contiguous, since libraries
    call `view`; decoded videos have their channels last in memory.
    """
    return (x.flatten(2, 3) if x.ndim == 5 else x).contiguous()


class Network(nn.Module):
    """Module that maps inputs, as `as_images` returns them, to logits (N, classes) by the classifier's counted passes.

    Trade-off: each gradient runs its forward pass a second time. The classifier computes a gradient only together with
    the objective, and autograd provides the objective's weights only after the forward pass.

    model: the classifier.
    like: inputs of a batch, (N, *shape); inputs of a pass are converted to their shape, type and device.
    """

    def __init__(self, model: Classifier, like: Tensor) -> None:
        super().__init__()
        self._classifier = model  # not a submodule, so that libraries neither find nor move the network's parameters
        self._like = like
        self.device_marker = nn.Parameter(like.new_zeros(()), requires_grad=False)  # libraries read the device from it
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = _Logits.apply(x.to(self._like).reshape(-1, *self._like.shape[1:]), self._classifier)
        return logits


class _Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Classifier) -> Tensor:
        ctx.save_for_backward(x)
        ctx.model = model
        return model.logits(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of each row's weighted sum of logits."""
        (x,) = ctx.saved_tensors
        return ctx.model.gradient(x, weights, lambda logits, weights: (logits * weights).sum(1)).gradient, None
