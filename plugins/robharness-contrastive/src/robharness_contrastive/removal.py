"""Removal of false negatives: how many negatives an anchor loses in an epoch, which, and what replaces them.

As in section 5 of the paper, each anchor's k nearest negatives are left out of the sum; the strategies differ in k. The
paper does not say whether k counts views or instances, so that is an option. Its schedule for 1000 epochs is stretched
to other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

EPOCHS = 1000
"""Length of the paper's training, for which its schedules are written. Other lengths are scaled to it."""
PRECISION_STEPS, RECALL_STEPS, RECALL_PERIOD = 10, 16, 75
"""Steps of the schedules: "precision" has 10; "recall" removes a sixteenth of the batch less every 75 epochs."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Options of the removal of false negatives.

    strategy: how many nearest negatives of an anchor are removed, or which.
        "none": none.
        "frequency": as many as a class has on average in a batch, a constant.
        "precision": 0 to 9, one more every tenth of training.
        "recall": half of the batch at first, an eighth of that less every 75 of 1000 epochs, 0 from epoch 600 on.
        "oracle": those of the anchor's class, which needs labels that no self-supervised method has.
    unit: "view" counts rows, the k nearest in the matrix; "instance" counts images and removes all their views.
    most: largest number that is removed, as a share of the batch counted in `unit`: the last step of "precision", the
        first one of "recall", the constant of "frequency". None for the paper's: 9 in any batch, half of the batch,
        and one over the number of classes.
    warmup: share of the training before the first removal; the schedule is stretched over the rest.
    replace: what takes the places of removed negatives, so that an anchor's number of negatives stays the same.
        "none": nothing.
        "oversample": images outside the batch, which are drawn in every step and embedded with the batch.
        "reweight": the negatives that are left, each with a weight above 1.
        "queue": projections of earlier batches, without gradients.
    """

    strategy: Literal["none", "frequency", "precision", "recall", "oracle"] = "none"
    unit: Literal["view", "instance"] = "view"
    most: float | None = None
    warmup: float = 0.0
    replace: Literal["none", "oversample", "reweight", "queue"] = "none"

    def __post_init__(self) -> None:
        if self.most is not None and not 0 < self.most <= 1:
            raise ValueError(f"Removal: most={self.most} must be a share of the batch, above 0 and at most 1")
        if self.most is not None and self.strategy in ("none", "oracle"):
            raise ValueError(
                f"Removal: `most` needs the strategy frequency, precision or recall, not {self.strategy}. "
                "Try: `strategy: precision`"
            )
        without = [name for name in ("warmup", "replace") if getattr(self, name) != getattr(type(self), name)]
        if self.strategy == "none" and without:
            raise ValueError(
                f"Removal: `{without[0]}` needs a strategy, and with `strategy: none` no negative is removed. "
                "Try: `strategy: precision`"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"Removal: warmup={self.warmup} must be a share of the training, at least 0 and below 1")
        if self.strategy == "oracle" and self.replace == "queue":
            raise ValueError(
                "Removal: the queue has no classes, so it would bring false negatives back to the strategy oracle. "
                "Try: `replace: oversample`"
            )

    def count(self, epoch: int, epochs: int, batch: int, classes: int) -> int:
        """Return how many negatives an anchor loses in this epoch; 0 for "oracle".

        epoch: from 0.
        epochs: their total.
        batch: images per step.
        classes: of the data.
        """
        if self.is_waiting(epoch, epochs):
            return 0
        first = round(self.warmup * epochs)
        epoch, epochs = epoch - first, epochs - first
        if self.strategy == "frequency":
            return round(batch / classes if self.most is None else self.most * batch)
        if self.strategy == "precision":
            step = PRECISION_STEPS * epoch // epochs
            return step if self.most is None else round(step / (PRECISION_STEPS - 1) * self.most * batch)
        if self.strategy == "recall":
            step = EPOCHS * epoch // (RECALL_PERIOD * epochs)
            if self.most is not None:
                return max(0, round(self.most * batch * (1 - 2 * step / RECALL_STEPS)))
            return max(0, batch // 2 - batch // RECALL_STEPS * step)
        return 0

    def is_waiting(self, epoch: int, epochs: int) -> bool:
        """Return whether an epoch, from 0, is before the first removal."""
        return epoch < round(self.warmup * epochs)

    def spare(self, epochs: int, batch: int, classes: int) -> int:
        """Return how many images replacements are taken from: the largest count of the training.

        The oracle may remove any number. It has as many as a class has in a batch, and those are repeated if they do
        not suffice. Returns 0 if removed negatives are not replaced by other images.
        """
        if self.replace not in ("oversample", "queue") or self.strategy == "none":
            return 0
        if self.strategy == "oracle":
            return max(1, round(batch / classes))
        return max(1, max(self.count(epoch, epochs, batch, classes) for epoch in range(epochs)))


def nearest(similarity: Tensor, negatives: Tensor, k: int, *, unit: str = "view", views: int = 2) -> Tensor:
    """Return the k nearest negatives of every anchor, (n, m) bool; at least one negative of an anchor is left out.

    similarity: (n, m); its gradient is not used.
    negatives: (n, m) bool.
    k: number of negatives, counted in `unit`.
    unit: "view", or "instance" for the k instances with the nearest view, with all their views.
    views: per instance; columns are ordered view by view, m = views x instances.
    """
    import torch

    scores = similarity.detach().masked_fill(~negatives, -torch.inf)
    if unit == "instance":
        scores = scores.view(len(scores), views, -1).amax(1)
    available = (scores > -torch.inf).sum(1, keepdim=True)
    k = max(0, min(k, scores.shape[1] - 1))
    ranked = scores.topk(k, 1).indices
    is_chosen = torch.arange(k, device=scores.device) < available - 1
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked, is_chosen)
    return (chosen.repeat(1, views) if unit == "instance" else chosen) & negatives


def oracle(similarity: Tensor, negatives: Tensor, is_same_class: Tensor) -> Tensor:
    """Return the false negatives, (n, m) bool. A row that would lose all negatives keeps its least similar one."""
    import torch

    chosen = negatives & is_same_class
    loses_all = (chosen.sum(1) == negatives.sum(1)) & negatives.any(1)
    least = similarity.detach().masked_fill(~negatives, torch.inf).argmin(1)
    kept = torch.zeros_like(chosen).scatter(1, least[:, None], loses_all[:, None])
    return chosen & ~kept
