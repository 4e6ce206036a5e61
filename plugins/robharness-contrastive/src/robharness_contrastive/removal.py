"""False negatives: which negatives an anchor loses, how many at which epoch.

One mechanism, as in section 5 of the paper: of every anchor, the k nearest negatives are taken out of the sum. The
strategies differ in k. What the paper leaves open is an option: whether k counts views or instances, and how a schedule
made for 1000 epochs stretches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

EPOCHS = 1000
"""Of the paper's training, which its schedules are written for; other lengths go through them at the same share."""
RUNGS, REGIMES, PERIOD = 10, 16, 75
"""Precision takes a rung every 100 epochs; recall gives back a sixteenth of the batch every 75."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """How false negatives are removed.

    strategy: "frequency", as many as a class has on average in a batch; "precision", one more every tenth of training,
    0 to 9; "recall", half of the batch at first, a sixteenth less every 75 of 1000 epochs, 0 from epoch 600 on;
    "oracle", those that really are of the anchor's class, which no self-supervised method knows.
    unit: "view" counts rows, the literal k nearest in the matrix; "instance" counts pictures and takes all their views.
    most: of "precision", the last rung, as a share of the batch in `unit`s; None for the paper's 9, whatever the batch.
    """

    strategy: Literal["none", "frequency", "precision", "recall", "oracle"] = "none"
    unit: Literal["view", "instance"] = "view"
    most: float | None = None

    def __post_init__(self) -> None:
        if self.most is not None and not 0 < self.most <= 1:
            raise ValueError(f"Removal: most={self.most} is a share of the batch, above 0 and at most 1")
        if self.most is not None and self.strategy != "precision":
            raise ValueError(f"Removal: `most` is for the strategy precision, not for {self.strategy}")

    def count(self, epoch: int, epochs: int, batch: int, classes: int) -> int:
        """How many negatives an anchor loses in this epoch, from 0 on; batch: pictures. 0 for "oracle"."""
        if self.strategy == "frequency":
            return round(batch / classes)
        if self.strategy == "precision":
            rung = RUNGS * epoch // epochs
            return rung if self.most is None else round(rung / (RUNGS - 1) * self.most * batch)
        if self.strategy == "recall":
            return max(0, batch // 2 - batch // REGIMES * (EPOCHS * epoch // (PERIOD * epochs)))
        return 0


def nearest(similarity: Tensor, negatives: Tensor, k: int, *, unit: str = "view", views: int = 2) -> Tensor:
    """The k nearest negatives of every anchor, (n, m) bool, but never all of them: one stays at least.

    similarity: (n, m), without gradient here. views: of an instance, whose columns are view by view: m = views x
    instances. unit "instance": the k instances with the nearest view, with all their views.
    """
    import torch

    scores = similarity.detach().masked_fill(~negatives, -torch.inf)
    if unit == "instance":
        scores = scores.view(len(scores), views, -1).amax(1)
    there = (scores > -torch.inf).sum(1, keepdim=True)
    k = max(0, min(k, scores.shape[1] - 1))
    ranked = scores.topk(k, 1).indices
    wanted = torch.arange(k, device=scores.device) < there - 1
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked, wanted)
    return (chosen.repeat(1, views) if unit == "instance" else chosen) & negatives


def known(similarity: Tensor, negatives: Tensor, false: Tensor) -> Tensor:
    """The negatives that are false, (n, m) bool, but the least similar of a row that would lose all."""
    import torch

    chosen = negatives & false
    lost = (chosen.sum(1) == negatives.sum(1)) & negatives.any(1)
    least = similarity.detach().masked_fill(~negatives, torch.inf).argmin(1)
    kept = torch.zeros_like(chosen).scatter(1, least[:, None], lost[:, None])
    return chosen & ~kept
