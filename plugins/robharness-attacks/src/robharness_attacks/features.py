"""PGD on features: away from the features of the clean input, without labels or a probe."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.gradient import Goal, Measure, climb
from robharness_attacks.norms import length, row_sum
from robharness_attacks.params import FeatureParams


@dataclass(frozen=True)
class FeaturePGD:
    """PGD whose objective is the distance from the clean features.

    At the clean input, cosine and Euclidean distance have gradient 0: without a random start the input does not change.

    Notes:
    distance: from the clean features that was reached.
    """

    params: FeatureParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        params = self.params
        about = batch.features(model)
        distance: Measure = cosine if params.distance == "cosine" else euclidean
        if params.distance == "contrastive":
            about, distance = _own_first(about), Contrastive(float(params.temperature))
        shared: Hashable = ("features", distance)
        goal = Goal(
            about=about,
            objective=distance,
            rank=distance,
            is_reached=_is_never_reached,
            rows=torch.ones_like(batch.labels, dtype=torch.bool),
            outputs=model.features,
            at_clean=lambda: batch.cached(shared, lambda: model.gradient(batch.x, about, distance)),
        )
        found = climb(model, batch, eps, rng, params, goal)
        reached = found.rank if params.compares else distance(model.features(found.x), about)
        return Perturbed(x=found.x, notes={"distance": reached})


def cosine(features: Tensor, clean: Tensor) -> Tensor:
    """Return 1 minus the cosine of the angle between features and clean features, both (N, D): (N,), in [0, 2]."""
    return 1 - _similarity(features, clean)


def euclidean(features: Tensor, clean: Tensor) -> Tensor:
    """Return the Euclidean distance of features from clean features, both (N, D): (N,)."""
    return length(features - clean, "l2")


@dataclass(frozen=True)
class Contrastive:
    """Instance-wise contrastive loss (Kim et al., 2020) of features, (N,), at least 0.

    It is called with features (N, D) and the clean features of each row's block (N, B, D). The first of these B are the
    row's own, the others are negatives.
    """

    temperature: float

    def __call__(self, features: Tensor, clean: Tensor) -> Tensor:
        count = clean.shape[1]
        pairs = features[:, None].expand_as(clean).flatten(0, 1), clean.flatten(0, 1)
        scores = _similarity(*pairs).view(-1, count) / self.temperature
        return scores.logsumexp(1) - scores[:, 0]


def _similarity(one: Tensor, other: Tensor) -> Tensor:
    lengths = length(one, "l2") * length(other, "l2")
    return row_sum(one * other) / lengths.clamp_min(torch.finfo(one.dtype).tiny)


def _own_first(features: Tensor) -> Tensor:
    """Return for each row of a block (B, D) the features of all its rows, the row's own first: (B, B, D)."""
    rows = torch.arange(len(features), device=features.device)
    return features[(rows[:, None] + rows) % len(features)]


def _is_never_reached(features: Tensor, about: Tensor) -> Tensor:
    return torch.zeros(len(features), dtype=torch.bool, device=features.device)
