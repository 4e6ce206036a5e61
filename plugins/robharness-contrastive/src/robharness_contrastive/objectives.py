"""Training objectives: modules that hold the heads beside the encoder and compute a loss from the views of a batch.

A loss is averaged over the rows of this process. Processes average their gradients. Rows that are gathered from other
processes carry gradients back to them, so two processes learn the same weights as one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robharness_contrastive import losses, options
from robharness_contrastive.contrast import Contrast, split_reserve
from robharness_contrastive.networks import mlp
from robharness_contrastive.processes import gather, world
from robharness_contrastive.removal import Removal


@dataclass(frozen=True, kw_only=True)
class Context:
    """Facts about a training that an objective may need when it is made.

    examples: number of training examples.
    classes: number of classes of the data.
    batch: images per step, over all processes.
    epochs: passes over the examples.
    shape: of an input, (C, H, W) or (C, T, H, W).
    """

    examples: int
    classes: int
    batch: int
    epochs: int
    shape: tuple[int, ...]


@dataclass(kw_only=True)  # not frozen, since Fabric copies the arguments of a forward pass under mixed precision
class TrainingStep:
    """Position of a step in the training.

    epoch, step: from 0; a step counts over all epochs.
    epochs, steps: their totals.
    batch: images per step, over all processes.
    seed: of the training, which addresses random numbers together with the step and the rows.
    rows: (B,) int64, indices of this process's examples among the training examples; None means 0 ... B - 1.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    batch: int
    seed: int = 0
    rows: np.ndarray | None = None


class Loss(NamedTuple):
    """A loss with values for the log.

    value: a scalar with gradients.
    notes: scalars without gradients, which the log averages over an epoch.
    """

    value: Tensor
    notes: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class FirstStage:
    """A training before an objective's own, whose features become the labels of the second.

    name: of the stage in the log and in its checkpoint.
    objective: (width, context) -> the objective of the first stage.
    labels: (features (N, width) float32, seed) -> a class for each example, (N,) integers.
    """

    name: str
    objective: Callable[[int, Context], Objective]
    labels: Callable[[np.ndarray, int], np.ndarray]


class Objective(nn.Module):
    """A training objective. A subclass is made as `Class(options, width, context)`, which it passes to this one.

    options: of its own, or None if it has none.
    width: of the encoder's features.
    context: facts about the training, see `Context`.

    views: number of views of an example that it compares.
    reserve: number of training examples outside the batch that it gets beside the batch. Processes share them, and
        `contrast.split_reserve` separates the rows of this process.
    projection: head between the features and the loss, which the weights of the encoder keep beside it; None if none.
    head: linear classifier that it trains; None if it trains none.
    first_stage: a training before this one; None if there is none.
    sample_clips: a `video.ClipSampler` for views of videos; None for random clips.
    start: expected loss before training, for the progress display.
    floor: lower bound of the loss, for the progress display; None if it is unknown.
    advice_if_stuck: options to try if the loss stays near `start`; empty if such a loss may be a good one.
    """

    views = 2
    reserve = 0
    projection: nn.Module | None
    head: nn.Linear | None
    sample_clips: Any = None
    start: float = 0.0
    floor: float | None = None
    advice_if_stuck: str = ""

    def __init__(self, options: Any, width: int, context: Context) -> None:
        super().__init__()
        self.options, self.width, self.context = options, width, context
        self.projection = self.head = None  # here, since values of the class would hide the modules of an object
        self.first_stage: FirstStage | None = None

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        """Return the loss of a batch.

        encode: the encoder, from views to features (B, width).
        views: `views` tensors (B + R, ...) float32 in [0, 1]: those of the batch, then R of the reserve.
        labels: (B + R,) int64; of this process, as the views are.
        """
        raise NotImplementedError

    def begin(self, encoder: nn.Module) -> None:
        """Prepare the objective before the first step."""

    def strength(self, epoch: int) -> float:
        """Return the strength of the augmentation in an epoch, from 0: 1 for all of it, less for a weaker one."""
        return 1.0

    def trained(self, encoder: nn.Module) -> tuple[nn.Module, nn.Module | None]:
        """Return the encoder and the projection that the training is for, whose weights are kept.

        encoder: the one that the optimiser trains.
        """
        return encoder, self.projection

    def before_step(self, step: TrainingStep) -> None:
        """Change gradients before the optimiser's step, which may follow several forward passes (`accumulate`)."""

    def after_step(self, encoder: nn.Module) -> None:
        """Update the objective's state after the optimiser's step."""


