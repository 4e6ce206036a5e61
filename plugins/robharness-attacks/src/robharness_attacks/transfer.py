"""Input diversity and smoothed gradients: perturbations that also fool models that they were not crafted on.

Both are linear. A row depends on itself alone, so sums are written out: the rounding of a matrix product or of a
convolution may depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robharness import ExampleRNG

DEVIATIONS = 3
"""Standard deviations from the centre of a translation kernel to its edge, as published (Dong et al., 2019)."""


@dataclass(frozen=True)
class ResizeAndPad:
    """Images that become smaller and are padded with zeros to their size, each in its own way (Xie et al., 2019).

    rows, columns: (N, H, H) and (N, W, W), matrices by which the two axes of each image are multiplied. Each of their
        rows and columns has at most two entries that are not 0, as in bilinear shrinking.
    """

    rows: Tensor
    columns: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the transformed images, for x (N, *, H, W)."""
        return _product(_product(x, self.rows, -2), self.columns, -1)

    def adjoint(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to x from that with respect to the transformed images, (N, *, H, W)."""
        gradient = gradient.nan_to_num()  # as 0 times infinity is NaN
        return _product(_product(gradient, self.columns.mT, -1), self.rows.mT, -2)


def draw_transform(rng: ExampleRNG, draw: str, x: Tensor, probability: float, smallest: float) -> ResizeAndPad:
    """Draw a transform for each row of x, (N, *, H, W); the frames of a video share one.

    Sizes are uniform from the smallest to one pixel less than the image's, and so are places.

    draw: name of the random numbers.
    probability: of a change.
    smallest: share of the sides, in (0, 1).
    """
    height, width = x.shape[-2:]
    rows, columns = [], []
    for chance, size, top, left in rng.uniform(draw, (4,)).tolist():
        is_changed = chance < probability
        rows.append(_axis_map(height, smallest, size, top) if is_changed else torch.eye(height))
        columns.append(_axis_map(width, smallest, size, left) if is_changed else torch.eye(width))
    return ResizeAndPad(torch.stack(rows).to(x), torch.stack(columns).to(x))


def smoothed(gradient: Tensor, length: int) -> Tensor:
    """Return the gradient convolved with a Gaussian kernel over the last two axes (Dong et al., 2019), (N, *shape).

    It approximates the mean gradient over translations of the image.

    length: side of the kernel in pixels, odd; 1 changes nothing.
    """
    if length == 1:
        return gradient
    weights = torch.linspace(-DEVIATIONS, DEVIATIONS, length, dtype=torch.float64).square().div(-2).exp()
    shares, side = (weights / weights.sum()).tolist(), length // 2
    gradient = gradient.nan_to_num()
    for axis, sides in ((-1, (side, side)), (-2, (0, 0, side, side))):
        padded, size = functional.pad(gradient, sides), gradient.shape[axis]
        gradient = torch.zeros_like(gradient)
        for start, share in enumerate(shares):
            gradient = gradient + share * padded.narrow(axis, start, size)
    return gradient


def _axis_map(side: int, smallest: float, size: float, place: float) -> Tensor:
    """Return the matrix (side, side) that shrinks an axis bilinearly and pads it; size and place are in [0, 1)."""
    least = max(1, int(side * smallest))
    shrunk = least + int(size * (side - least))
    start = int(place * (side - shrunk + 1))
    unit_vectors = torch.eye(side)[None]  # (1, side, side); torch itself shrinks them, as it would an image
    shrunken = functional.interpolate(unit_vectors, shrunk, mode="linear", align_corners=False)[0]
    return functional.pad(shrunken, (start, side - shrunk - start)).T


def _product(x: Tensor, matrices: Tensor, axis: int) -> Tensor:
    """Multiply an axis of x, (N, *, H, W), by matrices (N, side, side) whose rows have at most two entries."""
    weights, indices = matrices.topk(min(2, matrices.shape[-1]), -1)  # (N, side, 2)
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[axis] = x.shape[axis]
    terms = [
        weights[..., entry].view(shape) * x.gather(axis, indices[..., entry].view(shape).expand_as(x))
        for entry in range(weights.shape[-1])
    ]
    return terms[0] + terms[1] if len(terms) > 1 else terms[0]
