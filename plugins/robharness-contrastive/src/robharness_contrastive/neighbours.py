"""Accuracy of a kNN classifier on the features of an encoder, for the log of a training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from robharness_contrastive import probe
from robharness_contrastive.data import Source
from robharness_contrastive.networks import evaluating
from robharness_contrastive.options import Neighbours
from robharness_probe.heads import NearestNeighbours

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
        with evaluating(encoder):
            bank, queries = (probe.features(encoder, part) for part in (self.bank, self.queries))
        k = min(self.options.k, len(bank))
        head = NearestNeighbours(bank, self.bank.labels, self.classes, k, self.options.temperature)
        predicted = torch.cat([head(part).argmax(1) for part in queries.split(QUERIES)])
        return float((predicted == self.queries.labels).double().mean())


def _order(count: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, 4]).permutation(count))