class CrossEntropy(Objective):
    """Cross-entropy of a linear classifier on the encoder."""

    views = 1

    head: nn.Linear

    def __init__(self, options: Any, width: int, context: Context) -> None:
        super().__init__(options, width, context)
        self.head = nn.Linear(width, context.classes)
        self.start, self.floor = float(torch.tensor(float(context.classes)).log()), 0.0

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        logits = self.head(encode(views[0]))
        return Loss(F.cross_entropy(logits, labels), {"right": (logits.argmax(1) == labels).float().mean()})


class InfoNCE(Objective):
    """SimCLR's NT-Xent, with or without removal of false negatives, or SupCon.

    classes: True for SupCon, whose positives are all examples of the anchor's class.
    """

    projection: nn.Module

    def __init__(self, params: options.SupCon, width: int, context: Context, *, classes: bool = False) -> None:
        super().__init__(params, width, context)
        self.projection = mlp(width, *params.projection)
        self.scale = params.loss_scale
        removal, false_negatives = Removal(), None
        if isinstance(params, options.SimCLR):
            removal, false_negatives = params.removal, params.false_negatives
        self.contrast = Contrast(
            params.temperature, removal, context.classes, classes=classes, context=context, width=params.projection[1],
            false_negatives=false_negatives,
        )  # fmt: skip
        self.reserve = self.contrast.reserve
        rows = self.views * context.batch
        positives = rows / context.classes - 1 if classes else self.views - 1
        self.start, self.floor = (
            self.scale * bound for bound in losses.bounds(rows, max(1.0, positives), params.temperature)
        )

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        z = unit(self.projection(encode(torch.cat(list(views)))))
        z, spare = split_reserve(z, self.reserve, self.views)
        labels, spare_labels = split_reserve(labels, self.reserve)
        removed = self.contrast.choose(z, labels, step, reserve=spare_labels)
        value = self.scale * self.contrast.loss(z, labels, removed, reserve=spare).mean()
        self.contrast.remember(z)
        return Loss(value, {**removed.notes, **self.contrast.cosines(z, labels), "spread": spread(z)})


def supcon(params: options.SupCon, width: int, context: Context) -> InfoNCE:
    """Make SupCon: InfoNCE whose positives are all examples of the anchor's class."""
    return InfoNCE(params, width, context, classes=True)


class ClustersObjective(InfoNCE):
    """SupCon with clusters of the features of SimCLR, the first of two stages, as classes."""

    def __init__(self, params: options.Clusters, width: int, context: Context) -> None:
        super().__init__(params, width, context, classes=True)
        self.first_stage = FirstStage(
            name="simclr",
            objective=lambda width, context: InfoNCE(params, width, context),
            labels=lambda features, seed: self._clusters(features, params.clusters, seed),
        )

    @staticmethod
    def _clusters(features: np.ndarray, count: int, seed: int) -> np.ndarray:
        from sklearn.cluster import KMeans

        found: np.ndarray = KMeans(count, n_init=10, random_state=seed).fit_predict(features)
        return found


