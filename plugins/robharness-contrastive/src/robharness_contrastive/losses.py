"""Contrastive losses of a similarity matrix, in which a pair is a positive, a negative, or neither.

Rows are anchors; columns are candidates, which are the rows of all processes and views. A pair that is neither enters
no sum: an anchor with itself, or a negative that was removed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Positive and negative pairs of n anchors and m candidates, (n, m) bool each."""

    positives: Tensor
    negatives: Tensor


def pairs(anchors: Tensor, candidates: Tensor, own: Tensor) -> Pairs:
    """Make positives of the same instance or class, and negatives of others.

    anchors: (n,), instance or class of each anchor.
    candidates: (m,), instance or class of each candidate.
    own: (n,), the column of each anchor itself.
    """
    is_same = anchors[:, None] == candidates[None]
    negatives = ~is_same
    return Pairs(is_same.scatter(1, own[:, None], False), negatives)


def products(rows: Tensor, others: Tensor) -> Tensor:
    """Return the inner products of rows (..., n, d) with others (..., m, d), (..., n, m), in the precision of the rows.

    Mixed precision would compute them in half precision, whose steps near 1 are larger than many terms of a loss.
    """
    if not torch.amp.is_autocast_available(rows.device.type):  # as on the device "meta"
        return rows @ others.mT
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ others.mT


def contrastive(similarity: Tensor, pairs: Pairs, log_weights: Tensor | None = None) -> Tensor:
    """Return the loss of each anchor, (n,): NT-Xent with one positive per row, SupCon's L_out with several.

    The loss is the mean over positives p of -log(e^S_p / sum), where the sum of e^S goes over positives and negatives.

    similarity: (n, m), cosines divided by the temperature.
    log_weights: (n, m), logarithms of factors of e^S in the sum; 0 for positives. None for no factors.

    Source: Khosla et al. 2020, equation 2; Chen et al. 2020, equation 1.
    """
    included = pairs.positives | pairs.negatives
    terms = similarity if log_weights is None else similarity + log_weights
    log_sum = terms.masked_fill(~included, -torch.inf).logsumexp(1)
    positives = similarity.masked_fill(~pairs.positives, 0).sum(1) / pairs.positives.sum(1)
    return log_sum - positives


def bounds(rows: int, positives: float, temperature: float) -> tuple[float, float]:
    """Return the loss at the start, where all cosines are equal, and its floor.

    At the floor, cosines are 1 between positives and 0 to all negatives.

    rows: of the batch, over all views and processes.
    positives: mean number per anchor.
    temperature: of the softmax over cosines.
    """
    negatives = rows - 1 - positives
    floor = math.log(positives + negatives * math.exp(-1 / temperature))
    return math.log(rows - 1), floor


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Return minus the cosine of each row with its target, (n,), without gradient to the target.

    Source: Chen and He 2021, SimSiam.
    """
    return -torch.nn.functional.cosine_similarity(predicted, target.detach(), dim=1)
