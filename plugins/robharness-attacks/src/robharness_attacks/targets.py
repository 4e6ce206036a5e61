"""Target classes of an attack: the most likely ones, or those whose decision boundaries are nearest by estimate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robharness import Batch, Classifier
from robharness_attacks.minimal_params import FABParams
from robharness_attacks.norms import DUAL, length
from robharness_attacks.objectives import likely_targets, toward_margin
from robharness_attacks.params import CANDIDATES, APGDParams, Norm


class Targets(NamedTuple):
    """Target classes of N examples in their order.

    classes: (N, k).
    ranks: (N, k), the place of each class by its logit among the wrong classes, from 0.
    """

    classes: Tensor
    ranks: Tensor


def targets_of(model: Classifier, batch: Batch, params: APGDParams | FABParams) -> Targets:
    """Return the target classes in their order, as many as the params or the wrong classes."""
    near = params.order == "near"
    count = max(params.targets, CANDIDATES) if near else params.targets
    likely = likely_targets(batch.logits(model), batch.labels, count)
    if near:
        ranks = _distances(model, batch, likely, params.norm).sort(dim=1, stable=True).indices[:, : params.targets]
    else:
        ranks = torch.arange(likely.shape[1], device=likely.device).expand_as(likely)
    return Targets(likely.gather(1, ranks), ranks)


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
