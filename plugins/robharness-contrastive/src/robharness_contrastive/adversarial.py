"""Objectives of adversarial contrastive training: RoCL, ACL and DynACL, with or without removal of false negatives.

Each attacks the views of a batch so that its contrastive loss rises, then trains on clean and adversarial views. With
removal they are the augmented forms A-RoCL and A-ACL: the negatives that an anchor loses are chosen once per batch, on
clean views, and are missing in the attack's loss as well as in the training's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robharness_contrastive import dual, losses, options, processes
from robharness_contrastive.attack import attack
from robharness_contrastive.contrast import Contrast, Removed, split_reserve
from robharness_contrastive.networks import BatchNormHead, evaluating, mlp
from robharness_contrastive.objectives import Loss, Objective, spread, unit

if TYPE_CHECKING:
    from robharness_contrastive.objectives import Context, TrainingStep


class OneSidedContrast(Contrast):
    """A contrastive loss whose gradients reach anchors alone, and no candidates, as in RoCL's code."""

    def loss(
        self, z: Tensor, labels: Tensor, removed: Removed, *, views: Sequence[int] = (0, 1),
        reserve: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        reserve = None if reserve is None else reserve.detach()
        return super().loss(z, labels, removed, views=views, reserve=reserve)

    def _pairs(self, z: Tensor, labels: Tensor, views: int) -> tuple[Tensor, losses.Pairs, Tensor]:
        _, pairs, is_same_class = super()._pairs(z.detach(), labels, views)
        candidates = torch.cat([processes.gather(part.detach()) for part in z.chunk(views)])
        return losses.products(z, candidates) / self.temperature, pairs, is_same_class


class RoCL(Objective):
    """RoCL: contrast of two clean views and an adversarial one. Source: Kim et al. 2020 (RoCL at b6d5185).

    The attack moves the first view away from the second. The loss is the mean over the 3 B rows of the sum of a row's
    two positive terms, plus `weight` times NT-Xent of the adversarial and the second view, which have a forward pass of
    their own. Images of the reserve are not attacked: an adversarial view has the same substitutes as its clean one.
    """

    projection: nn.Module

    def __init__(self, params: options.RoCL, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        self.projection = mlp(width, *params.projection)
        kind = OneSidedContrast if params.detached else Contrast
        self.contrast = kind(
            params.temperature, params.removal, context.classes, context=context, width=params.projection[1]
        )
        self.reserve = self.contrast.reserve
        parts = [losses.bounds(views * context.batch, views - 1, params.temperature) for views in (3, 2)]
        self.start, self.floor = (2 * three + params.weight * two for three, two in zip(*parts, strict=True))

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        first, second = views
        labels, spare_labels = split_reserve(labels, self.reserve)
        size, networks = len(labels), (encode, self.projection)
        with evaluating(*networks), torch.no_grad():  # the attack changes neither the second view nor the reserve
            clean, spare = split_reserve(self._embed(encode, views), self.reserve, 2)
            removed = self.contrast.choose(clean, labels, step, reserve=spare_labels)
            target = clean[size:]
        torch.clear_autocast_cache()  # before PyTorch 2.11, weights that were converted above would get no gradient

        def loss(moved: Sequence[Tensor]) -> Tensor:
            return self.contrast.loss(torch.cat([self._embed(encode, moved), target]), labels, removed, reserve=spare)

        found = attack(loss, [first[:size]], self.options, step, networks)
        (moved,) = found.views
        pair, spare_pair = split_reserve(self._embed(encode, [moved, first[size:], second]), self.reserve, 2)
        regulariser = self.contrast.loss(pair, labels, removed, reserve=spare_pair).mean()
        z = self._embed(encode, [first, second, moved])
        clean, spare_three = split_reserve(z[:-size], self.reserve, 2)
        if spare_three is not None:
            spare_three = torch.cat([spare_three, spare_three.chunk(2)[0]])
        z = torch.cat([clean, z[-size:]])
        main = 2 * self.contrast.loss(z, labels, removed, views=(0, 1, 0), reserve=spare_three).mean()
        self.contrast.remember(clean)
        parts = {"loss_views": main.detach(), "loss_adversarial": regulariser.detach()}
        value = main + self.options.weight * regulariser
        return Loss(value, {**parts, **found.notes, **removed.notes, "spread": spread(z)})

    def _embed(self, encode: nn.Module, views: Sequence[Tensor]) -> Tensor:
        return unit(self.projection(encode(torch.cat(list(views)))))


class ACL(Objective):
    """ACL with two streams: contrast of clean views, and of adversarial views. Source: Jiang et al. 2020.

    Every BatchNorm has a branch for either stream. The attack moves both views at once, in the adversarial branch; it
    moves images of the reserve as well, which are candidates of that stream. The loss is half of the sum of both
    streams. The code is that of VITA-Group/Adversarial-Contrastive-Learning at 399eabd.
    """

    projection: nn.Module

    def __init__(self, params: options.ACL, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        widths = params.projection or (width,) * 3
        self.projection = dual.with_branches(BatchNormHead(width, widths))
        clean, adversarial = (
            Contrast(params.temperature, params.removal, context.classes, context=context, width=widths[-1])
            for _ in range(2)
        )
        self.clean, self.adversarial = clean, adversarial  # each with a queue of its own
        self.reserve = clean.reserve
        self.start, self.floor = losses.bounds(2 * context.batch, 1, params.temperature)

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        networks = self.networks(encode)
        labels, spare_labels = split_reserve(labels, self.reserve)
        with dual.using(dual.CLEAN, *networks):
            z, spare = split_reserve(self.embed(encode, views), self.reserve, 2)
        removed = self.clean.choose(z, labels, step, reserve=spare_labels)

        def loss(moved: Sequence[Tensor]) -> Tensor:
            z, spare = split_reserve(self.embed(encode, moved), self.reserve, 2)
            return self.adversarial.loss(z, labels, removed, reserve=spare)

        with dual.using(dual.ADVERSARIAL, *networks):
            found = attack(loss, views, self.options, step, networks)
            moved, moved_spare = split_reserve(self.embed(encode, found.views), self.reserve, 2)
        streams = [
            self.clean.loss(z, labels, removed, reserve=spare).mean(),
            self.adversarial.loss(moved, labels, removed, reserve=moved_spare).mean(),
        ]
        self.clean.remember(z), self.adversarial.remember(moved)
        weight = self.weight(step.epoch)
        value = ((2 - weight) * streams[0] + weight * streams[1]) / 2
        parts = {"loss_clean": streams[0].detach(), "loss_adversarial": streams[1].detach()}
        return Loss(value, {**parts, **found.notes, **removed.notes, "spread": spread(z)})

    def weight(self, epoch: int) -> float:
        """Return the weight of the adversarial stream in an epoch, from 0; that of the clean one is 2 minus it."""
        return 1.0

    def networks(self, encode: nn.Module) -> tuple[nn.Module, ...]:
        """Return the networks that embed views."""
        return encode, self.projection

    def embed(self, encode: nn.Module, views: Sequence[Tensor]) -> Tensor:
        """Return unit projections of two views, (2 B, d)."""
        return unit(self.projection(encode(torch.cat(list(views)))))


class DynACL(ACL):
    """DynACL: ACL with weaker and weaker augmentation, and a momentum encoder. Source: Luo et al. 2023.

    The momentum encoder embeds the second view and is the encoder that is kept. Its weights follow before each step of
    the optimiser. The weight of the adversarial stream rises while augmentation weakens.
    The code is train_DynACL.py of PKU-ML/DYNACL at 7d143db.
    """

    def __init__(self, params: options.DynACL, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        self.period = params.epochs_of_period(context.epochs)
        self.keys: nn.Sequential

    def begin(self, encoder: nn.Module) -> None:
        """Copy the encoder and the projection to the momentum encoder."""
        own = nn.Sequential(encoder, self.projection)
        self.keys = copy.deepcopy(own).requires_grad_(False)
        self._own = (own,)  # a tuple, since the encoder is no part of the objective

    def strength(self, epoch: int) -> float:
        return 1 - epoch // self.period * self.period / self.context.epochs

    def weight(self, epoch: int) -> float:
        passed = (epoch + 1) // self.period * self.period / self.context.epochs  # the code counts epochs from 1
        return float(min(1 + self.options.rise * passed, 2))

    def trained(self, encoder: nn.Module) -> tuple[nn.Module, nn.Module | None]:
        """Return the momentum encoder and its projection."""
        return self.keys[0], self.keys[1]

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        loss = super().forward(encode, views, labels, step)
        return Loss(loss.value, {**loss.notes, "weight": loss.value.new_full((), self.weight(step.epoch))})

    @torch.no_grad()
    def before_step(self, step: TrainingStep) -> None:
        """Move the momentum encoder towards the encoder, and leave gradients as they are."""
        for key, value in zip(self.keys.parameters(), self._own[0].parameters(), strict=True):
            key.lerp_(value, 1 - self.options.inertia)

    def networks(self, encode: nn.Module) -> tuple[nn.Module, ...]:
        return encode, self.projection, self.keys

    def embed(self, encode: nn.Module, views: Sequence[Tensor]) -> Tensor:
        first, second = views
        return unit(torch.cat([self.projection(encode(first)), self.keys(second)]))
