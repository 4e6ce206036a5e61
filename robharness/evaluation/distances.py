"""Sizes of perturbations in the norms, per example in float64, with bits that do not depend on other examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DISTANCE_BATCH = 64
"""Number of examples whose distances are computed together on a GPU: 80 MB in float64 at 224 px."""


def linf(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the largest change of a value per example, (N,) float64."""
    return _sizes(clean, perturbed, lambda d: d.abs_().amax(), lambda d: d.abs_().amax(1))


def l2(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the Euclidean length of the change per example, (N,) float64."""
    return _sizes(clean, perturbed, torch.linalg.vector_norm, lambda d: _row_sum(d.square_()).sqrt())


def l1(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the sum of absolute changes per example, (N,) float64."""
    return _sizes(clean, perturbed, lambda d: d.abs_().sum(), lambda d: _row_sum(d.abs_()))


def l0(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the number of values, channels of pixels, that differ per example, (N,) float64."""
    return (clean != perturbed).flatten(1).sum(1).double()


def l0_pixels(clean: Tensor, perturbed: Tensor) -> Tensor:
    """Return the number of pixels of which any channel differs per example, (N,) float64; of a video in each frame."""
    return (clean != perturbed).any(1).flatten(1).sum(1).double()


Length = Callable[[Tensor], Tensor]


def _sizes(clean: Tensor, perturbed: Tensor, of_one: Length, of_rows: Length) -> Tensor:
    """Return the lengths of perturbed - clean, (N,) float64.

    On the CPU, examples are computed one by one, which fits the cache and is four times faster. On other devices many
    are computed together and summed in a fixed order, since launching a kernel per example would take most of the time.

    of_one: the length of one change, of any shape.
    of_rows: the lengths of rows, (n, k) -> (n,), whose bits do not depend on n.
    """
    if clean.device.type == "cpu":
        return torch.stack([of_one(one.double().sub_(of)) for one, of in zip(perturbed, clean, strict=True)])
    batches = zip(torch.split(perturbed, DISTANCE_BATCH), torch.split(clean, DISTANCE_BATCH), strict=True)
    return torch.cat([of_rows((some.double() - of).flatten(1)) for some, of in batches])


def _row_sum(values: Tensor) -> Tensor:
    """Sum rows, (N, k) -> (N,), by adding halves: torch's own order of summation depends on the number of rows."""
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        left, right = values[:, :half].clone(), values[:, half:]
        left[:, : right.shape[1]] += right
        values = left
    return values[:, 0]
