"""Training of a network of an encoder and a linear head on batches of images, clean or attacked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness_probe.fitting import set_rate

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Number of the epoch, from 0 -> images, float32 (B, *shape) in [0, 1], and labels (B,), on the network's device."""
Rate = Callable[[int, int], float]
"""(number of the epoch, number of the step in it, both from 0) -> learning rate."""


def descend(
    net: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: range,
    rate: Rate,
    tunes_encoder: bool,
    attack: Callable[[nn.Module, Tensor, Tensor, int], Tensor] | None = None,
    forward: nn.Module | None = None,
    after_step: Callable[[int, int, Tensor], None] = lambda epoch, images, loss: None,
    after_epoch: Callable[[int], None] = lambda done: None,
) -> None:
    """Minimise the cross-entropy of a network, of which only the head is trained unless `tunes_encoder`.

    net: has the parts `encoder` and `head`. A frozen encoder stays in eval mode.
    epochs: that are trained.
    attack: (network, images, labels, epoch) -> images that replace them.
    forward: the same network as processes share it; `net` by default.
    after_step: gets the epoch, the number of images of the step, and its loss.
    after_epoch: gets the number of epochs that are done.
    """
    encoder: nn.Module = net.encoder  # type: ignore[assignment]
    encoder.requires_grad_(tunes_encoder)
    for epoch in epochs:
        for number, (images, labels) in enumerate(batches(epoch)):
            set_rate(optimizer, rate(epoch, number))
            net.train(tunes_encoder)
            x = images if attack is None else attack(net, images, labels, epoch)
            loss = F.cross_entropy((forward or net)(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step(epoch, len(labels), loss.detach())
        after_epoch(epoch + 1)
    encoder.requires_grad_(True)


def pgd(
    net: nn.Module, x: Tensor, labels: Tensor, *, eps: float, step: float, steps: int, rng: np.random.Generator
) -> Tensor:
    """Attack images in [0, 1] by PGD on the cross-entropy under linf, from a random start.

    eps: radius of the ball.
    step: change of a pixel per step.
    rng: draws the start.
    """
    start = torch.from_numpy(rng.uniform(-eps, eps, x.shape).astype(np.float32))
    adversarial = (x + start.to(x.device)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(adversarial), labels, reduction="sum"), adversarial)
        stepped = adversarial.detach() + step * gradient.sign()
        adversarial = (x + (stepped - x).clamp(-eps, eps)).clamp(0, 1)
    return adversarial.detach()
