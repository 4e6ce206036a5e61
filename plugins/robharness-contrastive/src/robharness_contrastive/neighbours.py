"""Accuracy of a kNN classifier on the features of an encoder, for the log of a training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness_contrastive import probe
from robharness_contrastive.data import Source
from robharness_contrastive.params import Neighbours

QUERIES = 256
"""Queries whose similarities with the bank are computed at once."""


class NeighbourAccuracy:
    """Measure how well the nearest neighbours of examples predict their classes, by features as in evaluation.

    The examples are drawn by the seed, once: a bank of training examples, and queries, which are held-out examples if
    there are any, and else training examples outside the bank.

    options: see `Neighbours`.
    training, held_out: examples with their classes.
    classes: their number.
    seed: of the training.
    """

    def __init__(self, options: Neighbours, training: Source, held_out: Source, classes: int, seed: int) -> None:
        self.options, self.classes = options, classes
        order = _order(len(training), seed)
        if len(held_out):
            self.queries = held_out.subset(_order(len(held_out), seed)[: options.queries])
        else:
            count = min(options.queries, max(1, len(training) // 10))
            self.queries, order = training.subset(order[:count]), order[count:]
        self.bank = training.subset(order[: options.bank])

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Return whether to measure after this epoch, counted from 1."""
        return epoch % self.options.every == 0 or epoch == epochs

    def __call__(self, encoder: nn.Module) -> float:
        """Return the share of queries whose class is predicted. Neither weights, buffers nor modes change."""
        modes = {module: module.training for module in encoder.modules()}
        try:
            bank, queries = (F.normalize(probe.features(encoder, part), dim=1) for part in (self.bank, self.queries))
        finally:
            for module, mode in modes.items():
                module.training = mode
        predicted = predict(queries, bank, self.bank.labels, self.classes, self.options)
        return float((predicted == self.queries.labels).double().mean())


def predict(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, options: Neighbours) -> Tensor:
    """Return the classes with the most votes among the nearest neighbours, (Q,) int64.

    A neighbour has exp(cosine / temperature) votes for its class.

    queries: unit features (Q, width).
    bank: unit features (B, width) that may be neighbours; all of them are if they are fewer than `options.k`.
    labels: (B,), classes of the bank.
    """
    predicted = []
    for part in queries.split(QUERIES):
        cosines, nearest = (part @ bank.T).topk(min(options.k, len(bank)))
        votes = (cosines.double() / options.temperature).exp()
        totals = votes.new_zeros(len(part), classes).scatter_add_(1, labels[nearest], votes)
        predicted.append(totals.argmax(1))
    return torch.cat(predicted)


def _order(count: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, 4]).permutation(count))
