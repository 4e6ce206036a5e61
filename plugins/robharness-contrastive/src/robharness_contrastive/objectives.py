"""What encoders are trained for: each a module with the heads that it needs beside the encoder.

An objective gets the encoder and the views of a batch, and gives a loss, averaged over this process's rows. Processes
average their gradients, so rows that are gathered from the others carry gradients back to them, and two processes learn
what one would.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from robharness_contrastive import losses, removal
from robharness_contrastive.networks import mlp
from robharness_contrastive.params import Contrastive, MoCo, SimCLR, SimSiam, Supervised, SwAV
from robharness_contrastive.removal import Removal


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where training stands. epoch, step: from 0, of so many; batch: pictures of a step over all processes."""

    epoch: int
    epochs: int
    step: int
    steps: int
    batch: int


class Loss(NamedTuple):
    """value: a scalar with gradients. notes: scalars for the log, averaged over an epoch, without."""

    value: Tensor
    notes: dict[str, Tensor]


class Objective(nn.Module):
    """views: how many of an example it compares. cut: how they are cut out of videos, see `video.Cut`; None for clips
    at random. start, floor: of its loss, for people; None where nobody knows.
    """

    views = 2
    cut: Any = None
    start: float = 0.0
    floor: float | None = None

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        raise NotImplementedError

    def begin(self, encoder: nn.Module) -> None:
        """Before anything is trained."""

    def before_step(self, moment: Moment) -> None:
        """Before the gradients are used."""

    def after_step(self, encoder: nn.Module) -> None:
        """After the optimizer's step."""


class CrossEntropy(Objective):
    """A classifier on the encoder."""

    views = 1

    def __init__(self, params: Supervised, width: int, examples: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, params.n_classes)
        self.start, self.floor = float(torch.tensor(float(params.n_classes)).log()), 0.0

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        logits = self.head(encode(views[0]))
        return Loss(F.cross_entropy(logits, labels), {"right": (logits.argmax(1) == labels).float().mean()})


