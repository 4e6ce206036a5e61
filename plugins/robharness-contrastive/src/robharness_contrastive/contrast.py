"""The contrastive loss of a batch's projections: which negatives are removed, what replaces them, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robharness_contrastive import losses, processes, removal, replacement
from robharness_contrastive.removal import Removal

if TYPE_CHECKING:
    from robharness_contrastive.objectives import Context, TrainingStep


class Removed(NamedTuple):
    """The negatives that the anchors of a batch lose.

    mask: (views x B, views x all instances) bool, view by view; None if none is removed.
    notes: how many an anchor loses on average, for the log.
    views: number of views.
    usable: (views x B, R) bool, the images of the reserve that may replace an anchor's; None for all.
    """

    mask: Tensor | None
    notes: dict[str, Tensor]
    views: int = 2
    usable: Tensor | None = None

    def between(self, views: Sequence[int]) -> Tensor | None:
        """Return the mask for projections whose i-th part is made of the view `views[i]`.

        An adversarial view is made of a clean one, and loses the same negatives.
        """
        if self.mask is None or list(views) == list(range(self.views)):
            return self.mask
        rows = torch.cat([self.mask.chunk(self.views)[view] for view in views])
        return torch.cat([rows.chunk(self.views, 1)[view] for view in views], 1)

    def usable_between(self, views: Sequence[int]) -> Tensor | None:
        """Return `usable` for anchors whose i-th part is made of the view `views[i]`."""
        return None if self.usable is None else torch.cat([self.usable.chunk(self.views)[view] for view in views])


def split_reserve(rows: Tensor, reserve: int, parts: int = 1) -> tuple[Tensor, Tensor | None]:
    """Split rows of this process into those of the batch and those of its part R of the reserve, each part by part.

    rows: (parts x (B + R), ...), part by part: in each, B rows of the batch and then R of the reserve, e.g. the
        projections of all views, or the labels.
    reserve: number of examples in the reserve of all processes, `Objective.reserve`.
    parts: such as views.

    Returns (parts x B, ...) and (parts x R, ...). The latter is None if there is no reserve.
    """
    if not reserve:
        return rows, None
    part = processes.own(reserve)
    each, size = rows.chunk(parts), len(rows) // parts - (part.stop - part.start)
    return torch.cat([rows[:size] for rows in each]), torch.cat([rows[size:] for rows in each])


class Contrast(nn.Module):
    """NT-Xent, with or without removal of false negatives, or SupCon.

    All projections are unit rows (views x B, d) of this process's B images, view by view. Candidates are the rows of
    all processes.

    A step with removal and replacement does the following. `choose` gets the projections of the batch and decides on
    what is removed, once. `loss` is called any number of times, also inside an attack and for other views of the same
    images. `remember` is called once, after the last `loss`.

    With `replace: oversample`, the objective says `self.reserve = contrast.reserve`. The loop then appends so many
    images to every view and to the labels, and `split_reserve` separates their projections from those of the batch.
    They are candidates and never anchors. Each part of `loss` needs projections of the reserve, `loss(..., views=(0,
    1), reserve=z)`; a network in eval mode, as in an attack, makes its own. Processes share the reserve, as they share
    the batch. With `replace: queue`, `loss` takes the
    rows of the queue itself, for an adversarial part those of its clean view.

    temperature: of the softmax over cosines.
    removal: of false negatives.
    n_classes: of the data, for the frequency prior.
    classes: True for SupCon, whose positives are all examples of the anchor's class.
    context: facts about the training; needed for the replacements "oversample" and "queue".
    width: of the projections; needed for "queue".
    views: number of views; needed for "queue".
    false_negatives: share of every anchor's negatives that are false, see `options.SimCLR`; needs removal "none".

    reserve: number of images that a step needs beside its batch, over all processes.
    """

    queue: Tensor
    filled: Tensor

    def __init__(
        self, temperature: float, removal: Removal, n_classes: int, *, classes: bool = False,
        context: Context | None = None, width: int = 0, views: int = 2,
        false_negatives: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature, self.removal, self.n_classes, self.classes = temperature, removal, n_classes, classes
        if context is None and removal.replace in ("oversample", "queue"):
            raise ValueError(f"`replace: {removal.replace}` needs the context of the training")
        spare = removal.spare(context.epochs, context.batch, n_classes) if context is not None else 0
        self.false_negatives = false_negatives
        self.reserve = spare if removal.replace == "oversample" else 0
        if removal.replace == "queue":
            self.register_buffer("queue", torch.zeros(views, spare, width))
            self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def choose(
        self, z: Tensor, labels: Tensor, step: TrainingStep, *, views: int = 2, reserve: Tensor | None = None
    ) -> Removed:
        """Return the negatives that the anchors lose in this step. Their gradient is not used.

        labels: (B,) classes, which only the oracle and the notes use.
        reserve: (R,) classes of this process's part of the reserve, with which the oracle replaces negatives by those
            of other classes.
        """
        if self.removal.strategy == "none":
            return Removed(None, self._note_injected(z, labels, views), views)
        is_oracle, usable = self.removal.strategy == "oracle", None
        k = self.removal.count(step.epoch, step.epochs, step.batch, self.n_classes)
        if self.removal.is_waiting(step.epoch, step.epochs) or (k == 0 and not is_oracle):
            zero = z.new_zeros(())
            return Removed(None, {"removed": zero, "removed_false": zero}, views)
        with torch.no_grad():
            similarity, pairs, is_same_class = self._pairs(z.detach(), labels, views)
            if is_oracle:
                mask = removal.oracle(similarity, pairs.negatives, is_same_class)
                if reserve is not None:
                    usable = (labels[:, None] != processes.gather(reserve, self.reserve)[None]).repeat(views, 1)
            else:
                mask = removal.nearest(similarity, pairs.negatives, k, unit=self.removal.unit, views=views)
            rows = len(similarity)
            notes = {"removed": mask.sum() / rows, "removed_false": (mask & is_same_class).sum() / rows}
        return Removed(mask, notes, views, usable)

    def loss(
        self, z: Tensor, labels: Tensor, removed: Removed, *, views: Sequence[int] = (0, 1),
        reserve: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the loss of every anchor, (views x B,).

        A removed negative leaves a slot in its part of z. The first rows of the same part of the reserve fill an
        anchor's slots, or the newest ones of the queue. Slots that cannot be filled, since the queue is empty in the
        first step, are filled as by `reweight`. If the queue or the reserve has fewer rows, they are repeated.

        removed: from `choose`, for the clean views of this batch.
        views: the clean view of which each part of z is made, e.g. (0, 1, 0) for two clean views and an adversarial
            one of the first.
        reserve: (views x R, d) unit rows of this process's part of the reserve, part by part as z; needed for
            "oversample", and unused by others.
        """
        parts = len(views)
        similarity, pairs, is_same_class = self._pairs(z, labels, parts)
        if self.false_negatives is not None:
            return losses.contrastive(*replacement.injected(similarity, pairs, is_same_class, self.false_negatives))
        mask = removed.between(views)
        if mask is None:
            return losses.contrastive(similarity, pairs)
        if self.removal.replace == "none":
            return losses.contrastive(similarity, pairs._replace(negatives=pairs.negatives & ~mask))
        spare, usable = None, None
        if self.removal.replace == "oversample":
            if reserve is None:
                raise ValueError("`replace: oversample` needs the projections of the reserve")
            spare = torch.cat([processes.gather(part, self.reserve) for part in reserve.chunk(parts)])
            usable = removed.usable_between(views)
        elif self.removal.replace == "queue":
            spare = torch.cat([self.queue[view] for view in views]).to(z.dtype)
            usable = (torch.arange(self.queue.shape[1], device=z.device) < self.filled)[None]
        scores = None if spare is None else losses.products(z, spare) / self.temperature
        return losses.contrastive(*replacement.replaced(similarity, pairs, mask, parts, scores, usable))

    @torch.no_grad()
    def remember(self, z: Tensor, *, views: int = 2) -> None:
        """Put the projections of this batch's clean views into the queue, if there is one, for later steps.

        The newest images come first, in the order of the batch; those that do not fit into the queue are dropped.
        """
        if self.removal.replace != "queue":
            return
        newest = torch.stack([processes.gather(part) for part in z.detach().chunk(views)]).to(self.queue.dtype)
        size = self.queue.shape[1]
        self.queue = torch.cat([newest, self.queue], 1)[:, :size]
        self.filled = (self.filled + newest.shape[1]).clamp(max=size)

    @torch.no_grad()
    def cosines(self, z: Tensor, labels: Tensor, *, views: int = 2) -> dict[str, Tensor]:
        """Return mean cosines of this step's projections for the log, over all processes.

        positive: of two views of an image.
        same_class: of two images of one class, in any views; 0 if no class has two images.
        other_class: of two images of different classes, in any views; 0 if there is one class.
        """
        rows = torch.stack([processes.gather(part) for part in z.detach().chunk(views)])
        classes = processes.gather(labels)
        count = len(classes)
        images = rows.sum(0)
        products = losses.products(images, images)  # of two images, summed over their views
        is_same = classes[:, None] == classes[None]
        own, of_class, total = products.diagonal().sum(), products.where(is_same, 0).sum(), products.sum()
        n_class = is_same.sum()
        return {
            "positive": (own - rows.square().sum()) / (count * views * (views - 1)),
            "same_class": (of_class - own) / (views**2 * (n_class - count)).clamp(min=1),
            "other_class": (total - of_class) / (views**2 * (count**2 - n_class)).clamp(min=1),
        }

    @torch.no_grad()
    def _note_injected(self, z: Tensor, labels: Tensor, views: int) -> dict[str, Tensor]:
        if self.false_negatives is None:
            return {}
        _, pairs, is_same_class = self._pairs(z.detach(), labels, views)
        share = replacement.false_share(pairs.negatives, is_same_class, self.false_negatives)
        return {"injected": share.mean().to(z.dtype)}

    def _pairs(self, z: Tensor, labels: Tensor, views: int) -> tuple[Tensor, losses.Pairs, Tensor]:
        """Return cosines over the temperature, (n, m), the pairs, and whether two rows are of one class, (n, m)."""
        local = len(labels)
        candidates = torch.cat([processes.gather(part) for part in z.chunk(views)])
        classes = processes.gather(labels).repeat(views)
        total = len(classes) // views
        first = processes.rank() * local
        rows = torch.arange(first, first + local, device=z.device)  # made there, since a copy would wait for the device
        own = torch.cat([rows + view * total for view in range(views)])
        groups = classes if self.classes else torch.arange(total, device=z.device).repeat(views)
        is_same_class = classes[own][:, None] == classes[None]
        similarity = losses.products(z, candidates) / self.temperature
        return similarity, losses.pairs(groups[own], groups, own), is_same_class
