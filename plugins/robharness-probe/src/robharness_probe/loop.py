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
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(network, clean images, attacked images, labels) -> the loss of a batch; without an attack, both images are equal."""
TRADES_START = 1e-3
"""Standard deviation of the normal noise from which the attack of TRADES starts."""


def descend(
    net: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: range,
    rate: Rate,
    tunes_encoder: bool,
    attack: Callable[[nn.Module, Tensor, Tensor, int], Tensor] | None = None,
    objective: nn.Module | None = None,
    after_step: Callable[[int, int, Tensor], None] = lambda epoch, images, loss: None,
    after_epoch: Callable[[int], None] = lambda done: None,
) -> None:
    """Minimise a loss of a network, of which only the head is trained unless `tunes_encoder`.

    net: has the parts `encoder` and `head`. A frozen encoder stays in eval mode.
    epochs: that are trained.
    attack: (network in eval mode, images, labels, epoch) -> attacked images.
    objective: an `Objective` of the network, perhaps as processes share it; the cross-entropy on attacked images by
        default.
    after_step: gets the epoch, the number of images of the step, and its loss.
    after_epoch: gets the number of epochs that are done.
    """
    encoder: nn.Module = net.encoder  # type: ignore[assignment]
    encoder.requires_grad_(tunes_encoder)
    objective = objective or Objective(net, cross_entropy)
    for epoch in epochs:
        for number, (images, labels) in enumerate(batches(epoch)):
            set_rate(optimizer, rate(epoch, number))
            net.eval()
            attacked = images if attack is None else attack(net, images, labels, epoch)
            net.train(tunes_encoder)
            loss = objective(images, attacked, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_step(epoch, len(labels), loss.detach())
        after_epoch(epoch + 1)
    encoder.requires_grad_(True)


# --- losses ----------------------------------------------------------------------------------------------------------


class Objective(nn.Module):
    """A network with a loss as one forward pass, since processes share the gradients of one pass.

    forward: clean images, attacked images, labels -> the loss.
    """

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.net, clean, attacked, labels)


def cross_entropy(net: nn.Module, clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of a network on attacked images."""
    return F.cross_entropy(net(attacked), labels)


def trades(beta: float) -> Loss:
    """Return the loss of TRADES, whose two passes are in this order: batch norm counts clean images, then attacked."""

    def loss(net: nn.Module, clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        return trades_loss(net(clean), net(attacked), labels, beta)

    return loss


def trades_loss(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return the mean over examples of cross-entropy(clean) + beta KL(softmax(clean) || softmax(attacked)).

    Gradients reach both logits. Source: Zhang et al., https://arxiv.org/abs/1901.08573, equation 5.

    clean, attacked: logits (B, classes) on clean and on attacked images.
    labels: (B,).
    beta: weight of the divergence; 1 / lambda of the paper.
    """
    return F.cross_entropy(clean, labels) + beta * divergence(clean, attacked) / len(labels)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Return the sum over examples of KL(softmax(clean) || softmax(attacked)), at least 0.

    clean, attacked: logits (B, classes).
    """
    return F.kl_div(F.log_softmax(attacked, 1), F.log_softmax(clean, 1), reduction="sum", log_target=True)


# --- attacks ---------------------------------------------------------------------------------------------------------


def pgd(
    net: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    rng: np.random.Generator,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Attack images in [0, 1] by PGD on the cross-entropy under linf, from a random start.

    eps: radius of the ball.
    step: change of a pixel per step.
    rng: draws the start.
    part: number of this process, and of all that share a batch equally: they start where one process does.
    """
    noise = _own(part, x, lambda shape: rng.uniform(-eps, eps, shape))
    return _ascended(
        (x + noise).clamp(0, 1), x, lambda at: F.cross_entropy(net(at), labels, reduction="sum"), eps, step, steps
    )


def trades_pgd(
    net: nn.Module,
    x: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    rng: np.random.Generator,
    part: tuple[int, int] = (0, 1),
) -> Tensor:
    """Attack images in [0, 1] by PGD on the divergence of TRADES under linf, from normal noise of `TRADES_START`.

    The parameters are those of `pgd`. Source: trades_loss of github.com/yaodongyu/TRADES, as the repositories of ACL
    and RobustSSL_Benchmark have it, with the start outside [0, 1] as well.
    """
    with torch.no_grad():
        clean = net(x)
    noise = _own(part, x, rng.standard_normal)
    return _ascended(x + TRADES_START * noise, x, lambda at: divergence(clean, net(at)), eps, step, steps)


def _own(part: tuple[int, int], x: Tensor, draw: Callable[[tuple[int, ...]], np.ndarray]) -> Tensor:
    """Draw numbers for the batch that all processes share, and return those of the images of this one."""
    number, count = part
    drawn = draw((count * len(x), *x.shape[1:]))[number * len(x) : (number + 1) * len(x)]
    return torch.from_numpy(drawn.astype(np.float32)).to(x.device)


def _ascended(
    start: Tensor, x: Tensor, loss: Callable[[Tensor], Tensor], eps: float, step: float, steps: int
) -> Tensor:
    """Return the images after steps along the sign of the gradient, each projected on the ball around x in [0, 1]."""
    attacked = start
    for _ in range(steps):
        attacked.requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(attacked), attacked)
        stepped = attacked.detach() + step * gradient.sign()
        attacked = (x + (stepped - x).clamp(-eps, eps)).clamp(0, 1)
    return attacked.detach()