class InfoNCE(Objective):
    """SimCLR's NT-Xent with false negatives removed, and SupCon where `classes` says that they are positives."""

    def __init__(self, params: Contrastive, width: int, examples: int, *, classes: bool = False) -> None:
        super().__init__()
        self.projection = mlp(width, *params.projection)
        self.temperature, self.scale, self.classes = params.temperature, params.loss_scale, classes
        self.removal = params.removal if isinstance(params, SimCLR) else Removal()
        self.n_classes = params.n_classes
        rows = self.views * params.batch
        positives = rows / params.n_classes - 1 if classes else self.views - 1
        self.start, self.floor = (
            self.scale * bound for bound in losses.bounds(rows, max(1.0, positives), self.temperature)
        )

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        z = unit(self.projection(encode(torch.cat(list(views)))))
        value, notes = self.of_projections(z, labels, moment)
        return Loss(value, notes | {"spread": spread(z)})

    def of_projections(self, z: Tensor, labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of unit rows, view by view, (views x B, d), of B pictures of this process."""
        local, n_views = len(labels), self.views
        everyone = torch.cat([gathered(part) for part in z.chunk(n_views)])
        classes = gathered(labels).repeat(n_views)
        total = len(classes) // n_views
        first = rank() * local
        itself = torch.cat([torch.arange(first, first + local) + view * total for view in range(n_views)]).to(z.device)
        similarity = z @ everyone.T / self.temperature
        names = classes if self.classes else torch.arange(total, device=z.device).repeat(n_views)
        pairs = losses.pairs(names[itself], names, itself)
        removed, notes = self._removed(similarity, pairs, classes, itself, moment)
        if removed is not None:
            pairs = pairs._replace(negatives=pairs.negatives & ~removed)
        return self.scale * losses.contrastive(similarity, pairs).mean(), notes

    def _removed(
        self, similarity: Tensor, pairs: losses.Pairs, classes: Tensor, itself: Tensor, moment: Moment
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        rule = self.removal
        if rule.strategy == "none":
            return None, {}
        false = classes[itself][:, None] == classes[None]
        if rule.strategy == "oracle":
            removed = removal.known(similarity, pairs.negatives, false)
        else:
            k = rule.count(moment.epoch, moment.epochs, moment.batch, self.n_classes)
            if k == 0:
                return None, {"removed": similarity.new_zeros(()), "removed_false": similarity.new_zeros(())}
            removed = removal.nearest(similarity, pairs.negatives, k, unit=rule.unit, views=self.views)
        rows = len(similarity)
        return removed, {"removed": removed.sum() / rows, "removed_false": (removed & false).sum() / rows}


class SwAVObjective(Objective):
    """Codes of one view, predicted from the other. Source: Caron et al. 2020; lightly's loss and projection, whose norm
    over the batch keeps features from becoming one point.
    """

    def __init__(self, params: SwAV, width: int, examples: int) -> None:
        super().__init__()
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead

        count = examples if params.prototypes == "instances" else params.prototypes
        self.projection = SwaVProjectionHead(width, *params.projection)
        self.prototypes = nn.Linear(params.projection[1], count, bias=False)
        self.loss = SwaVLoss(params.temperature, 3, params.epsilon, world() > 1)
        self.frozen = params.frozen
        self.start, self.floor = float(torch.tensor(float(count)).log()), 0.0

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        z = unit(self.projection(encode(torch.cat(list(views)))))
        scores = exact(self.prototypes(z))
        value = self.loss(list(scores.chunk(self.views)), []).squeeze()
        return Loss(value, {"spread": spread(z)})

    def before_step(self, moment: Moment) -> None:
        if moment.step < self.frozen * moment.steps:
            self.prototypes.weight.grad = None


class MoCoObjective(Objective):
    """A query against a queue of keys from an encoder that lags behind. Source: Chen et al. 2020, MoCo v2."""

    def __init__(self, params: MoCo, width: int, examples: int) -> None:
        super().__init__()
        self.projection = mlp(width, *params.projection)
        self.keys: nn.Module | None = None
        self.queue: Tensor
        self.temperature, self.inertia = params.temperature, params.inertia
        size = params.queue
        self.register_buffer("queue", F.normalize(nn.init.normal_(torch.empty(size, params.projection[1])), dim=1))
        self.start, self.floor = losses.bounds(size + 2, 1, self.temperature)

    def begin(self, encoder: nn.Module) -> None:
        """Keys begin with the encoder's own weights."""
        self.keys = copy.deepcopy(nn.Sequential(encoder, self.projection)).requires_grad_(False)

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        assert self.keys is not None
        queries = unit(self.projection(encode(views[0])))
        with torch.no_grad():
            keys = unit(self.keys(views[1]))
            self.newest = gathered(keys)
        scores = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ self.queue.T], 1) / self.temperature
        return Loss(scores.logsumexp(1).sub(scores[:, 0]).mean(), {"spread": spread(queries)})

    @torch.no_grad()
    def after_step(self, encoder: nn.Module) -> None:
        assert self.keys is not None
        own = nn.Sequential(encoder, self.projection)
        for key, value in zip(self.keys.parameters(), own.parameters(), strict=True):
            key.lerp_(value, 1 - self.inertia)
        self.queue = torch.cat([self.newest, self.queue])[: len(self.queue)]


class SimSiamObjective(Objective):
    """One view predicts the other, which gets no gradient. Source: Chen and He 2021."""

    def __init__(self, params: SimSiam, width: int, examples: int) -> None:
        super().__init__()
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

    def forward(self, encode: nn.Module, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        z = [exact(self.projection(encode(view))) for view in views]
        predicted = [exact(self.prediction(each)) for each in z]
        ways = (losses.negative_cosine(predicted[0], z[1]), losses.negative_cosine(predicted[1], z[0]))
        return Loss(torch.stack([way.mean() for way in ways]).mean(), {"spread": spread(unit(z[0]))})


class Learner(nn.Module):
    """Encoder and objective as one module, so that a process group sees one forward pass a step."""

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        objective.begin(encoder)

    def forward(self, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> Loss:
        loss: Loss = self.objective(self.encoder, views, labels, moment)
        return loss


def exact(x: Tensor) -> Tensor:
    """As it is, but from mixed precision in float32: losses are sums of exponentials."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1."""
    return F.normalize(exact(rows), dim=1)


def spread(z: Tensor) -> Tensor:
    """How far unit rows are from all being the same: 1 for rows all over the sphere, 0 for one point."""
    return (1 - z.detach().mean(0).square().sum()).clamp(min=0).sqrt()


# --- processes -------------------------------------------------------------------------------------------------------


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order, as many of each; gradients go back to where they came from."""
    everyone: Tensor = rows if world() == 1 else _Gathered.apply(rows)
    return everyone


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """What all processes want of these rows, added up."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world())[rank()]
