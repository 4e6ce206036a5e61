"""Target classes of an attack: the most likely ones, or those whose decision boundaries are nearest by estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from robharness import Batch, Classifier
from robharness_attacks.norms import DUAL, length
from robharness_attacks.objectives import likely_targets, toward_margin
from robharness_attacks.params import CANDIDATES, APGDParams, FABParams, Norm


def targets_of(model: Classifier, batch: Batch, params: APGDParams | FABParams) -> Tensor:
    """Return the target classes of each example in their order, (N, min(targets, classes - 1))."""
    clean = batch.logits(model)
    if params.order == "likely":
        return likely_targets(clean, batch.labels, params.targets)
    candidates = likely_targets(clean, batch.labels, max(params.targets, CANDIDATES))
    distance = _distances(model, batch, candidates, params.norm)
    return candidates.gather(1, distance.sort(dim=1, stable=True).indices)[:, : params.targets]


def _distances(model: Classifier, batch: Batch, targets: Tensor, norm: Norm) -> Tensor:
    """Return the estimated distance of the input to the boundary with each target, (N, k), by a plane at the input.

    It is the margin over the length of its gradient in the dual norm; inf without a gradient. Candidates that are as
    near as others keep their order.
    """
    about = torch.stack([batch.labels[:, None].expand_as(targets), targets], 2).flatten(0, 1)
    points = batch.x.repeat_interleave(targets.shape[1], 0)
    values, gradient, _ = model.gradient(points, about, toward_margin)
    slope = length(gradient.flatten(1).nan_to_num(), DUAL[norm])
    distance = torch.where(slope > 0, -values.to(slope.dtype) / slope, torch.inf)
    return distance.nan_to_num(torch.inf, torch.inf).view_as(targets)
