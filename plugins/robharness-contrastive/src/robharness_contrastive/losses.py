"""Contrastive losses of rows of similarities, in which any pair may be a positive, a negative, or neither.

Rows are anchors, columns are candidates: the rows of all processes and views. What is neither, an anchor's own column
or a negative that was removed, is in no sum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Which candidate is what to which anchor, (n, m) bool each."""

    positives: Tensor
    negatives: Tensor


def pairs(anchors: Tensor, candidates: Tensor, itself: Tensor) -> Pairs:
    """Pairs of the same and of another instance, or class.

    anchors: (n,), candidates: (m,), the instances or classes of both. itself: (n,), the column of each anchor.
    """
    alike = anchors[:, None] == candidates[None]
    negatives = ~alike
    return Pairs(alike.scatter(1, itself[:, None], False), negatives)


def contrastive(similarity: Tensor, pairs: Pairs) -> Tensor:
    """The loss of each anchor, (n,): NT-Xent with one positive a row, SupCon's L_out with several.

    similarity: (n, m), cosines over the temperature. Of a row's positives, the mean of -log(e^S_p / sum), where the sum
    goes over its positives and its negatives. Source: Khosla et al. 2020, equation 2; Chen et al. 2020, equation 1.
    """
    kept = pairs.positives | pairs.negatives
    log_sum = similarity.masked_fill(~kept, -torch.inf).logsumexp(1)
    of_positives = similarity.masked_fill(~pairs.positives, 0).sum(1) / pairs.positives.sum(1)
    return log_sum - of_positives


def bounds(rows: int, positives: float, temperature: float) -> tuple[float, float]:
    """Where the loss starts, and its floor: all cosines equal, or 1 between positives and 0 to all negatives.

    rows: of the batch, over all views and processes. positives: of an anchor, on average.
    """
    negatives = rows - 1 - positives
    floor = math.log(positives + negatives * math.exp(-1 / temperature))
    return math.log(rows - 1), floor


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the cosine of each row with its target, which gets no gradient, (n,). Source: Chen and He 2021, SimSiam."""
    return -torch.nn.functional.cosine_similarity(predicted, target.detach(), dim=1)
