"""Heads as modules, from features (N, D) to logits (N, classes), and the network of an encoder and a head."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 2**16
"""Features of the bank that are compared at a time. The number never depends on the batch."""
ABSENT_VOTE = 1e-4
"""Vote of a class without a neighbour, as a share of the vote of the k-th neighbour."""


class Probed(nn.Module):
    """An encoder with a head. Forward hooks read the features at the identity module `features`.

    encoder: inputs (N, *shape) in [0, 1] -> features (N, D).
    head: features -> logits (N, classes).
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.features, self.head = encoder, nn.Identity(), head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(self.encoder(x)))
        return logits


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear head with these weights, (classes, D) and (classes,)."""
    head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


class Cosine(nn.Module):
    """Cosine similarities to prototypes, times a scale.

    prototypes: (classes, D); their lengths do not matter.
    """

    prototypes: Tensor

    def __init__(self, prototypes: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("prototypes", F.normalize(prototypes, dim=1))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=1), self.prototypes)


class NearestNeighbours(nn.Module):
    """Logarithm of the classes' votes among the k nearest features of a bank by cosine similarity.

    The vote of a class is the sum of exp(similarity / temperature) over its neighbours, as in InstDisc and DINO. The
    softmax of the logits is the share of the votes. A class without a neighbour gets the vote of the k-th neighbour
    times `ABSENT_VOTE`. A much smaller vote would leave a cross-entropy without a gradient in float32 wherever all
    neighbours have one class.

    The gradient is that of the present set of neighbours, through the similarities. Where the k-th similarity has an
    equal beyond the set, the logits jump, and the gradient is that of the set that was chosen. The logit of a class
    without a neighbour counts as a constant.

    bank: features (N, D); their lengths do not matter.
    labels: (N,) int64.
    classes: their number.
    k: number of neighbours, at most N.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> None:
        super().__init__()
        if not 0 < k <= len(bank):
            raise ValueError(f"k={k} must be from 1 to the number of features, {len(bank)}")
        self.register_buffer("bank", F.normalize(bank, dim=1))
        self.register_buffer("labels", labels)
        self.classes, self.k, self.temperature = classes, k, temperature

    def forward(self, features: Tensor) -> Tensor:
        queries = F.normalize(features, dim=1)
        similarities, rows = _Similarities.apply(queries, self.bank, self.k)
        return class_votes(similarities / self.temperature, self.labels[rows], self.classes)


def class_votes(votes: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the log-sum-exp of votes by class, (B, classes); `ABSENT_VOTE` says which vote the other classes get.

    No sum is made by atomic additions, so that the last bits are the same in every call.

    votes: logarithms of votes, (B, k), the largest first.
    labels: of the votes, (B, k).
    """
    is_same = labels[:, :, None] == labels[:, None, :]
    sums = votes[:, None, :].masked_fill(~is_same, -torch.inf).logsumexp(2)  # (B, k), the same for votes of a class
    is_repeated = is_same.tril(-1).any(2)
    columns = labels.masked_fill(is_repeated, classes)  # a class is written once; repetitions go to a further column
    absent = votes[:, -1:].detach() + math.log(ABSENT_VOTE)
    logits = absent.expand(-1, classes + 1).scatter(1, columns, sums)
    return logits[:, :classes]


def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Return the k largest inner products of every query with rows of the bank, (B, k), and the rows, (B, k).

    chunk: rows that are compared at a time, so that memory does not grow with the bank.
    """
    values = queries.new_empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for first in range(0, len(bank), chunk):
        found = queries @ bank[first : first + chunk].T
        best = found.topk(min(k, found.shape[1]), dim=1)
        values, rows = torch.cat([values, best.values], 1), torch.cat([rows, best.indices + first], 1)
        if values.shape[1] > k:
            values, kept = values.topk(k, dim=1)
            rows = rows.gather(1, kept)
    return values, rows


class _Similarities(torch.autograd.Function):
    """Similarities to the nearest rows of a bank, whose gradient needs no copy of these rows per query."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
        values, rows = nearest(queries, bank, k)
        ctx.save_for_backward(bank, rows)
        ctx.mark_non_differentiable(rows)
        return values, rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None]:
        bank, rows = ctx.saved_tensors
        return F.embedding_bag(rows, bank, per_sample_weights=gradient.contiguous(), mode="sum"), None, None
