"""Replacement of negatives by others, so that an anchor's number of negatives stays the same.

The paper replaces suspects "with other negative samples from the training data" (section 6) and says no more. All
functions work on a matrix of anchors and candidates, whose columns are ordered part by part: a part is a view, or an
adversarial image of one. A removed negative leaves a slot in its part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robharness_contrastive.losses import Pairs


def multiplicities(slots: Tensor, usable: Tensor) -> Tensor:
    """Return how many slots each spare row fills, (n, parts, R) int64.

    The first usable row fills the first slot of a part, and so on. If there are more slots than usable rows, the rows
    are used again from the first on.

    slots: (n, parts) int64, number of slots of every anchor in every part.
    usable: (n or 1, R) bool, the rows that may fill an anchor's slots.
    """
    position = (usable.cumsum(1) - 1)[:, None]
    total = usable.sum(1)[:, None, None].clamp(min=1)
    count = (slots[:, :, None] + total - 1 - position).div(total, rounding_mode="floor")
    return count.masked_fill(~usable[:, None], 0)


def replaced(
    similarity: Tensor, pairs: Pairs, removed: Tensor, parts: int = 1, spare: Tensor | None = None,
    usable: Tensor | None = None,
) -> tuple[Tensor, Pairs, Tensor]:  # fmt: skip
    """Return similarities, pairs and logarithms of weights, (n, m + parts x R) each, after the replacement.

    A spare row has the number of its slots as weight. Slots that no spare row fills are divided among the negatives
    that are left, whose weight becomes |N| / (|N| - k) for k such slots: sampling substitutes from these has the same
    expectation. The weights of an anchor's negatives always sum to its number of negatives |N|.

    similarity: (n, m), cosines divided by the temperature.
    pairs: (n, m), before the removal.
    removed: (n, m) bool, at least one negative of an anchor is not removed.
    parts: m / parts columns belong to each.
    spare: (n, parts x R), similarities to the spare rows, part by part; None if there are none.
    usable: (n or 1, R) bool, the spare rows that may fill an anchor's slots; None for all.
    """
    total, left = pairs.negatives.sum(1), pairs.negatives & ~removed
    open_slots = total - left.sum(1)
    extra = similarity.new_zeros((len(similarity), 0), dtype=torch.int64)
    if spare is not None:
        slots = (pairs.negatives & removed).view(len(similarity), parts, -1).sum(2)
        if usable is None:
            usable = torch.ones((1, spare.shape[1] // parts), dtype=torch.bool, device=similarity.device)
        extra = multiplicities(slots, usable).flatten(1)
        open_slots = open_slots - extra.sum(1)
        similarity = torch.cat([similarity, spare], 1)
    exact = torch.promote_types(similarity.dtype, torch.float32)  # bfloat16 does not have all numbers above 256
    factor = total.to(exact) / (total - open_slots).clamp(min=1)
    weights = torch.where(left, factor.log()[:, None], 0)
    positives = torch.cat([pairs.positives, torch.zeros_like(extra, dtype=torch.bool)], 1)
    negatives = torch.cat([left, extra > 0], 1)
    log_counts = extra.clamp(min=1).to(exact).log()
    return similarity, Pairs(positives, negatives), torch.cat([weights, log_counts], 1)


def false_share(negatives: Tensor, is_same_class: Tensor, rate: float) -> Tensor:
    """Return the share of false negatives after `injected`, (n,) float64.

    The share is `rate`, except for anchors of whose class no other image is a candidate, and for anchors whose
    candidates are all of one class.
    """
    has_false, has_true = (negatives & is_same_class).any(1), (negatives & ~is_same_class).any(1)
    share = torch.full(has_false.shape, rate, dtype=torch.float64, device=negatives.device)
    return share.masked_fill(~has_false, 0).masked_fill(~has_true, 1)


def injected(similarity: Tensor, pairs: Pairs, is_same_class: Tensor, rate: float) -> tuple[Tensor, Pairs, Tensor]:
    """Return similarities, pairs and logarithms of weights, (n, m) each, with a given share of false negatives.

    Of an anchor's |N| negatives, `rate` |N| become false ones, and the others become true ones. All candidates of the
    anchor's class are repeated equally often to make the false ones, and all others to make the true ones. A number of
    repetitions may be a fraction, as a weight. The share is therefore the same in every batch, nothing is drawn, and
    no other image enters.

    is_same_class: (n, m) bool.
    """
    false, true = pairs.negatives & is_same_class, pairs.negatives & ~is_same_class
    share = false_share(pairs.negatives, is_same_class, rate)
    total = pairs.negatives.sum(1)
    weight_of_false = share * total / false.sum(1).clamp(min=1)
    weight_of_true = (1 - share) * total / true.sum(1).clamp(min=1)
    weights = torch.where(false, weight_of_false[:, None], weight_of_true[:, None].where(true, 1))
    weights = weights.to(torch.promote_types(similarity.dtype, torch.float32))  # bfloat16 has 8 bits of a weight
    return similarity, pairs._replace(negatives=pairs.negatives & (weights > 0)), weights.log()
