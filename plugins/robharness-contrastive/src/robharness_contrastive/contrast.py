"""The contrastive loss of a batch's projections: which pairs are negatives, which of them are removed, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from robharness_contrastive import losses, processes, removal
from robharness_contrastive.removal import Removal

if TYPE_CHECKING:
    from robharness_contrastive.objectives import TrainingStep


class Removed(NamedTuple):
    """The negatives that the anchors of a batch lose.

    mask: (views x B, views x all instances) bool, view by view; None if none is removed.
    notes: how many an anchor loses on average, for the log.
    views: number of views.
    """

    mask: Tensor | None
    notes: dict[str, Tensor]
    views: int = 2

    def between(self, views: Sequence[int]) -> Tensor | None:
        """Return the mask for projections whose i-th part is made of the view `views[i]`.

        An adversarial view is made of a clean one, and loses the same negatives.
        """
        if self.mask is None or list(views) == list(range(self.views)):
            return self.mask
        rows = torch.cat([self.mask.chunk(self.views)[view] for view in views])
        return torch.cat([rows.chunk(self.views, 1)[view] for view in views], 1)


class Contrast:
    """NT-Xent, with or without removal of false negatives, or SupCon.

    All projections are unit rows (views x B, d) of this process's B images, view by view. Candidates are the rows of
    all processes.

    temperature: of the softmax over cosines.
    removal: of false negatives.
    n_classes: of the data, for the frequency prior.
    classes: True for SupCon, whose positives are all examples of the anchor's class.
    """

    def __init__(self, temperature: float, removal: Removal, n_classes: int, *, classes: bool = False) -> None:
        self.temperature, self.removal, self.n_classes, self.classes = temperature, removal, n_classes, classes

    def choose(self, z: Tensor, labels: Tensor, step: TrainingStep, *, views: int = 2) -> Removed:
        """Return the negatives that the anchors lose in this step. Their gradient is not used.

        labels: (B,) classes, which only the oracle and the notes use.
        """
        if self.removal.strategy == "none":
            return Removed(None, {}, views)
        with torch.no_grad():
            similarity, pairs, is_same_class = self._pairs(z.detach(), labels, views)
            if self.removal.strategy == "oracle":
                mask = removal.oracle(similarity, pairs.negatives, is_same_class)
            else:
                k = self.removal.count(step.epoch, step.epochs, step.batch, self.n_classes)
                if k == 0:
                    zero = similarity.new_zeros(())
                    return Removed(None, {"removed": zero, "removed_false": zero}, views)
                mask = removal.nearest(similarity, pairs.negatives, k, unit=self.removal.unit, views=views)
            rows = len(similarity)
            notes = {"removed": mask.sum() / rows, "removed_false": (mask & is_same_class).sum() / rows}
        return Removed(mask, notes, views)

    def loss(self, z: Tensor, labels: Tensor, removed: Removed, *, views: Sequence[int] = (0, 1)) -> Tensor:
        """Return the loss of every anchor, (views x B,).

        removed: from `choose`, for the clean views of this batch.
        views: the clean view of which each part of z is made, e.g. (0, 1, 0) for two clean views and an adversarial
            one of the first.
        """
        similarity, pairs, _ = self._pairs(z, labels, len(views))
        mask = removed.between(views)
        if mask is not None:
            pairs = pairs._replace(negatives=pairs.negatives & ~mask)
        return losses.contrastive(similarity, pairs)

    def _pairs(self, z: Tensor, labels: Tensor, views: int) -> tuple[Tensor, losses.Pairs, Tensor]:
        """Return cosines over the temperature, (n, m), the pairs, and whether two rows are of one class, (n, m)."""
        local = len(labels)
        candidates = torch.cat([processes.gather(part) for part in z.chunk(views)])
        classes = processes.gather(labels).repeat(views)
        total = len(classes) // views
        first = processes.rank() * local
        own = torch.cat([torch.arange(first, first + local) + view * total for view in range(views)]).to(z.device)
        groups = classes if self.classes else torch.arange(total, device=z.device).repeat(views)
        is_same_class = classes[own][:, None] == classes[None]
        return z @ candidates.T / self.temperature, losses.pairs(groups[own], groups, own), is_same_class