class SwAVObjective(Objective):
    """SwAV: predict the codes of one view from the other view. Source: Caron et al. 2020.

    Loss and projection are lightly's. The projection's batch norm prevents a collapse of the features.
    """

    projection: nn.Module
    advice_if_stuck = "fewer `prototypes:`, a larger `frozen:` or a larger `temperature:`"

    def __init__(self, params: options.SwAV, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead

        count = context.examples if params.prototypes == "instances" else params.prototypes
        self.projection = SwaVProjectionHead(width, *params.projection)
        self.prototypes = nn.Linear(params.projection[1], count, bias=False)
        self.loss = SwaVLoss(params.temperature, 3, params.epsilon, world() > 1)
        self.frozen = params.frozen
        self.start, self.floor = float(torch.tensor(float(count)).log()), 0.0

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        z = unit(self.projection(encode(torch.cat(list(views)))))
        scores = to_float32(self.prototypes(z))
        value = self.loss(list(scores.chunk(self.views)), []).squeeze()
        return Loss(value, {"spread": spread(z)})

    def before_step(self, step: TrainingStep) -> None:
        if step.step < self.frozen * step.steps:
            self.prototypes.weight.grad = None


class MoCoObjective(Objective):
    """MoCo v2: contrast queries with a queue of keys from a moving average of the encoder. Source: Chen et al. 2020."""

    projection: nn.Module

    def __init__(self, params: options.MoCo, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        self.projection = mlp(width, *params.projection)
        self.keys: nn.Module | None = None
        self.queue: Tensor
        self.temperature, self.inertia = params.temperature, params.inertia
        self.newest: list[Tensor] = []  # keys since the optimiser's last step, in which the queue stays the same
        size = params.queue
        self.register_buffer("queue", F.normalize(nn.init.normal_(torch.empty(size, params.projection[1])), dim=1))
        self.start, self.floor = losses.bounds(size + 2, 1, self.temperature)

    def begin(self, encoder: nn.Module) -> None:
        """Copy the encoder's weights to the key encoder."""
        self.keys = copy.deepcopy(nn.Sequential(encoder, self.projection)).requires_grad_(False)

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        assert self.keys is not None
        queries = unit(self.projection(encode(views[0])))
        with torch.no_grad():
            keys = unit(self.keys(views[1]))
            self.newest.append(gather(keys))
        scores = torch.cat([(queries * keys).sum(1, keepdim=True), losses.products(queries, self.queue)], 1)
        scores = scores / self.temperature
        return Loss(scores.logsumexp(1).sub(scores[:, 0]).mean(), {"spread": spread(queries)})

    @torch.no_grad()
    def after_step(self, encoder: nn.Module) -> None:
        assert self.keys is not None
        own = nn.Sequential(encoder, self.projection)
        for key, value in zip(self.keys.parameters(), own.parameters(), strict=True):
            key.lerp_(value, 1 - self.inertia)
        self.queue = torch.cat([*self.newest, self.queue])[: len(self.queue)]
        self.newest.clear()


class SimSiamObjective(Objective):
    """SimSiam: predict the projection of one view from the other, without its gradient. Source: Chen and He 2021."""

    projection: nn.Module

    def __init__(self, params: options.SimSiam, width: int, context: Context) -> None:
        super().__init__(params, width, context)
        hidden, out = params.projection
        self.projection = nn.Sequential(
            *(nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()),
            *(nn.Linear(hidden, out, bias=False), nn.BatchNorm1d(out, affine=False)),
        )
        self.prediction = nn.Sequential(
            *(nn.Linear(out, params.prediction, bias=False), nn.BatchNorm1d(params.prediction), nn.ReLU()),
            nn.Linear(params.prediction, out),
        )
        self.start, self.floor = 0.0, -1.0

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        z = [to_float32(self.projection(encode(view))) for view in views]
        predicted = [to_float32(self.prediction(each)) for each in z]
        directions = (losses.negative_cosine(predicted[0], z[1]), losses.negative_cosine(predicted[1], z[0]))
        return Loss(torch.stack([each.mean() for each in directions]).mean(), {"spread": spread(unit(z[0]))})


class Learner(nn.Module):
    """Encoder and objective as one module, so that distributed training has one forward pass per step."""

    objective: Objective

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        objective.begin(encoder)

    def forward(self, views: Sequence[Tensor], labels: Tensor, step: TrainingStep) -> Loss:
        loss: Loss = self.objective(self.encoder, views, labels, step)
        return loss

    def trained(self) -> tuple[Any, nn.Module | None]:
        """Return the encoder and the projection that the training is for, see `Objective.trained`."""
        return self.objective.trained(self.encoder)


def to_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32, since losses are sums of exponentials; other types are returned unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(rows: Tensor) -> Tensor:
    """Scale rows to length 1."""
    return F.normalize(to_float32(rows), dim=1)


def spread(z: Tensor) -> Tensor:
    """Return the spread of unit rows: 0 if all are the same point, 1 if their mean is the centre of the sphere."""
    return (1 - z.detach().mean(0).square().sum()).clamp(min=0).sqrt()
