"""An adversarial patch: all values of one square may change, and nothing outside of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from robharness import Batch, Classifier, ExampleRNG, Perturbed
from robharness_attacks.gradient import Best
from robharness_attacks.norms import direction
from robharness_attacks.objectives import clearly_fooled, lead, objective_of
from robharness_attacks.params import PatchParams


def area(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the number of pixels of the smallest square that holds all changed pixels, (N,) float64.

    clean, perturbed: (N, ..., H, W). A pixel is changed if any of its values is, in any channel and any frame.
    """
    changed = (clean != perturbed).flatten(1, -3).any(1)
    side = torch.maximum(_extent(changed.any(2)), _extent(changed.any(1)))
    return side.double().square()


def _extent(marked: Tensor) -> Tensor:
    """Return the number of entries from the first to the last that is marked, (N,) int64; 0 without any."""
    n = marked.shape[1]
    places = torch.arange(n, device=marked.device)
    last = torch.where(marked, places, -1).amax(1)
    return (last - torch.where(marked, places, n).amin(1) + 1).clamp_min(0)


@dataclass(frozen=True)
class Patch:
    """The strongest patch of several places, whose values are optimised by projected gradient ascent.

    A start is uniform in the box, and a step follows the gradient's signs. An example leaves when the model is clearly
    fooled. Places are those where a linear model would lose most, or random ones.

    Notes:
    row, column: of the patch's upper left corner.
    side: of the patch, in pixels.
    """

    params: PatchParams

    def perturb(self, model: Classifier, batch: Batch, eps: float, rng: ExampleRNG) -> Perturbed:
        labels, objective = batch.labels, objective_of(self.params.objective, targeted=False)
        side = min(isqrt(int(min(eps, 2.0**52))), *batch.x.shape[-2:])
        best, corner = Best(batch), torch.zeros(len(batch), 2, dtype=torch.int64, device=labels.device)
        rows = torch.arange(len(batch) if side else 0, device=labels.device)
        corners = self._places(model, batch, side, rng) if side else corner[:, None]
        assert self.params.step is not None
        length = float(self.params.step)
        for place in range(self.params.places):
            if len(rows) == 0:
                break
            origin, at = batch.x[rows], corners[rows, place]
            inside = _inside(at, side, origin)
            x = torch.where(inside, rng.select(rows).uniform(f"start {place}", origin.shape[1:]), origin)
            for step in range(self.params.steps + 1):
                if step < self.params.steps:
                    found = model.gradient(x, labels[rows], objective)
                    fooled = clearly_fooled(found.logits, labels[rows])
                    logits, gradient = model.full_precision_logits(x, found.logits, fooled), found.gradient
                else:
                    logits, gradient = model.logits(x), x
                fooled, leads = clearly_fooled(logits, labels[rows]), lead(logits, labels[rows])
                better = leads > best.rank[rows]
                corner[rows[better]] = at[better]
                best.update(rows, x, leads)
                kept = (~fooled).nonzero().flatten()
                rows, x, at, inside, gradient = rows[kept], x[kept], at[kept], inside[kept], gradient[kept]
                if len(rows) == 0:
                    break
                x = torch.where(inside, (x + length * direction(gradient, "linf")).clamp(0, 1), x)
        sides = torch.full_like(labels, side)
        return Perturbed(x=best.x, notes={"row": corner[:, 0], "column": corner[:, 1], "side": sides})

    def _places(self, model: Classifier, batch: Batch, side: int, rng: ExampleRNG) -> Tensor:
        """Return the upper left corners of the places that are tried, (N, places, 2) int64."""
        down, right = (length - side + 1 for length in batch.x.shape[-2:])
        if self.params.place == "random":
            found = [rng.uniform(f"place {place}", (2,)) for place in range(self.params.places)]
            counts = torch.tensor([down, right], device=batch.x.device)
            return torch.minimum((torch.stack(found, 1) * counts).long(), counts - 1)
        gradient = batch.gradient(model, objective_of(self.params.objective, targeted=False)).gradient.nan_to_num()
        gain = gradient.double() * ((gradient > 0).double() - batch.x.double())
        total = torch.nn.functional.pad(gain.flatten(1, -3).sum(1), (1, 0, 1, 0)).cumsum(1).cumsum(2)
        gains = total[:, side:, side:] - total[:, :-side, side:] - total[:, side:, :-side] + total[:, :-side, :-side]
        order = gains.flatten(1).sort(dim=1, descending=True, stable=True).indices
        chosen = order[:, torch.arange(self.params.places, device=order.device) % order.shape[1]]
        return torch.stack([chosen // right, chosen % right], 2)


def _inside(corner: Tensor, side: int, like: Tensor) -> Tensor:
    """Return whether a pixel lies in the patch, (n, 1, ..., H, W) bool, of as many axes as `like`.

    corner: (n, 2), row and column.
    """
    marks = []
    for axis, length in enumerate(like.shape[-2:]):
        places = torch.arange(length, device=like.device)
        first = corner[:, axis, None]
        marks.append((places >= first) & (places < first + side))
    inside = marks[0][:, :, None] & marks[1][:, None, :]
    return inside.view(len(inside), *[1] * (like.ndim - 3), *like.shape[-2:])
