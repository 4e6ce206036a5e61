"""The model as the peers want it: a torch.nn.Module that autograd goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robharness import Classifier


class Network(nn.Module):
    """Maps (N, *shape) to logits (N, classes) by the classifier's passes alone, which are counted and of one shape.

    like: a batch's inputs; what comes in is brought to their type. Trade-off: a gradient makes its forward pass a
    second time, since the classifier gives a gradient only together with the objective, and autograd hands that on
    only after the logits are known.
    """

    def __init__(self, model: Classifier, like: Tensor) -> None:
        super().__init__()
        self._pass = model  # no module, so that nobody finds the network's parameters or moves them
        self._like = like
        self.marker = nn.Parameter(like.new_zeros(()), requires_grad=False)  # tells the device to those who ask
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = _Logits.apply(x.to(self._like), self._pass)
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
        """The gradient of the weighted sum of each row's logits."""
        (x,) = ctx.saved_tensors
        return ctx.model.gradient(x, weights, lambda logits, weights: (logits * weights).sum(1)).gradient, None
